"""Parameters and multiply-adds of the networks, as the papers and their authors print them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from resdet.analysis.counts import count_network, count_parameters
from resdet.models.classifier import Classifier
from tests.backbones.classifiers import build

V1 = {"stride_in_1x1": True}
# With 1000 classes. ResNets: He et al. 2016, table 1, counted; A, B, C are shortcut options.
PARAMETERS: list[tuple[str, dict[str, Any], int]] = [
    ("resnet18", {}, 11_689_512),
    ("resnet18", {"shortcut": "A"}, 11_515_688),
    ("resnet34", {"shortcut": "A"}, 21_623_848),
    ("resnet34", {"shortcut": "B"}, 21_797_672),
    ("resnet34", {"shortcut": "C"}, 22_716_840),
    ("resnet50", {}, 25_557_032),
    ("resnet50", V1, 25_557_032),
    ("resnet101", {}, 44_549_160),
    ("resnet152", {}, 60_192_808),
    ("plain18", {}, 11_515_688),
    ("plain34", {}, 21_623_848),
    # torchvision's documentation of its weights
    ("vgg16", {}, 138_357_544),
    ("vgg16", {"norm": "bn"}, 138_365_992),
    ("vgg19", {}, 143_667_240),
    ("vgg19", {"norm": "bn"}, 143_678_248),
    ("googlenet", {"branch5_kernel": 3, "aux": False}, 6_624_904),
]
# In 10⁹ at 224×224, to the digits printed.
MULTIPLY_ADDS: list[tuple[str, dict[str, Any], str]] = [
    ("resnet18", {"shortcut": "A"}, "1.795"),
    ("resnet18", {"shortcut": "B"}, "1.814"),
    ("resnet34", {"shortcut": "A"}, "3.644"),
    ("resnet34", {"shortcut": "B"}, "3.664"),
    ("resnet50", V1, "3.858"),
    ("resnet50", {}, "4.089"),
    ("resnet101", V1, "7.570"),
    ("resnet101", {}, "7.801"),
    ("resnet152", V1, "11.282"),
    ("resnet152", {}, "11.514"),
    ("plain18", {}, "1.795"),
    ("plain34", {}, "3.644"),
    ("vgg16", {}, "15.47"),
    ("vgg19", {}, "19.63"),
]


def label(value: object) -> str:
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def on_meta(name: str, options: dict[str, Any], num_classes: int = 1000) -> Classifier:
    with torch.device("meta"):
        return build(name, options, num_classes).eval()


@pytest.mark.parametrize(("name", "options", "count"), PARAMETERS, ids=label)
def test_parameters(name: str, options: dict[str, Any], count: int) -> None:
    assert count_parameters(on_meta(name, options)) == count


@pytest.mark.parametrize(("name", "options", "printed"), MULTIPLY_ADDS, ids=label)
def test_multiply_adds(name: str, options: dict[str, Any], printed: str) -> None:
    counted = count_network(on_meta(name, options), (224, 224)).multiply_adds / 1e9
    assert f"{counted:.{len(printed.partition('.')[2])}f}" == printed


def test_plain34_takes_18_percent_of_vgg19() -> None:
    """He et al. 2016, 3.3."""
    plain = count_network(on_meta("plain34", {}), (224, 224)).multiply_adds
    vgg = count_network(on_meta("vgg19", {}), (224, 224)).multiply_adds
    assert 0.18 <= plain / vgg < 0.19


def test_the_papers_googlenet_differs_from_torchvisions_as_it_should() -> None:
    """Biases in place of two numbers a channel, and 25 weights in place of 9 in the 5×5 branch."""
    with torch.device("meta"):
        theirs = torchvision.models.googlenet(aux_logits=False, init_weights=False)
    norms = [m.num_features for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
    fives = [m.branch3[1].conv for m in theirs.children() if hasattr(m, "branch3")]
    assert len(fives) == 9
    more = sum(conv.in_channels * conv.out_channels * (25 - 9) for conv in fives)
    ours = count_parameters(on_meta("googlenet", {"norm": "none", "aux": False}))
    assert ours == count_parameters(theirs) - sum(norms) + more
    assert 6.5e6 < ours < 7e6  # the rows of table 1 add up to 6.8 M


def test_highway_networks_have_the_papers_millions() -> None:
    """Srivastava et al. 2015b, table 2: ~2.3 M and ~1.25 M; the former as in the authors' code."""
    assert count_parameters(on_meta("highway19", {}, 10)) == 2_256_838
    thin = count_parameters(on_meta("highway32", {}, 10))
    assert thin == pytest.approx(1.25e6, rel=0.02)
