"""What tensors show of a network: its name, what was changed in it, and what to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import resdet
from resdet.backbones import build_backbone
from resdet.errors import UserError
from resdet.factory.network import check_kind
from resdet.interop.architecture import architecture_of, mismatch, with_last_layer
from resdet.interop.fitting import load_backbone, load_detector
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision.classifiers import recognises
from resdet.interop.weights import read_weights
from tests.models.tiny import tiny_model

State = dict[str, Tensor]


def theirs(name: str, **options: Any) -> State:
    """The tensors of torchvision's network on the meta device: their shapes are enough."""
    with torch.device("meta"):
        return dict(torchvision.models.get_model(name, weights=None, **options).state_dict())


def changed(name: str = "resnet18", **parts: nn.Module) -> State:
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    for part, module in parts.items():
        setattr(model, part, module)
    return dict(model.state_dict())


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "googlenet"]
)
def test_networks_that_resdet_has(name: str) -> None:
    shown = architecture_of(theirs(name))
    assert shown is not None
    assert (shown.name, shown.is_known, shown.misfits, shown.remedy) == (name, True, (), "")
    assert shown.described.startswith(("a classifier, ", f"{name} with a head"))
    with torch.device("meta"):
        own = build_backbone(name).state_dict()
    bare = architecture_of(own)
    assert bare is not None
    assert bare.described == f"a backbone, {name} without a head"


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext101_64x4d", "wide_resnet101_2"])
def test_networks_that_resdet_lacks(name: str) -> None:
    shown = architecture_of(theirs(name))
    assert shown is not None
    assert (shown.name, shown.is_known) == (name, False)
    with torch.device("meta"):
        own = build_backbone("resnet50").state_dict()
    text = mismatch(own, theirs(name), LoadedWeights({}, "backbone", None, "w.pth"))
    assert text is not None
    start = (
        f"w.pth holds {name}, and model.backbone.name is resnet50; give weights of resnet50, as "
    )
    assert text.startswith(f"{start}resdet does not have {name} (")
    assert len(text) < 300


def conv(c_in: int, size: int) -> nn.Module:
    return nn.Conv2d(c_in, 64, size, bias=False, device="meta")


@pytest.mark.parametrize(
    ("state", "words", "advice"),
    [
        (
            changed(conv1=conv(1, 7)),
            r"a classifier, resnet18 with conv1\.weight \(64, 1, 7, 7\) in place of \(64, 3,",
            r"for gray images read as RGB, save conv1\.weight\.repeat\(1, 3, 1, 1\) / 3",
        ),
        (
            changed(conv1=conv(4, 7)),
            r"a classifier, resnet18 with conv1\.weight \(64, 4, 7, 7\)",
            r"save conv1\.weight\[:, :3\]",
        ),
        (
            changed(conv1=conv(3, 3), maxpool=nn.Identity()),
            r"a classifier, resnet18 with conv1\.weight \(64, 3, 3, 3\) in place of",
            "register the network as a backbone of your own",
        ),
        (
            changed(fc=nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5))),
            r"resnet18 with a head of its own, fc\.0\.weight, fc\.2\.weight, not a",
            r"set it as model\.backbone\.weights",
        ),
        (changed(fc=nn.Identity()), "a backbone, resnet18 without a head", "set it as model.back"),
        (theirs("resnext50_32x4d"), "a classifier, resnext50_32x4d, which", "or register resnext"),
        (theirs("densenet121"), "a network that resdet does not know, with the", "a run folder"),
    ],
    ids=["gray", "four channels", "small images", "two layers", "no fc", "resnext", "densenet"],
)
def test_what_a_file_holds_is_said(state: State, words: str, advice: str) -> None:
    weights = LoadedWeights(state, "backbone", None, "w.pth")
    for kind in ("classifier", "detector"):
        with pytest.raises(UserError, match=rf"^w\.pth holds {words}.*; .*{advice}") as caught:
            check_kind(weights, kind)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "head",
    [
        {"fc": nn.Sequential(nn.Dropout(), nn.Linear(512, 5))},
        {"fc": nn.Identity(), "classifier": nn.Linear(512, 5)},
        {"fc": nn.Identity(), "head": nn.ModuleDict({"out": nn.Linear(512, 5, bias=False)})},
    ],
    ids=["after dropout", "another name", "without bias"],
)
def test_the_one_last_layer_is_found(head: dict[str, nn.Module]) -> None:
    state = with_last_layer(changed(**head), {"loss.weight": torch.ones(5)}, "w.pth")
    assert state.keys() == theirs("resnet18").keys()
    assert state["fc.weight"].shape == (5, 512)
    assert state["fc.bias"].shape == (5,)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.BatchNorm1d(512), nn.Linear(512, 5)),
        nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 5)),
        nn.Sequential(nn.Linear(1024, 5)),
        nn.Conv2d(512, 5, 1),
    ],
    ids=["batch norm", "layer norm", "of two poolings", "a convolution"],
)
def test_other_heads_are_not_taken_for_it(head: nn.Module) -> None:
    state = changed(fc=nn.Identity(), head=head)
    assert with_last_layer(state, {}, "w.pth") is state


