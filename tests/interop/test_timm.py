"""timm's plain ResNets: names, how their images are prepared, files; timm itself where it is."""

from __future__ import annotations

import hashlib
from math import floor
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torchvision.models import resnet18

import resdet
from resdet.errors import UserError
from resdet.factory.classification import build_trained_classifier
from resdet.interop import timm as interop
from resdet.interop.timm import TAGS, check_name, fetch, imported, preparation
from resdet.interop.torchvision.classifiers import imagenet_wnids
from resdet.models.classifier import Classifier

SPEC = "timm:resnet18.a1_in1k"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return resnet18().state_dict()


@pytest.fixture
def published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> Path:
    """A file that stands for the published one, and a cache of its own."""
    path = tmp_path / "server" / "resnet18.a1_in1k" / "model.safetensors"
    path.parent.mkdir(parents=True)
    safetensors.torch.save_file(state, path)
    monkeypatch.setattr(interop, "ADDRESS", f"{path.parents[1].as_uri()}/{{}}/model.safetensors")
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    return path


def test_by_name(published: Path, tmp_path: Path) -> None:
    model = resdet.load(SPEC, device="cpu")
    assert isinstance(model, Classifier)
    assert model.class_names == imagenet_wnids()
    assert (model.test_resize, model.test_size, model.interpolation) == (288, 288, "bicubic")
    cached = tmp_path / "cache" / "timm" / "resnet18.a1_in1k.safetensors"
    assert fetch("resnet18.a1_in1k") == cached
    published.unlink()
    resdet.load(SPEC, device="cpu")
    digest = hashlib.sha256(b"another").hexdigest()
    (cached.parent / f"{cached.name}.sha256").write_text(f"{digest}  {cached.name}\n")
    with pytest.raises(UserError, match="damaged or another file"):
        resdet.load(SPEC, device="cpu")


def test_the_address() -> None:
    address = interop.ADDRESS.format("resnet50.a1_in1k")
    assert address == "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "pytorch_model.bin"])
def test_files(tmp_path: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / name
    own = {**state, "fc.weight": state["fc.weight"][:3].clone(), "fc.bias": state["fc.bias"][:3]}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(own, path)
    else:
        torch.save(own, path)
    model = resdet.load(path, source="timm:resnet18.tv_in1k", device="cpu")
    assert isinstance(model, Classifier)
    assert model.class_names == ["class 1", "class 2", "class 3"]
    assert (model.test_resize, model.test_size, model.interpolation) == (256, 224, "bilinear")
    theirs = resnet18(num_classes=3).eval()
    theirs.load_state_dict(own)
    images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = theirs(torchvision.transforms.functional.normalize(images / 255, mean, std))
    torch.testing.assert_close(model(model.normalize(images))[0], expected, rtol=1e-4, atol=1e-4)
    if path.suffix != ".bin":
        return
    # without a tag, or even a name, images are prepared as for timm's default one
    for source in ("timm:resnet18", "timm"):
        assert resdet.load(path, source=source, device="cpu").test_size == 288


def test_pixels_of_a_mean_of_one_half() -> None:
    with torch.device("meta"):
        values = torchvision.models.resnet34().state_dict()
    loaded = imported(values, "resnet34.ra4_e3600_r224_in1k", "the test")
    section = (loaded.config or {})["model"]
    assert (section["pixel_mean"], section["pixel_std"]) == ([127.5] * 3, [127.5] * 3)
    assert loaded.state["pixel_mean"].flatten().tolist() == [127.5] * 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50d.ra2_in1k", "resdet has no resnet50d; of timm's networks"),
        ("resnet50_gn.a1h_in1k", "resnet50_gn; of timm"),
        ("resnext50_32x4d.a1_in1k", "resnext50_32x4d; of timm"),
        ("wide_resnet50_2.tv_in1k", "wide_resnet50_2; of timm"),
        ("seresnet50.a1_in1k", "seresnet50; of timm"),
        ("resnet51.a1_in1k", "no network for timm's 'resnet51'; did you mean"),
        ("vit_base", "no network for timm's 'vit_base'; it has resnet18,"),
        ("resnet50.a4_in1k", "has no weights 'a4_in1k', did you mean"),
        ("resnet50", "needs the name of its weights, choose from a1_in1k,"),
        ("resnet50.", "needs the name of its weights"),
        ("resnet50.xyz", "choose from a1_in1k"),
    ],
)
def test_other_names(name: str, words: str) -> None:
    for call in (check_name, fetch):
        with pytest.raises(UserError, match=words) as caught:
            call(name)
        assert str(caught.value).startswith(f"timm:{name}: ")


def test_files_of_other_networks() -> None:
    with torch.device("meta"):
        state = torchvision.models.resnext50_32x4d().state_dict()
        vgg = torchvision.models.vgg16(init_weights=False).state_dict()
    for values in (state, vgg):
        with pytest.raises(UserError, match=r"^w\.pth is not one of timm's plain ResNets"):
            imported(values, None, "w.pth")
    with pytest.raises(UserError, match=r"^w\.pth: these are not the weights .* features\.0"):
        imported(vgg, "resnet18.a1_in1k", "w.pth")


def test_test_sizes() -> None:
    """As timm's evaluation does: the short side is the floor of size / crop_pct."""
    for name, tag, resize, size in (
        ("resnet18", "a1_in1k", 288, 288),
        ("resnet50", "a1h_in1k", 224, 224),
        ("resnet50", "ram_in1k", 303, 288),
        ("resnet50", "tv2_in1k", 232, 224),
        ("resnet101", "a3_in1k", 235, 224),
        ("resnet152", "gluon_in1k", 256, 224),
    ):
        assert (preparation(name, tag).resize, preparation(name, tag).size) == (resize, size)


def test_the_table_is_timms() -> None:
    there = {
        name
        for network in TAGS
        for name in timm.list_pretrained(f"{network}.*")
        if timm.models.get_pretrained_cfg(name).num_classes
    }
    assert there == {f"{network}.{tag}" for network, tags in TAGS.items() for tag in tags}
    for name in there:
        config = timm.models.get_pretrained_cfg(name)
        ours = preparation(*check_name(name))
        size = (config.test_input_size or config.input_size)[1]
        assert (ours.size, ours.interpolation) == (size, config.interpolation), name
        assert ours.resize == floor(size / (config.test_crop_pct or config.crop_pct)), name
        assert (ours.mean, ours.std) == (config.mean, config.std), name
        assert config.num_classes == 1000 and config.crop_mode == "center", name
    for network, tags in TAGS.items():
        assert timm.models.get_pretrained_cfg(network).tag == next(iter(tags))


@pytest.mark.parametrize("network", list(TAGS))
@torch.no_grad()
def test_logits_equal_timms(network: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(network, pretrained=False, num_classes=10)
    inputs = torch.randn(2, 3, 64, 64)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.weight.uniform_(0.5, 1.0)
        if isinstance(module, timm.models.resnet.Bottleneck):
            # as in trained networks, so that rounding does not grow from block to block
            module.bn3.weight.uniform_(0.1, 0.3)
    theirs.train()(inputs)
    expected = theirs.eval()(inputs)
    ours = build_trained_classifier(imported(theirs.state_dict(), f"{network}.a1_in1k", "the test"))
    (logits,) = ours(inputs)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
