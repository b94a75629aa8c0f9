"""torchvision:NAME.WEIGHTS without network: a random file stands for the published one."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import zlib
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import ResNet18_Weights, resnet18

from resdet.backbones import build_backbone
from resdet.errors import UserError
from resdet.inference.classify import IMAGENET_CRC
from resdet.interop import torchvision as interop
from resdet.interop.torchvision import (
    CLASSIFIERS,
    backbone_for,
    classifier_state,
    fetch,
    weights_url,
)
from resdet.interop.weights import load_backbone
from tests.backbones import classifiers

SPEC = "torchvision:resnet18.IMAGENET1K_V1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file named after its own hash, to which a file:// address is resolved."""
    plain = tmp_path / "plain.pth"
    torch.save(resnet18().state_dict(), plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    path = tmp_path / "server" / f"resnet18-{digest[:8]}.pth"
    path.parent.mkdir()
    shutil.move(plain, path)
    monkeypatch.setattr("resdet.interop.torchvision.weights_url", lambda spec: path.as_uri())
    return path


def test_names_resolve_to_the_published_file() -> None:
    assert weights_url(SPEC) == ResNet18_Weights.IMAGENET1K_V1.url
    assert weights_url("torchvision:resnet101.IMAGENET1K_V1").endswith("resnet101-63fe2227.pth")
    assert weights_url("torchvision:resnet50.DEFAULT").endswith("resnet50-11ad3fa6.pth")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:resnet11.IMAGENET1K_V1", "no classifier 'resnet11'; did you mean"),
        ("torchvision:zzz.V1", "for example resnet50"),
        ("torchvision:resnet50.IMAGENET1K_V3", "did you mean IMAGENET1K_V"),
        ("torchvision:resnet50", "needs the name of its weights"),
        ("torchvision:resnet50.COCO", "choose of IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:", "no classifier ''"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        weights_url(spec)


def test_download_is_checked_cached_and_loaded(cache: Path, published: Path) -> None:
    backbone = build_backbone("resnet18", {"norm": "frozen_bn"})
    lines = load_backbone(backbone, SPEC)
    state = torch.load(published)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert SPEC in lines[0]
    assert "fc.weight" in lines[-1]
    published.unlink()  # the second time comes from the cache
    load_backbone(backbone, SPEC)
    assert [path.name for path in cache.iterdir()] == [published.name]


def test_a_damaged_download_is_refused_and_removed(cache: Path, published: Path) -> None:
    published.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        fetch(SPEC)
    assert list(cache.iterdir()) == []


def test_a_damaged_cached_file_is_named(cache: Path, published: Path) -> None:
    cache.mkdir(parents=True)
    (cache / published.name).write_bytes(b"half a file")
    with pytest.raises(UserError, match="delete it") as caught:
        fetch(SPEC)
    assert str(cache / published.name) in str(caught.value)


def test_without_network_the_file_and_its_folder_are_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(UserError) as caught:
        fetch(SPEC)
    text = str(caught.value)
    assert "resnet18-f37072fd.pth" in text
    assert str(cache) in text
    assert "weights=null" in text


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_every_tensor_of_a_classifier_has_its_place(name: str) -> None:
    """Both ways: none is left over, and none of ours is missing; shapes agree."""
    options = {"init_weights": False} if name.startswith(("vgg", "googlenet")) else {}
    if name == "googlenet":
        options["aux_logits"] = True
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None, **options).state_dict()
        ours = classifiers.build(*backbone_for(name)).state_dict()
    renamed = classifier_state(name, state)
    assert len(renamed) == len(state)
    assert set(renamed) | {"pixel_mean", "pixel_std"} == set(ours)
    assert all(renamed[key].shape == ours[key].shape for key in renamed)
    # in the order of torchvision's, too
    assert [key for key in ours if key in renamed and key.startswith("backbone")] == [
        key for key in renamed if key.startswith("backbone")
    ]


def test_backbones_for_torchvisions_names() -> None:
    assert backbone_for("vgg16_bn") == ("vgg16", {"norm": "bn"})
    assert backbone_for("torchvision:googlenet.IMAGENET1K_V1") == (
        "googlenet",
        {"branch5_kernel": 3, "transform_input": True},
    )
    with pytest.raises(UserError, match="no network for torchvision's 'resnext50_32x4d'; did you"):
        backbone_for("resnext50_32x4d")
    with pytest.raises(UserError, match="no network for torchvision's 'maxvit_t'; it has resnet18"):
        classifier_state("maxvit_t", {})


def test_tensors_of_another_network_are_listed() -> None:
    with torch.device("meta"):
        state = torchvision.models.alexnet().state_dict()
    with pytest.raises(UserError, match=r"torchvision's resnet18, which has no features.0.weight,"):
        classifier_state("resnet18", state)


def test_classes_and_test_sizes_of_the_published_weights() -> None:
    wnids = interop.imagenet_wnids()
    assert (len(set(wnids)), wnids) == (1000, sorted(wnids))
    # ILSVRC 2012's list; torchvision's words are in this order
    assert zlib.crc32(" ".join(wnids).encode()) == IMAGENET_CRC
    assert ResNet18_Weights.IMAGENET1K_V1.meta["categories"][wnids.index("n01440764")] == "tench"
    assert interop.test_sizes("torchvision:resnet50.IMAGENET1K_V1") == (256, 224)
    assert interop.test_sizes("torchvision:resnet50.IMAGENET1K_V2") == (232, 224)
