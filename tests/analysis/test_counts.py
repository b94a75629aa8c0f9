"""Counts against the paper, published parameter counts, and what autograd really keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from resdet.analysis.counts import count_network, count_parameters
from resdet.analysis.networks import count_named, count_with_head

# name, options, weighted layers, parameters, 10^9 multiply-adds at 224×224
PAPER = [
    ("resnet18", {}, 18, 11_689_512, 1.814),
    ("resnet18", {"shortcut": "A"}, 18, 11_515_688, 1.795),
    ("plain18", {}, 18, 11_515_688, 1.795),
    ("resnet34", {"shortcut": "A"}, 34, 21_623_848, 3.644),
    ("resnet34", {}, 34, 21_797_672, 3.664),
    ("resnet50", {}, 50, 25_557_032, 4.089),
    ("resnet50", {"stride_in_1x1": True}, 50, 25_557_032, 3.858),
    ("resnet101", {"stride_in_1x1": True}, 101, 44_549_160, 7.570),
    ("resnet152", {"stride_in_1x1": True}, 152, 60_192_808, 11.282),
    ("vgg16", {}, 16, 138_357_544, 15.47),
    ("vgg19", {}, 19, 143_667_240, 19.63),
]
CIFAR = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize(("name", "options", "depth", "parameters", "giga"), PAPER)
def test_the_papers_networks(
    name: str, options: dict[str, object], depth: int, parameters: int, giga: float
) -> None:
    network = count_with_head(name, options)
    digits = 2 if giga > 15 else 3
    assert network.count.depth == depth
    assert network.count.parameters == parameters
    assert round(network.count.multiply_adds / 1e9, digits) == giga
    assert (network.num_classes, network.count.image_size) == (1000, (224, 224))


@pytest.mark.parametrize("depth", CIFAR)
def test_the_papers_cifar_networks(depth: int) -> None:
    for family in ("cifar_plain", "cifar_resnet"):
        network = count_named(f"{family}{depth}")
        assert (network.count.depth, network.count.parameters) == (depth, CIFAR[depth])
        assert (network.num_classes, network.count.image_size) == (10, (32, 32))


def test_googlenet_is_22_layers_deep_and_its_auxiliary_classifiers_train_only() -> None:
    with torch.device("meta"):
        network = torchvision.models.googlenet(init_weights=False)
    count = count_network(network, (224, 224))
    assert (count.depth, count.parameters) == (22, 13_004_888)
    auxiliary = count_parameters(network.aux1) + count_parameters(network.aux2)
    assert count.training_only == auxiliary > 0
    # torchvision's documentation of the weights: 1.5 GFLOPS
    assert round(count.multiply_adds / 1e9, 1) == 1.5


@pytest.mark.parametrize(
    ("build", "giga"),
    [
        (torchvision.models.mobilenet_v3_large, 0.22),  # grouped convolutions
        (torchvision.models.densenet121, 2.83),
        (torchvision.models.resnext50_32x4d, 4.23),
    ],
)
def test_multiply_adds_as_torchvision_documents_them(
    build: Callable[[], nn.Module], giga: float
) -> None:
    with torch.device("meta"):
        network = build()
    assert count_network(network, (224, 224)).multiply_adds / 1e9 == pytest.approx(giga, abs=0.006)


class Branched(nn.Module):
    """A stem, two branches of one and two layers, a transposed convolution, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Conv2d(4, 6, 1, bias=False)
        self.long = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 6, 1))
        self.up = nn.ConvTranspose2d(6, 2, 2, stride=2)
        self.fc = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.up(self.relu(self.short(x) + self.long(x)))
        return self.fc(self.relu(x.mean((2, 3))))


def test_by_hand() -> None:
    model = Branched().train()
    count = count_network(model, (8, 12))
    assert count.depth == 5  # the stem, the long branch, up, fc
    macs = {row.name: row.multiply_adds for row in count.layers if row.multiply_adds}
    assert macs == {
        "stem": 4 * 24 * 27,
        "short": 6 * 24 * 4,
        "long.0": 4 * 24 * 18,
        "long.1": 6 * 24 * 4,
        "up": 6 * 24 * 8,
        "fc": 10,
    }
    assert count.multiply_adds == sum(macs.values())
    assert sum(row.parameters for row in count.layers) == count_parameters(model)
    rows = {row.name: row for row in count_network(model, (8, 12)).layers}
    assert list(rows) == ["stem", "relu", "short", "long.0", "long.1", "up", "fc"]
    assert (rows["up"].kind, rows["up"].output) == ("ConvTranspose2d", (2, 8, 12))
    assert model.training and model.stem.weight.device.type == "cpu"
    assert not any(module._forward_hooks for module in model.modules())


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """What autograd really keeps of a forward pass on the CPU, parameters and buffers left out."""
    fixed = {t.untyped_storage().data_ptr() for t in model.state_dict(keep_vars=True).values()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda kept: kept):
        output = model(images)
    del output
    return sum(s.nbytes() for pointer, s in storages.items() if pointer not in fixed)


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.mobilenet_v2])
def test_activations_are_what_autograd_keeps(build: Callable[..., nn.Module]) -> None:
    model = build(num_classes=64).train()
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0  # whose mask is not counted
    counted = count_network(model, (96, 64)).activation_bytes
    assert counted == kept_bytes(model, torch.randn(1, 3, 96, 64))
    assert counted > 1_000_000


def test_frozen_layers_keep_no_activations() -> None:
    whole = count_with_head("resnet18", {}).count.activation_bytes
    model = torchvision.models.resnet18()
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    assert count_network(model, (224, 224)).activation_bytes == 512 * 4 < whole
