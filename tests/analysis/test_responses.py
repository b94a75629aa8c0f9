"""Layer responses against numbers computed by hand, and of a run on real CIFAR images."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from resdet.analysis.responses import measure_responses, run_responses
from resdet.backbones import build_backbone
from resdet.commands.analyze import analyze_command
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import config_to_dict, load_config
from resdet.errors import UserError
from resdet.factory.classification import build_classifier

NAMES = [f"class {number}" for number in range(10)]
IMAGES = 30


class Tiny(nn.Module):
    """A 1×1 layer that is passed over, a 3×3 layer with a norm, then a block with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Conv2d(3, 4, 1)
        self.bn0 = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        for norm in (self.bn0, self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn0(self.point(x)))
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + x)


def by_hand(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """conv and norm of x in float64, from their definitions."""
    y = nn.functional.conv2d(x, conv.weight.double(), conv.bias.double(), padding=conv.padding)
    mean, var = (t.double()[:, None, None] for t in (norm.running_mean, norm.running_var))
    scale, shift = (t.double()[:, None, None] for t in (norm.weight, norm.bias))
    return (y - mean) / (var + norm.eps).sqrt() * scale + shift


def test_after_the_norm_before_nonlinearity_and_addition() -> None:
    torch.manual_seed(0)
    model = Tiny().eval()
    images = torch.randn(7, 3, 6, 5)
    found = measure_responses(model, images.split(3))
    x = by_hand(model.point, model.bn0, images.double()).relu()
    first = by_hand(model.conv1, model.bn1, x)
    second = by_hand(model.conv2, model.bn2, first.relu())
    assert [(r.layer, r.measured) for r in found] == [("conv1", "bn1"), ("conv2", "bn2")]
    assert found[0].std == pytest.approx(first.std(correction=0).item(), rel=1e-5)
    assert found[1].std == pytest.approx(second.std(correction=0).item(), rel=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "layers", "first", "last"),
    [
        ("cifar_resnet20", 19, "bn1", "layer3.2.bn2"),
        ("cifar_plain20", 19, "bn1", "layer3.2.bn2"),
        ("resnet18", 16, "layer1.0.bn1", "layer4.1.bn2"),
        # shortcuts and 1×1 layers are none of them
        ("resnet50", 16, "layer1.0.bn2", "layer4.2.bn2"),
        # the norm comes before: the output of the convolution itself
        ("cifar_preact_resnet20", 19, "conv1", "layer3.2.conv2"),
        ("vgg16", 13, "features.0", "features.28"),
    ],
)
def test_the_registrys_networks(name: str, layers: int, first: str, last: str) -> None:
    model = build_backbone(name).eval()
    found = measure_responses(model, [torch.randn(1, 3, 32, 32)])
    assert len(found) == layers
    assert all(response.std > 0 for response in found)
    assert (found[0].measured, found[-1].measured) == (first, last)


def test_frozen_norms_count_as_norms() -> None:
    model = build_backbone("cifar_resnet20", {"norm": "frozen_bn"}).eval()
    found = measure_responses(model, [torch.randn(1, 3, 32, 32)])
    assert found[-1].measured == "layer3.2.bn2"


def test_a_network_without_3x3_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no 3×3 convolution"):
        measure_responses(nn.Conv2d(3, 4, 1).eval(), [torch.randn(1, 3, 8, 8)])


@pytest.fixture(scope="module")
def cifar(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 real test images in the official layout."""
    packed = shared_data / "cifar10" / "lossless"
    with Image.open(packed / "test_000.webp") as strip:
        pixels = np.asarray(strip.convert("RGB")).reshape(-1, 32, 32, 3)[:IMAGES]
    labels = np.load(packed / "labels.npz")
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batch = {
        b"data": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(IMAGES, 3072),
        b"labels": [int(label) for label in labels["test"][:IMAGES]],
    }
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    meta = {b"label_names": [name.encode() for name in NAMES]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    return root


@pytest.fixture(scope="module")
def runs(cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of a plain and a residual run whose norms have seen a few batches."""
    folders = []
    for name in ("cifar_plain20", "cifar_resnet20"):
        torch.manual_seed(0)
        overrides = [f"model.backbone.name={name}", f"data.root={cifar}"]
        config = load_config("cifar10_resnet20", overrides, schema=ClassificationConfig)
        model = build_classifier(config, class_names=NAMES, pixel_mean=torch.full((3, 32, 32), 120))
        with torch.no_grad():
            for _ in range(3):
                model.train()(torch.randn(16, 3, 32, 32))
        folder = tmp_path_factory.mktemp("runs") / name
        folder.mkdir()
        checkpoint = {
            "format": 1,
            "kind": "classifier",
            "config": config_to_dict(config),
            "class_names": NAMES,
            "category_ids": [],
            "step": 3,
            "model": model.state_dict(),
            "ema": None,
        }
        torch.save(checkpoint, folder / "last.pt")
        folders.append(folder)
    return folders


def test_a_run_is_measured_on_its_validation_images(runs: list[Path]) -> None:
    run = run_responses(str(runs[1]), name="it", num_images=20, device=torch.device("cpu"))
    assert (run.name, run.num_images, run.after_norm, len(run.layers)) == ("it", 20, True, 19)
    whole = run_responses(str(runs[1]), name="it", num_images=999, device=torch.device("cpu"))
    assert whole.num_images == IMAGES
    assert whole.layers[0].std != run.layers[0].std
    assert whole.layers[0].std == pytest.approx(run.layers[0].std, rel=0.3)


def test_the_command_writes_figure_and_numbers(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = analyze_command(
        responses=[str(run) for run in runs], out=tmp_path / "o", device="cpu"
    )
    assert [path.name for path in written] == ["responses.json", "responses.png"]
    saved = json.loads(written[0].read_text())
    assert [run["name"] for run in saved] == ["cifar_plain20", "cifar_resnet20"]
    stem = {"layer": "backbone.conv1", "measured": "backbone.bn1"}
    assert saved[0]["layers"][0].items() >= stem.items()
    printed = capsys.readouterr().out
    assert "cifar_plain20" in printed and "after the norm" in printed
