"""torchvision's classifiers: names, tensors, configs; a random file stands for a published one."""

from __future__ import annotations

import hashlib
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import ResNet18_Weights, resnet18

import resdet
from resdet.backbones import build_backbone
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import config_from_dict
from resdet.errors import UserError
from resdet.factory.classification import build_trained_classifier
from resdet.factory.network import resolve_config
from resdet.interop.fitting import load_backbone, load_classifier_weights
from resdet.interop.loaded import Reading
from resdet.interop.torchvision import classifiers as interop
from resdet.interop.torchvision.classifiers import (
    CLASSIFIERS,
    backbone_for,
    classifier_state,
    fetch,
    imported,
    network_of,
    preparation,
    recognises,
    weights_url,
)
from resdet.interop.weights import check_spec, read_weights
from resdet.models.classifier import Classifier
from resdet.structures import IMAGENET_CRC
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
    monkeypatch.setattr(
        "resdet.interop.torchvision.classifiers.weights_url", lambda spec: path.as_uri()
    )
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
        ("torchvision:resnet50.COCO", "choose from IMAGENET1K_V1, IMAGENET1K_V2"),
        ("torchvision:", "no classifier ''"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        weights_url(spec)
    with pytest.raises(UserError, match=words):
        check_spec(spec)


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
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("no_proxy", "")
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


def state_of(name: str, num_classes: int = 1000) -> dict[str, Tensor]:
    options: dict[str, Any] = {"num_classes": num_classes}
    if name.startswith(("vgg", "googlenet")):
        options["init_weights"] = False
    if name == "googlenet":
        options["aux_logits"] = True
    with torch.device("meta"):
        return getattr(torchvision.models, name)(weights=None, **options).state_dict()


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_tensors_tell_their_network(name: str) -> None:
    state = state_of(name)
    assert network_of(state) == name
    assert recognises(state)
    loaded = imported(state, None, "the test")
    assert (loaded.kind, loaded.is_guessed) == ("classifier", True)
    config = config_from_dict(loaded.config or {}, "the test")
    assert isinstance(config, ClassificationConfig)
    named = imported(state, f"{name}.IMAGENET1K_V1", "the test")
    assert (named.config, named.is_guessed) == (loaded.config, False)
    with torch.device("meta"):
        ours = resdet.factory.build_classifier(config, class_names=loaded.class_names).state_dict()
    assert {key: value.shape for key, value in loaded.state.items()} == {
        key: ours[key].shape for key in loaded.state
    }
    assert not set(ours) - set(loaded.state)
    # a backbone alone is none, and neither are our own names
    assert not recognises(
        {k: v for k, v in state.items() if not k.startswith(("fc", "classifier"))}
    )
    assert not recognises(loaded.state)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2", "vgg11", "alexnet"])
def test_networks_with_the_same_names_of_tensors(name: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(weights=None).state_dict()
    assert network_of(state) is None and not recognises(state)
    with pytest.raises(UserError, match=r"w\.pth is not one of torchvision's classifiers"):
        imported(state, None, "w.pth")


def test_a_file_with_its_source(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = resnet18(num_classes=3)
    theirs.train()(torch.rand(2, 3, 32, 32))
    path = str(tmp_path / "w.pth")
    torch.save(theirs.state_dict(), path)
    images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    inputs = torchvision.transforms.functional.normalize(images / 255, mean, std)
    for source in (
        "torchvision:resnet18.IMAGENET1K_V1",
        "torchvision:resnet18",
        "torchvision",
        None,
    ):
        model = resdet.load(path, source=source, device="cpu")
        assert isinstance(model, Classifier)
        assert (model.class_names, model.test_resize) == (["class 1", "class 2", "class 3"], 256)
        (logits,) = model(model.normalize(images))
        torch.testing.assert_close(logits, theirs.eval()(inputs), rtol=1e-4, atol=1e-4)
    with pytest.raises(
        UserError, match=r"w\.pth holds resnet18, and its source or config is of resnet34"
    ):
        resdet.load(path, source="torchvision:resnet34")
    with pytest.raises(UserError, match="no network for torchvision's 'resnet19'; did you mean"):
        resdet.load(path, source="torchvision:resnet19")
    with pytest.raises(UserError, match="resnet18 has no weights 'IMAGENET1K_V2'"):
        resdet.load(path, source="torchvision:resnet18.IMAGENET1K_V2")
    with pytest.raises(
        UserError, match=r"w\.pth: these are not the weights of torchvision's vgg16"
    ):
        resdet.load(path, source="torchvision:vgg16")


def test_what_is_guessed_is_not_insisted_on(tmp_path: Path) -> None:
    """Files without a source may have been trained with strides in 1×1 convolutions."""
    backbone = build_backbone("resnet18")
    torch.save(resnet18().state_dict(), tmp_path / "w.pth")
    reading = Reading(stride_in_1x1=True, channel_order="bgr")
    lines = load_backbone(backbone, str(tmp_path / "w.pth"), reading)
    assert not any("pixel mean" in line for line in lines)
    weights = read_weights(str(tmp_path / "w.pth"), "torchvision:resnet18")
    model = build_trained_classifier(weights)
    lines = load_classifier_weights(model, str(tmp_path / "w.pth"), reading)
    assert not any("pixel mean" in line for line in lines)


def test_a_backbone_with_its_source(tmp_path: Path) -> None:
    state = build_backbone("resnet18").state_dict()
    torch.save(state, tmp_path / "w.pth")
    weights = read_weights(str(tmp_path / "w.pth"), "torchvision")
    assert (weights.kind, set(weights.state)) == ("backbone", set(state))
    with pytest.raises(UserError, match="holds a backbone, resnet18 without a head, not a c"):
        build_trained_classifier(weights)


def test_a_damaged_last_layer(tmp_path: Path) -> None:
    state = dict(resnet18().state_dict())
    for value in (torch.tensor(1.0), torch.zeros(512), torch.zeros(0, 512)):
        torch.save({**state, "fc.weight": value}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"w\.pth: fc\.weight has shape .* damaged"):
            read_weights(str(tmp_path / "w.pth"))


def test_the_published_network_settles_a_config(cache: Path, published: Path) -> None:
    values = {
        "task": "classification",
        "model": {"weights": SPEC, "backbone": {"name": None, "stochastic_depth": 0.1}},
        "train": {"epochs": 1},
    }
    config = config_from_dict(values, "the test")
    assert isinstance(config, ClassificationConfig)
    section = resolve_config(config).config.model
    assert (section.backbone.name, section.backbone.stochastic_depth) == ("resnet18", 0.1)
    assert (section.weights, section.pixel_std) == (SPEC, [58.395, 57.12, 57.375])


def test_classes_and_test_sizes_of_the_published_weights() -> None:
    wnids = interop.imagenet_wnids()
    assert (len(set(wnids)), wnids) == (1000, sorted(wnids))
    # ILSVRC 2012's list; torchvision's words are in this order
    assert zlib.crc32(" ".join(wnids).encode()) == IMAGENET_CRC
    assert ResNet18_Weights.IMAGENET1K_V1.meta["categories"][wnids.index("n01440764")] == "tench"
    for name, resize in (("resnet50.IMAGENET1K_V1", 256), ("resnet50.IMAGENET1K_V2", 232)):
        prepared = preparation(name)
        assert (prepared.resize, prepared.size, prepared.interpolation) == (resize, 224, "bilinear")
    assert preparation("vgg16.IMAGENET1K_V1") == preparation("vgg16")
