"""Start weights: what is read, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from resdet.backbones import build_backbone
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.factory import build_model
from resdet.interop.reading import Reading
from resdet.interop.weights import (
    checkpoint_path,
    load_backbone,
    load_detector,
    read_weights,
)


class TinyDetector(nn.Module):
    """A real backbone, and predictors whose sizes follow the classes as the detector's do."""

    def __init__(self, class_names: list[str]) -> None:
        super().__init__()
        k = len(class_names)
        self.class_names = class_names
        self.backbone = build_backbone("resnet18")
        self.neck = nn.Conv2d(512, 8, 1)
        self.cls_score = nn.Linear(8, k + 1)
        self.bbox_pred = nn.Linear(8, 4 * k)
        self.mask_logits = nn.Conv2d(8, k, 1)


def save_checkpoint(path: Path, model: TinyDetector, **more: Any) -> Path:
    torch.save(
        {
            "format": 1,
            "kind": "detector",
            "config": {"train": {"epochs": 1.0}},
            "class_names": model.class_names,
            "category_ids": [3 * i + 1 for i in range(len(model.class_names))],
            "step": 7,
            "model": model.state_dict(),
            "ema": None,
            **more,
        },
        path,
    )
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def detector() -> TinyDetector:
    torch.manual_seed(0)
    return TinyDetector(["cat", "dog", "owl"])


def test_run_folder_is_best_then_last(tmp_path: Path, detector: TinyDetector) -> None:
    with pytest.raises(UserError, match=r"neither best\.pt nor last\.pt"):
        checkpoint_path(tmp_path)
    save_checkpoint(tmp_path / "last.pt", detector)
    assert checkpoint_path(str(tmp_path)).name == "last.pt"
    save_checkpoint(tmp_path / "best.pt", detector)
    weights = read_weights(str(tmp_path))
    assert weights.source.endswith("best.pt")
    assert (weights.kind, weights.class_names) == ("detector", ["cat", "dog", "owl"])
    assert weights.category_ids == [1, 4, 7]
    assert weights.config == {"train": {"epochs": 1.0}}


def test_a_spec_that_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_weights(str(tmp_path / "absent.pt"))


def test_averaged_weights_are_preferred(tmp_path: Path, detector: TinyDetector) -> None:
    ema = {key: torch.full_like(value, 3) for key, value in detector.named_parameters()}
    weights = read_weights(str(save_checkpoint(tmp_path / "c.pt", detector, ema=ema)))
    assert (weights.state["cls_score.weight"] == 3).all()
    # buffers that are not averaged come from the model
    assert torch.equal(weights.state["backbone.bn1.running_var"], detector.backbone.bn1.running_var)


def test_newer_format_is_refused(tmp_path: Path, detector: TinyDetector) -> None:
    with pytest.raises(UserError, match="update resdet"):
        read_weights(str(save_checkpoint(tmp_path / "c.pt", detector, format=9)))


def test_detector_as_a_backbone(tmp_path: Path, detector: TinyDetector) -> None:
    path = save_checkpoint(tmp_path / "c.pt", detector)
    backbone = build_backbone("resnet18")
    lines = load_backbone(backbone, str(path))
    assert same(backbone.state_dict(), detector.backbone.state_dict())
    assert any("its backbone alone" in line for line in lines)


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
def test_torchvision_state_dict_file(tmp_path: Path, norm: str) -> None:
    source = resnet18()
    source.train()(torch.rand(2, 3, 32, 32))  # statistics that are not their start values
    torch.save(source.state_dict(), tmp_path / "r18.pth")
    backbone = build_backbone("resnet18", {"norm": norm})
    lines = load_backbone(backbone, str(tmp_path / "r18.pth"))
    assert lines[-1] == "left out, the classifier: fc.weight, fc.bias"
    theirs = source.state_dict()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    image = torch.rand(1, 3, 64, 64)
    expected = source.eval().avgpool(backbone.eval()(image)["c5"]).flatten(1)
    torch.testing.assert_close(source.fc(expected), source(image), rtol=1e-4, atol=1e-5)


