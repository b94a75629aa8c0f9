"""Start weights: what is read, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from resdet.backbones import build_backbone
from resdet.errors import UserError
from resdet.interop.fitting import load_backbone, load_detector
from resdet.interop.loaded import Reading
from resdet.interop.weights import check_spec, checkpoint_path, read_weights


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
    assert any("only the backbone of the detector" in line for line in lines)


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
def test_torchvision_state_dict_file(tmp_path: Path, norm: str) -> None:
    source = resnet18()
    source.train()(torch.rand(2, 3, 32, 32))  # statistics that are not their start values
    torch.save(source.state_dict(), tmp_path / "r18.pth")
    backbone = build_backbone("resnet18", {"norm": norm})
    lines = load_backbone(backbone, str(tmp_path / "r18.pth"))
    assert lines[-1] == "left out, the classifier: head.fc.weight, head.fc.bias"
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
    state = build_backbone("cifar_resnet20").state_dict()
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"missing: .* and \d+ more") as caught:
        load_backbone(build_backbone("preact_resnet18"), str(tmp_path / "w.pt"))
    assert len(str(caught.value)) < 500


def test_another_depth_is_named(tmp_path: Path) -> None:
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "w.pt")
    backbone = build_backbone("resnet34")
    with pytest.raises(UserError) as caught:
        load_backbone(backbone, str(tmp_path / "w.pt"))
    assert str(caught.value) == (
        f"{tmp_path / 'w.pt'} holds resnet18, and model.backbone.name is resnet34; set "
        "model.backbone.name=resnet18, or give weights of resnet34 (48 tensors differ, such as "
        "layer1.2.conv1.weight, layer1.2.bn1.weight)"
    )


def test_nan_is_refused(tmp_path: Path) -> None:
    state = build_backbone("resnet18").state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"NaN or infinite values: conv1\.weight"):
        load_backbone(build_backbone("resnet18"), str(tmp_path / "w.pt"))


def test_backbones_are_no_detectors(tmp_path: Path, detector: TinyDetector) -> None:
    torch.save(detector.backbone.state_dict(), tmp_path / "w.pt")
    for spec in (str(tmp_path / "w.pt"), "torchvision:resnet18.IMAGENET1K_V1"):
        with pytest.raises(UserError, match=r"belongs to model\.backbone\.weights"):
            load_detector(detector, spec)


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


def test_the_stride_of_a_bottleneck_must_agree(tmp_path):
    backbone = build_backbone("resnet50", {"stride_in_1x1": True})
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    config = {"task": "classification", "model": {"backbone": {"stride_in_1x1": True}}}
    checkpoint = {"format": 1, "kind": "classifier", "config": config, "model": state}
    torch.save(checkpoint, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"stride_in_1x1 true, but here it is false; set model"):
        load_backbone(build_backbone("resnet50"), str(tmp_path), Reading())
    load_backbone(backbone, str(tmp_path), Reading(stride_in_1x1=True))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvison:resnet50.IMAGENET1K_V1", "'torchvison'; did you mean torchvision?"),
        ("mmdet:mask_rcnn", "not read weights of 'mmdet'; it reads detectron2, torchvision, timm"),
        ("torchvision:maskrcnn_resnet50_fpn_v3", "did you mean maskrcnn_resnet50_fpn"),
        ("torchvision:resnet51.IMAGENET1K_V1", "no classifier 'resnet51'; did you mean"),
        ("detectron2:COCO-Detection/faster_rcnn_R_50_FPN_2x", "did you mean COCO-Detection/faster"),
        ("timm:resnet50.a4_in1k", "did you mean"),
    ],
)  # fmt: skip
def test_unknown_names_are_answered_with_near_ones(spec: str, words: str) -> None:
    for read in (read_weights, check_spec):
        with pytest.raises(UserError) as caught:
            read(spec)
        assert words in str(caught.value)


def test_wrong_sources(tmp_path: Path, detector: TinyDetector) -> None:
    spec = str(save_checkpoint(tmp_path / "c.pt", detector))
    with pytest.raises(UserError, match="is a checkpoint of resdet: leave out source='timm'"):
        read_weights(spec, "timm")
    torch.save(detector.backbone.state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        UserError, match=r"source='timn:resnet18': resdet does not read .*mean timm"
    ):
        read_weights(str(tmp_path / "w.pt"), "timn:resnet18")
    with pytest.raises(UserError, match="is for files, but"):
        read_weights("timm:resnet18.a1_in1k", "timm")


def test_a_converted_backbone_is_read(tmp_path: Path) -> None:
    """A checkpoint of ours of kind backbone, with the conventions it was trained by."""
    backbone = build_backbone("resnet50", {"stride_in_1x1": True})
    config = {"model": {"backbone": {"stride_in_1x1": True}, "channel_order": "bgr"}}
    checkpoint = {"format": 1, "kind": "backbone", "config": config}
    torch.save({**checkpoint, "model": backbone.state_dict()}, tmp_path / "w.pt")
    weights = read_weights(str(tmp_path / "w.pt"))
    assert (weights.kind, weights.config) == ("backbone", config)
    with pytest.raises(UserError, match="stride_in_1x1 true, but here it is false"):
        load_backbone(build_backbone("resnet50"), str(tmp_path / "w.pt"), Reading())


@pytest.mark.parametrize(
    "damage", [{"config": [1]}, {"class_names": 3}, {"class_names": [3]}, {"category_ids": ["a"]}]
)
def test_damaged_checkpoints(
    tmp_path: Path, detector: TinyDetector, damage: dict[str, Any]
) -> None:
    path = save_checkpoint(tmp_path / "c.pt", detector, **damage)
    with pytest.raises(UserError, match="damaged checkpoint"):
        read_weights(str(path))


def test_a_config_in_place_of_weights(tmp_path: Path) -> None:
    for name in ("config.yaml", "annotations.json", "x.yml"):
        (tmp_path / name).write_text("train: {}")
        with pytest.raises(UserError, match=rf"{name} is a config .*; give the run folder"):
            read_weights(str(tmp_path / name))
    for name in ("a" * 300, "a\0b", "~nobody_here/x.pt"):
        with pytest.raises(UserError):
            read_weights(name)
