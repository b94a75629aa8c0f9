"""torchvision:NAME.WEIGHTS without network: a random file stands for the published one."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from resdet.backbones import build_backbone
from resdet.errors import UserError
from resdet.interop.torchvision import fetch, weights_url
from resdet.interop.weights import load_backbone

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