def test_counters_may_be_absent(tmp_path: Path) -> None:
    state = build_backbone("resnet18", {"norm": "frozen_bn"}).state_dict()
    torch.save(state, tmp_path / "w.pt")
    backbone = build_backbone("resnet18")
    load_backbone(backbone, str(tmp_path / "w.pt"))
    assert int(backbone.bn1.num_batches_tracked) == 0


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_containers_and_wrapper_prefixes(tmp_path: Path, container: str) -> None:
    state = build_backbone("resnet18").state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({container: wrapped, "epoch": 3}, tmp_path / "w.pt")
    backbone = build_backbone("resnet18")
    load_backbone(backbone, str(tmp_path / "w.pt"))
    assert same(backbone.state_dict(), state)


@pytest.mark.parametrize(
    ("there", "here", "remedy"),
    [("bn", "gn", "bn, sync_bn or frozen_bn"), ("gn", "bn", "model.backbone.norm to gn")],
)
def test_batch_norm_and_group_norm_do_not_mix(
    tmp_path: Path, there: str, here: str, remedy: str
) -> None:
    torch.save(build_backbone("resnet18", {"norm": there}).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=remedy):
        load_backbone(build_backbone("resnet18", {"norm": here}), str(tmp_path / "w.pt"))


def test_mismatch_lists_keys_and_loads_nothing(tmp_path: Path) -> None:
    state = build_backbone("resnet18").state_dict()
    del state["layer1.0.conv1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "w.pt")
    backbone = build_backbone("resnet18")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_backbone(backbone, str(tmp_path / "w.pt"))
    text = str(caught.value)
    assert "1 missing: layer1.0.conv1.weight" in text
    assert "1 unexpected: extra.weight" in text
    assert "conv1.weight (64, 3, 3, 3) there, (64, 3, 7, 7) here" in text
    assert same(backbone.state_dict(), before)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"missing: .* and \d+ more") as caught:
        load_backbone(build_backbone("resnet34"), str(tmp_path / "w.pt"))
    assert len(str(caught.value)) < 1000


def test_nan_is_refused(tmp_path: Path) -> None:
    state = build_backbone("resnet18").state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"NaN or infinite values: conv1\.weight"):
        load_backbone(build_backbone("resnet18"), str(tmp_path / "w.pt"))


def test_detector_with_the_same_classes(tmp_path: Path, detector: TinyDetector) -> None:
    path = save_checkpoint(tmp_path / "c.pt", detector)
    model = TinyDetector(["cat", "dog", "owl"])
    lines = load_detector(model, str(path))
    assert same(model.state_dict(), detector.state_dict())
    assert len(lines) == 1
    renamed = TinyDetector(["cat", "dog", "elk"])
    assert "class names differ" in load_detector(renamed, str(path))[-1]
    assert same(renamed.state_dict(), detector.state_dict())


def test_detector_with_other_classes(tmp_path: Path, detector: TinyDetector) -> None:
    path = save_checkpoint(tmp_path / "c.pt", detector)
    model = TinyDetector([f"class {i}" for i in range(5)])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    line = load_detector(model, str(path))[-1]
    predictors = ["cls_score.weight", "bbox_pred.bias", "mask_logits.weight"]
    assert line.startswith("3 classes there, 5 here")
    assert all(key in line for key in predictors)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in predictors)
    assert torch.equal(after["neck.weight"], detector.neck.weight)
    assert torch.equal(after["backbone.conv1.weight"], detector.backbone.conv1.weight)