def test_a_head_after_dropout_gives_the_same_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 5))
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    ours = resdet.load(str(tmp_path / "w.ckpt"), device="cpu")
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model.eval()(image)
        actual = ours.head(ours.backbone(image))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_variants_of_timm_are_not_taken_for_the_plain_network() -> None:
    """resnet18c and 18d have three convolutions before the first stage; 18d pools in shortcuts."""
    state = theirs("resnet18")
    del state["conv1.weight"]
    state |= {f"conv1.{at}.weight": torch.empty(32, 32, 3, 3, device="meta") for at in (0, 3, 6)}
    pooled = {"layer2.0.downsample.1.weight": torch.empty(128, 64, 1, 1, device="meta")}
    for name, tensors in (("resnet18c", state), ("resnet18d", {**state, **pooled})):
        shown = architecture_of(tensors)
        assert shown is not None
        assert (shown.name, shown.is_known) == (name, False)
        assert not recognises(tensors)


def test_an_encoder_starts_a_detector(tmp_path: Path) -> None:
    """MoCo's file as model.backbone.weights, and what it is called as model.weights."""
    net = build_backbone("resnet18").state_dict()
    projection = {"fc.0.weight": torch.zeros(512, 512), "fc.2.weight": torch.zeros(8, 512)}
    moco = {f"module.encoder_q.{key}": value for key, value in {**net, **projection}.items()}
    moco |= {f"module.encoder_k.{key}": value + 1 for key, value in net.items()}
    torch.save({"arch": "resnet18", "state_dict": moco}, tmp_path / "moco.pth")
    weights = read_weights(str(tmp_path / "moco.pth"))
    backbone = build_backbone("resnet18")
    lines = load_backbone(backbone, weights)
    assert lines[1:] == ["left out, the classifier: fc.0.weight, fc.2.weight"]
    assert all(torch.equal(value, net[key]) for key, value in backbone.state_dict().items())
    with pytest.raises(UserError, match=r"under encoder_q\.\), not a detector of resdet; it belon"):
        load_detector(tiny_model(), weights)


def test_a_detector_of_another_depth(tmp_path: Path) -> None:
    norm = {"backbone": {"norm": "bn"}}
    there, here = tiny_model(norm), tiny_model({"backbone": {"name": "resnet34", "norm": "bn"}})
    weights = LoadedWeights(dict(there.state_dict()), "detector", None, "w.pth")
    with pytest.raises(UserError, match=r"holds resnet18, .* is resnet34; set model\.backbone\.na"):
        load_detector(here, weights)


def test_projections_beside_the_backbone_are_left_out() -> None:
    """SwAV keeps them at the same level."""
    net = build_backbone("resnet18")
    extra = {"projection_head.0.weight": torch.zeros(2, 2), "prototypes.weight": torch.zeros(2, 2)}
    weights = LoadedWeights({**net.state_dict(), **extra}, "backbone", None, "w.pth")
    lines = load_backbone(build_backbone("resnet18"), weights)
    assert lines[-1].startswith("left out, 2 tensors beside the backbone: projection_head.0.weight")
