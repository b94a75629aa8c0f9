"""Detectors whose network is that of their start weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import resdet
from resdet.config.loading import config_to_dict, load_config
from resdet.errors import UserError
from resdet.factory.network import check_kind, resolve_config
from resdet.interop import weights as reading
from resdet.interop.loaded import LoadedWeights
from tests.models.tiny import tiny_model

OWN = """
model:
  backbone: {name: null, freeze_at: 1}
  roi: {num_samples: 8}
train: {epochs: 1}
"""
CHANGES: dict[str, Any] = {
    "backbone": {"name": "resnet50", "norm": "gn", "stride_in_1x1": True},
    "channel_order": "bgr",
    "pixel_std": [1.0, 1.0, 1.0],
    "weights": "there/before.pt",
    "num_classes": 2,
    "class_map": {"class 0": "person"},
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    return path


def write(path: Path, changes: dict[str, Any], **more: Any) -> str:
    """A checkpoint with the config of such a model; its tensors are not looked at."""
    with torch.device("meta"):
        model = tiny_model({"backbone": {"name": "resnet18"}})
    values = config_to_dict(tiny_config(changes))
    values["data"]["test_resize"] = {"short_edge": 320, "max_size": 480, "method": "float"}
    checkpoint = {
        "format": 1,
        "kind": "detector",
        "config": values,
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "model": {"w": torch.zeros(1)},
        **more,
    }
    torch.save(checkpoint, path)
    return str(path)


def tiny_config(changes: dict[str, Any]) -> Any:
    from resdet.config.loading import config_from_dict
    from tests.models.tiny import SMALL, merged

    return config_from_dict(merged(SMALL, {"model": changes}), "the test")


def test_the_whole_section_comes_from_the_weights(own, tmp_path, caplog):
    spec = write(tmp_path / "w.pt", CHANGES)
    with caplog.at_level(logging.INFO, logger="resdet"):
        config = resolve_config(load_config(own, [f"model.weights={spec}"])).config
    model = config.model
    assert (model.backbone.name, model.backbone.stride_in_1x1) == ("resnet50", True)
    assert (model.channel_order, model.pixel_std) == ("bgr", [1, 1, 1])
    assert model.fpn.out_channels == 16
    assert model.roi.mask_head.conv_dim == 16
    assert model.rpn.anchor_sizes == [16, 32, 64, 128, 256]
    # what belongs to a run stays the run's own
    assert model.weights == spec
    assert (model.num_classes, model.class_map) == (None, {})
    # what is set here comes on top, also where it is the schema's default
    assert (model.backbone.freeze_at, model.roi.num_samples) == (1, 8)
    # of the resize the method alone is a convention
    resize = config.data.test_resize
    assert (resize.method, resize.short_edge, resize.max_size) == ("float", 800, 1333)
    assert "resnet50 with norm gn, FPN of 16 channels, 1 box stage of 2 layers of 32, masks" in (
        caplog.text
    )
    assert resolve_config(config).config is config


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("model.roi.mask_head=null", lambda c: c.model.roi.mask_head is None),
        ("model.roi.mask_head.conv_dim=4", lambda c: c.model.roi.mask_head.conv_dim == 4),
        ("model.score_thresh=0.05", lambda c: c.model.score_thresh == 0.05),
        ("model.rpn.anchor_sizes=[8,16,32,64,128]", lambda c: c.model.rpn.anchor_sizes[0] == 8),
        ("model.roi.stages=[{}]", lambda c: c.model.roi.stages[0].box_weights[0] == 10),
        ("model.channel_order=rgb", lambda c: c.model.channel_order == "rgb"),
        ("model.backbone.norm=frozen_bn", lambda c: c.model.backbone.norm == "frozen_bn"),
        ("model.backbone.options={a: 1}", lambda c: c.model.backbone.options == {"a": 1}),
        ("model.class_map={a: b}", lambda c: c.model.class_map == {"a": "b"}),
        ("data.test_resize.method=pillow", lambda c: c.data.test_resize.method == "pillow"),
    ],
)
def test_a_key_that_is_set_comes_on_top(own, tmp_path, override, read):
    there = {**CHANGES, "score_thresh": 0.5, "roi": {"stages": [{"box_weights": [20, 20, 10, 10]}]}}
    spec = write(tmp_path / "w.pt", there)
    assert not read(resolve_config(load_config(own, [f"model.weights={spec}"])).config)
    assert read(resolve_config(load_config(own, [f"model.weights={spec}", override])).config)


def test_a_mask_head_of_ones_own_on_boxes(own, tmp_path):
    spec = write(tmp_path / "w.pt", {"roi": {"mask_head": None}})
    overrides = [f"model.weights={spec}", "model.roi.mask_head.num_convs=2"]
    head = resolve_config(load_config(own, overrides)).config.model.roi.mask_head
    assert (head.num_convs, head.conv_dim) == (2, 256)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"kind": "classifier"},
            r"holds a classifier, not a detector of .*model\.backbone\.weights",
        ),
        ({"config": None}, "does not name its network; give model.backbone.name as well"),
        ({"config": {"train": {"epochs": 1}}}, "does not name its network"),
    ],
)
def test_weights_that_name_no_detector(own, tmp_path, more, message):
    spec = write(tmp_path / "w.pt", CHANGES, **more)
    with pytest.raises(UserError, match=message):
        resolve_config(load_config(own, [f"model.weights={spec}"]))


def test_nothing_names_a_network(own, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"null takes the network of model\.weights, and that is n"):
        resolve_config(load_config(own))
    with pytest.raises(UserError, match=r"null takes the network of model\.weights"):
        resdet.train(own, run_dir=tmp_path / "run", device="cpu")
    # a classifier is refused before it is downloaded
    monkeypatch.setattr(reading, "read_weights", None)
    with pytest.raises(UserError, match="is a classifier, not a detector"):
        resolve_config(load_config(own, ["model.weights=torchvision:resnet50.IMAGENET1K_V1"]))


def test_build_takes_the_network_of_its_weights(own, tmp_path):
    """`weights` names them as the config does, and what the config sets stays on top."""
    there = tiny_model({"backbone": {"norm": "bn"}}, seed=3)
    checkpoint = {
        "format": 1,
        "kind": "detector",
        "config": config_to_dict(there.config),
        "class_names": there.class_names,
        "category_ids": there.category_ids,
        "model": there.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "w.pt")
    overrides = ["data.classes=[class 1, other]", "model.roi.mask_head=null"]
    model = resdet.build(own, weights=str(tmp_path / "w.pt"), overrides=overrides)
    assert model.class_names == ["class 1", "other"]
    assert not model.has_masks
    assert model.roi_heads.num_samples == 8
    assert model.config.model.backbone.name == "resnet18"
    ours, theirs = model.state_dict(), there.state_dict()
    assert torch.equal(ours["backbone.conv1.weight"], theirs["backbone.conv1.weight"])
    key = "roi_heads.stages.0.cls_score.weight"
    assert torch.equal(ours[key][0], theirs[key][1])
    named = [f"model.weights={tmp_path / 'w.pt'}", *overrides]
    start = resdet.build(own, overrides=named).state_dict()
    assert not torch.equal(start["backbone.conv1.weight"], theirs["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("classifier", "detector", "f.pt is a classifier, not a detector; .*eval.cls"),
        (
            "localizer",
            "classifier",
            "is a localizer, not a classifier; .*eval.imagenet.* --task loc",
        ),
        ("detector", "localizer", "is a detector, not a localizer; .*eval.coco"),
        (
            "backbone",
            "localizer",
            "a backbone, not a localizer of resdet; set it as model.backbone.w",
        ),
        ("classifier", "classifier", "not a checkpoint of a resdet run; .*torchvision:resnet50"),
    ],
)
def test_weights_of_another_task_are_refused(kind: Any, wanted: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_kind(LoadedWeights({}, kind, None, "f.pt"), wanted)


def test_weights_of_classes_stay_with_their_run() -> None:
    from resdet.factory.network import _network_of

    head = {"fc_dim": 8, "class_weights": {"cat": 2.0}, "background_weight": 3.0}
    model = _network_of({"num_classes": 1, "roi": {"box_head": head}})
    assert model == {"roi": {"box_head": {"fc_dim": 8}}, "backbone": {"weights": None}}