def test_backbones_are_no_detectors(tmp_path: Path, detector: TinyDetector) -> None:
    torch.save(detector.backbone.state_dict(), tmp_path / "w.pt")
    for spec in (str(tmp_path / "w.pt"), "torchvision:resnet18.IMAGENET1K_V1"):
        with pytest.raises(UserError, match=r"belongs to model\.backbone\.weights"):
            load_detector(detector, spec)


class Hostile:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


def test_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    torch.save({"model": Hostile(str(proof))}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="refused because loading them can run code"):
        read_weights(str(tmp_path / "w.pt"))
    assert not proof.exists()


def test_damaged_files_give_one_clear_error(tmp_path: Path, detector: TinyDetector) -> None:
    whole = save_checkpoint(tmp_path / "c.pt", detector).read_bytes()
    contents = {
        "truncated": whole[: len(whole) // 2],
        "short": whole[:100],
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "zip": b"PK\x03\x04" + bytes(200),
        "pickle": b"\x80\x02" + bytes(range(200)),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.pt cannot be read as weights"):
            read_weights(str(path))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ([1, 2], "holds a list"),
        ({}, "no named tensors"),
        ({"a": 1.0}, "'a' is a float, not a tensor"),
        ({"format": 1, "kind": "detector", "model": {"w": [1]}}, "'w' is a list"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: Any, word: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=word):
        read_weights(str(tmp_path / "w.pt"))


def test_safetensors_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install safetensors"):
        read_weights(str(tmp_path / "w.safetensors"))


def test_safetensors_with_its_package(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    state = build_backbone("resnet18").state_dict()
    safetensors.save_file(state, str(tmp_path / "w.safetensors"))
    backbone = build_backbone("resnet18")
    load_backbone(backbone, str(tmp_path / "w.safetensors"))
    assert same(backbone.state_dict(), state)
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_weights(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("agnostic", [False, True])
def test_real_detector_with_other_classes(tmp_path: Path, agnostic: bool) -> None:
    """Of the real model exactly the class-wise predictors start anew, in every cascade stage."""
    head = {"fc_dim": 16, "class_agnostic": agnostic}
    mask = {"num_convs": 1, "conv_dim": 8, "class_agnostic": agnostic}
    stages = [{"foreground_iou": 0.5}, {"foreground_iou": 0.6}][: 2 if agnostic else 1]
    values = {
        "model": {
            "backbone": {"name": "resnet18"},
            "fpn": {"out_channels": 8},
            "roi": {"stages": stages, "box_head": head, "mask_head": mask},
        },
        "train": {"epochs": 1},
    }
    config = config_from_dict(values, "the test")
    there = build_model(config, class_names=["one"], category_ids=[1])
    here = build_model(config, class_names=["one", "two"], category_ids=[1, 2])
    torch.save(
        {
            "format": 1,
            "kind": "detector",
            "config": config_to_dict(config),
            "class_names": ["one"],
            "category_ids": [1],
            "model": there.state_dict(),
        },
        tmp_path / "c.pt",
    )
    listed = load_detector(here, str(tmp_path / "c.pt"))[-1].split(": ")[-1].split(", ")
    # weight and bias of each stage's logits; class-wise, of the deltas and the masks too
    assert len(listed) == (4 if agnostic else 6)
    for key, value in here.state_dict().items():
        same_shape = value.shape == there.state_dict()[key].shape
        assert same_shape != (key in listed), key
        if same_shape:
            assert torch.equal(value, there.state_dict()[key]), key


def test_the_stride_of_a_bottleneck_must_agree(tmp_path):
    backbone = build_backbone("resnet50", {"stride_in_1x1": True})
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    config = {"task": "classification", "model": {"backbone": {"stride_in_1x1": True}}}
    checkpoint = {"format": 1, "kind": "classifier", "config": config, "model": state}
    torch.save(checkpoint, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"stride_in_1x1 true, and it is false here; set model"):
        load_backbone(build_backbone("resnet50"), str(tmp_path), Reading())
    load_backbone(backbone, str(tmp_path), Reading(stride_in_1x1=True))
