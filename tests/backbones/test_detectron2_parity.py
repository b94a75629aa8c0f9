"""ResNet and FPN give Detectron2's features and gradients on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resdet.backbones import build_backbone
from resdet.models.fpn import FPN
from tests.fixtures.names import assert_gradients, gradient_errors, load
from tests.fixtures.recipe import Fixture, normal, pyramid, relative_error

NORMS = {"FrozenBN": "frozen_bn", "GN": "gn", "BN": "bn", "": "none"}


def backward(outputs: dict[str, Tensor], seed: int) -> None:
    total = sum(
        (value * torch.from_numpy(normal(seed + index, *value.shape)).to(value.dtype)).sum()
        for index, value in enumerate(outputs.values())
    )
    assert isinstance(total, Tensor)
    total.backward()


@pytest.fixture(scope="module")
def backbones() -> Fixture:
    return Fixture("detectron2_backbone")


@pytest.mark.parametrize(
    "case",
    ["r18_frozen", "r18_gn", "r18_bn", "r50_frozen_1x1", "r50_gn_3x3", "r50_frozen_dc5"],
)
def test_resnet(backbones: Fixture, case: str) -> None:
    facts = backbones.facts(case)
    given = facts["options"]
    options = {"norm": NORMS[given["NORM"]], "res5_dilation": given.get("RES5_DILATION", 1)}
    if given["DEPTH"] >= 50:
        options["stride_in_1x1"] = given["STRIDE_IN_1X1"]
    net = build_backbone(f"resnet{given['DEPTH']}", options).train()
    load(net, backbones.state(case))
    image = torch.from_numpy(normal(facts["image_seed"], *facts["image"]))
    double = facts["dtype"] == "float64"
    if double:
        net, image = net.double(), image.double()
    image.requires_grad_()
    outputs = net(image)
    backward(outputs, facts["cotangent_seed"])

    limit = 1e-9 if double else 1e-5
    for name, value in outputs.items():
        reference = backbones[f"{case}/output/res{name[1:]}"]
        assert relative_error(value.detach().numpy(), reference) <= limit, name
    assert_gradients(gradient_errors(net, backbones.group(f"{case}/grad")), limit)
    assert image.grad is not None
    reference = backbones[f"{case}/grad_features/image"]
    assert relative_error(image.grad.numpy(), reference) <= limit


@pytest.mark.parametrize("case", ["fpn_none", "fpn_gn"])
def test_fpn(case: str) -> None:
    fixture = Fixture("detectron2_fpn")
    facts = fixture.facts(case)
    channels = {f"c{n}": c for n, c in zip(range(2, 6), facts["in_channels"], strict=True)}
    strides = {f"c{n}": 2**n for n in range(2, 6)}
    fpn = FPN(
        channels, strides, out_channels=facts["out_channels"], norm=NORMS[facts["norm"]]
    ).train()
    load(fpn, fixture.state(case))
    features = {}
    for name, width in channels.items():
        maps = pyramid(facts["features_seed"], 2, width, tuple(facts["size"]))["p" + name[1:]]
        features[name] = torch.from_numpy(maps).requires_grad_()
    outputs = fpn(features)
    backward(outputs, facts["cotangent_seed"])

    assert list(outputs) == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in outputs.items():
        assert relative_error(value.detach().numpy(), fixture[f"{case}/output/{name}"]) <= 1e-6
    assert_gradients(gradient_errors(fpn, fixture.group(f"{case}/grad")))
    for name, feature in features.items():
        assert feature.grad is not None
        reference = fixture[f"{case}/grad_features/res{name[1:]}"]
        assert relative_error(feature.grad.numpy(), reference) <= 1e-5, name


def test_the_sketch_sees_a_single_wrong_element() -> None:
    """The estimate behind ‖Δ‖/‖g‖ is no blunter than the norm itself."""
    from tests.fixtures.recipe import sketch

    values = normal(0, 300, 200)
    reference = sketch(values)
    assert relative_error(values, reference) == 0
    changed = values.copy()
    changed[7, 9] += np.float32(1e-3 * np.linalg.norm(values))
    assert relative_error(changed, reference) == pytest.approx(1e-3, rel=0.3)
