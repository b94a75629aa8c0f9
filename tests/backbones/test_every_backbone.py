"""What holds for every network of the registry that a detector can stand on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resdet.backbones import build_backbone, list_backbones

CHANNELS = {"c2": 256, "c3": 512, "c4": 1024, "c5": 2048}
BASIC = {"c2": 64, "c3": 128, "c4": 256, "c5": 512}
EXPECTED = {
    "googlenet": {"c2": 192, "c3": 480, "c4": 832, "c5": 1024},
    "plain18": BASIC,
    "plain34": BASIC,
    "plain50": CHANNELS,
    "preact_resnet18": BASIC,
    "preact_resnet34": BASIC,
    "preact_resnet50": CHANNELS,
    "preact_resnet101": CHANNELS,
    "preact_resnet152": CHANNELS,
    "resnet18": BASIC,
    "resnet34": BASIC,
    "resnet50": CHANNELS,
    "resnet101": CHANNELS,
    "resnet152": CHANNELS,
    "vgg16": {"c2": 256, "c3": 512, "c4": 512, "c5": 512},
    "vgg19": {"c2": 256, "c3": 512, "c4": 512, "c5": 512},
}
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
FAMILIES = ("resnet18", "resnet50", "plain18", "preact_resnet18", "vgg16", "googlenet", "highway19")
RECOMPUTED: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"norm": "gn"}),
    ("resnet50", {"stochastic_depth": 0.5}),
    ("plain18", {}),
    ("preact_resnet18", {"stochastic_depth": 0.5}),
    ("vgg16", {"norm": "bn"}),
    ("googlenet", {"norm": "none"}),
    ("googlenet", {}),
    ("highway19", {}),
]


PARAMETERS = Path(__file__).with_name("parameters.json")


def step(backbone: nn.Module, images: Tensor, lr: float = 0.1) -> dict[str, Tensor]:
    """One training step that pulls on every map; returns the maps."""
    features = backbone(images)
    loss = torch.stack([value.square().mean() for value in features.values()]).sum()
    assert torch.isfinite(loss)
    loss.backward()
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
    return features


def test_every_detection_backbone_is_tested_here() -> None:
    found = {
        name for name in list_backbones() if not name.startswith(("cifar", "highway", "golden"))
    }
    assert found == set(EXPECTED)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith(("101", "152")) else name
        for name in EXPECTED
    ],
)
def test_maps_and_one_step(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(name).train()
    assert backbone.channels == EXPECTED[name]
    assert backbone.strides == STRIDES
    features = step(backbone, torch.randn(2, 3, 64, 96))
    assert list(features) == list(STRIDES)
    for level, value in features.items():
        assert value.shape == (2, EXPECTED[name][level], 64 // STRIDES[level], 96 // STRIDES[level])
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_stages_give_the_same_maps_after_a_step(name: str) -> None:
    torch.manual_seed(0)
    norm = "none" if name == "highway19" else "bn"
    backbone = build_backbone(name, {"norm": norm})
    if name == "highway19":
        backbone.dropout.p = 0.0
    backbone.freeze_stages(3)
    backbone.train()
    images = torch.randn(2, 3, 64, 96)
    before = step(backbone, images)
    after = backbone(images)
    fixed, moving = list(before)[:2], list(before)[2:]
    for level in fixed:
        assert torch.equal(before[level], after[level]), level
    for level in moving:
        assert not torch.equal(before[level], after[level]), level
    backbone.freeze_stages(5)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


@pytest.mark.parametrize(("name", "options"), RECOMPUTED)
def test_activation_checkpointing_changes_nothing(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = build_backbone(name, options).train()
    saving = build_backbone(name, {**options, "activation_checkpointing": True}).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32)
    for backbone in (plain, saving):
        torch.manual_seed(5)
        features = backbone(images)
        torch.rand(7)  # the backward pass must not depend on where the generator stands
        torch.stack([value.square().mean() for value in features.values()]).sum().backward()
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda text, key=key: f"{key}: {text}")
    for one, other in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other)


def test_parameter_names_and_order_are_kept() -> None:
    """Checkpoints and optimizer states depend on them: [tensors, SHA-256 of names and shapes]."""
    found = {}
    for name in list_backbones():
        if name.startswith("golden"):
            continue
        with torch.device("meta"):
            backbone = build_backbone(name)
        shapes = [f"{key} {tuple(value.shape)}" for key, value in backbone.state_dict().items()]
        shapes += [key for key, _ in backbone.named_parameters()]
        found[name] = [len(shapes), hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16]]
    assert found == json.loads(PARAMETERS.read_text())
