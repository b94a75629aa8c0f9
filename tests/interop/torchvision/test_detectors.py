"""torchvision's detectors by our names and back: every tensor, the config, what is refused."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES, _VOC_CATEGORIES
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import resdet
from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict
from resdet.errors import UserError
from resdet.factory.detection import build_model, build_trained
from resdet.interop.coco_classes import COCO_CATEGORIES, VOC_CATEGORIES
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision.detectors import (
    NAMES,
    check_name,
    exported,
    fetch,
    imported,
    recognises,
    weights_url,
)
from tests.models.tiny import tiny_model
from tests.models.torchvision_models import KINDS, published, tiny

MASK_V2 = "maskrcnn_resnet50_fpn_v2"
BACKGROUND = {
    "roi_heads.box_predictor.bbox_pred.weight": 4,
    "roi_heads.box_predictor.bbox_pred.bias": 4,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 1,
    "roi_heads.mask_predictor.mask_fcn_logits.bias": 1,
}
"""Rows that belong to background, which nothing uses."""


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def our_shapes(loaded: LoadedWeights) -> dict[str, tuple[int, ...]]:
    """Of the detector that the config of `loaded` builds."""
    assert loaded.config is not None
    config = config_from_dict(loaded.config, "the test")
    assert isinstance(config, DetectionConfig)
    with torch.device("meta"):
        model = build_model(
            config, class_names=loaded.class_names, category_ids=loaded.category_ids
        )
    return shapes(model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_the_published_ones_has_its_place(name: str) -> None:
    """Both ways: none is left over, none of ours is missing, shapes agree."""
    with torch.device("meta"):
        state = published(name, None).state_dict()
    loaded = imported(state, f"{name}.COCO_V1", "the test")
    assert shapes(loaded.state) == our_shapes(loaded)
    assert shapes(exported(loaded)) == shapes(state)
    # without its name the tensors tell as much
    assert imported(state, None, "the test").config == loaded.config
    assert recognises(state) and not recognises(loaded.state)


@pytest.mark.parametrize("depth", [18, 34, 101, 152])
def test_other_depths_have_their_place(depth: int) -> None:
    with torch.device("meta"):
        body = resnet_fpn_backbone(backbone_name=f"resnet{depth}", weights=None)
        state = MaskRCNN(body, num_classes=4).state_dict()
    loaded = imported(state, None, "the test")
    assert shapes(loaded.state) == our_shapes(loaded)
    assert shapes(exported(loaded)) == shapes(state)
    assert loaded.config is not None
    assert loaded.config["model"]["backbone"]["name"] == f"resnet{depth}"
    assert loaded.class_names == ["class 1", "class 2", "class 3"]


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_exact(name: str) -> None:
    """But for background's deltas and mask, which come back as 0; torchvision loads all of it."""
    model = tiny(name)
    with torch.no_grad():
        for number, value in enumerate(model.state_dict().values()):
            value.copy_(torch.full(value.shape, 0.0).normal_(generator=seeded(number)))
    state = model.state_dict()
    back = exported(imported(state, None, "the test"))
    assert list(back) != [] and set(back) == set(state)
    for key, value in state.items():
        rows = BACKGROUND.get(key, 0)
        assert back[key].dtype == value.dtype
        assert torch.equal(back[key][rows:] if rows else back[key], value[rows:] if rows else value)
        assert not rows or (not back[key][:rows].any() and value[:rows].any())
    fresh = tiny(name)
    fresh.load_state_dict(back, strict=True)
    # and ours is the same again
    again = imported(fresh.state_dict(), None, "the test")
    first = imported(state, None, "the test")
    assert all(torch.equal(again.state[key], value) for key, value in first.state.items())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_says_what_torchvision_does(name: str) -> None:
    """Against the attributes of the model that torchvision makes of COCO_V1."""
    with torch.device("meta"):
        theirs = published(name, None)
    loaded = imported(theirs.state_dict(), name, "the test")
    assert loaded.config is not None
    config = config_from_dict(loaded.config, "the test")
    assert isinstance(config, DetectionConfig)
    model, rpn, heads = config.model, theirs.rpn, theirs.roi_heads
    assert (model.rpn.pre_nms_topk_train, model.rpn.pre_nms_topk_test) == tuple(
        rpn._pre_nms_top_n[mode] for mode in ("training", "testing")
    )
    assert (model.rpn.post_nms_topk_train, model.rpn.post_nms_topk_test) == tuple(
        rpn._post_nms_top_n[mode] for mode in ("training", "testing")
    )
    assert model.rpn.nms_thresh == rpn.nms_thresh and model.rpn.min_size == rpn.min_size
    assert model.rpn.num_samples == rpn.fg_bg_sampler.batch_size_per_image
    assert model.rpn.positive_fraction == rpn.fg_bg_sampler.positive_fraction
    matcher = rpn.proposal_matcher
    assert model.rpn.foreground_iou == matcher.high_threshold
    assert model.rpn.background_iou == matcher.low_threshold
    assert model.roi.num_samples == heads.fg_bg_sampler.batch_size_per_image
    assert model.roi.positive_fraction == heads.fg_bg_sampler.positive_fraction
    assert model.roi.stages[0].foreground_iou == heads.proposal_matcher.high_threshold
    assert tuple(model.roi.stages[0].box_weights) == heads.box_coder.weights
    assert model.roi.sampling_ratio == heads.box_roi_pool.sampling_ratio
    assert model.roi.box_head.pool_size == heads.box_roi_pool.output_size[0]
    assert (model.score_thresh, model.nms_thresh) == (heads.score_thresh, heads.nms_thresh)
    assert model.detections_per_image == heads.detections_per_img
    assert [[size] for size in model.rpn.anchor_sizes] == [
        list(sizes) for sizes in rpn.anchor_generator.sizes
    ]
    assert tuple(model.rpn.aspect_ratios) == rpn.anchor_generator.aspect_ratios[0]
    resize = theirs.transform
    assert config.data.test_resize.short_edge == resize.min_size[-1]
    assert config.data.test_resize.max_size == resize.max_size
    assert model.pixel_mean == pytest.approx([255 * value for value in resize.image_mean])
    assert model.pixel_std == pytest.approx([255 * value for value in resize.image_std])
    eps = {m.eps for m in theirs.modules() if isinstance(m, FrozenBatchNorm2d)}
    is_v2 = KINDS[name][1]
    assert eps == (set() if is_v2 else {0.0})
    assert model.backbone.norm_eps == (None if is_v2 else 0.0)
    assert model.backbone.norm == ("bn" if is_v2 else "frozen_bn")
    if not is_v2:  # v2 was trained whole, whatever its constructor freezes
        frozen = {k.split(".")[2] for k, p in theirs.named_parameters() if not p.requires_grad}
        assert frozen == {"conv1", "layer1"} and model.backbone.freeze_at == 2
    assert (model.roi.mask_head is not None) == heads.has_mask()


def test_classes_are_cocos_with_their_ids() -> None:
    with torch.device("meta"):
        state = published("fasterrcnn_resnet50_fpn", None).state_dict()
    loaded = imported(state, None, "the test")
    assert loaded.category_ids == list(range(1, 91))
    for number, name in enumerate(loaded.class_names, 1):
        assert name.replace(f" {number}", "") == _COCO_CATEGORIES[number]
    assert len(set(loaded.class_names)) == 90
    known = [
        (i, n) for i, n in zip(range(1, 91), loaded.class_names, strict=True) if "N/A" not in n
    ]
    assert known == COCO_CATEGORIES and len(known) == 80
    assert list(enumerate(_VOC_CATEGORIES))[1:] == VOC_CATEGORIES


def test_files_of_older_versions() -> None:
    """The published v1 files are from before 2022, when three parts had other names."""
    state = tiny("maskrcnn_resnet50_fpn").state_dict()
    old = {}
    for key, value in state.items():
        name = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "fpn." in name and "_blocks." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        for number in range(4):
            name = name.replace(f"mask_head.{number}.0.", f"mask_head.mask_fcn{number + 1}.")
        old[name] = value
    assert len(set(old) - set(state)) == 2 + 16 + 8
    tiny("maskrcnn_resnet50_fpn").load_state_dict(dict(old))  # torchvision knows them, too
    loaded, expected = (imported(each, None, "the test") for each in (old, state))
    assert loaded.config == expected.config
    assert all(torch.equal(loaded.state[key], value) for key, value in expected.state.items())


def test_eps_of_frozen_norms_follows_where_they_come_from() -> None:
    def eps(name: str | None, **options: Any) -> float | None:
        with torch.device("meta"):
            state = tiny("fasterrcnn_resnet50_fpn", depth=50, **options).state_dict()
        config = imported(state, name, "the test").config
        assert config is not None
        found: float | None = config["model"]["backbone"]["norm_eps"]
        return found

    assert eps(None) == 1e-5  # four classes of somebody's own
    assert eps("fasterrcnn_resnet50_fpn") == 1e-5
    assert eps("fasterrcnn_resnet50_fpn.COCO_V1") == 0.0
    assert eps(None, num_classes=91) == 0.0


def test_names_of_files() -> None:
    url = weights_url("maskrcnn_resnet50_fpn_v2.COCO_V1")
    assert url.endswith("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth")
    assert weights_url(f"torchvision:{MASK_V2}") == url
    assert weights_url(f"{MASK_V2}.DEFAULT") == url
    assert check_name("torchvision:fasterrcnn_resnet50_fpn") == "fasterrcnn_resnet50_fpn"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maskrcnn_resnet50_fpn_v3", "did you mean maskrcnn_resnet50_fpn_v2"),
        ("zzz", "it has fasterrcnn_resnet50_fpn, maskrcnn"),
        ("retinanet_resnet50_fpn", "resdet has no network for torchvision's detector 'retina"),
        ("maskrcnn_resnet50_fpn.COCO_V2", "no weights 'COCO_V2'; it only has COCO_V1"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fetch(name)


def test_download_is_kept_where_torchvision_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    plain = tmp_path / "plain.pth"
    torch.save({"a": torch.zeros(3)}, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    server = tmp_path / f"coco-{digest[:8]}.pth"
    shutil.move(plain, server)
    where = "resdet.interop.torchvision.detectors.weights_url"
    monkeypatch.setattr(where, lambda name: server.as_uri())
    path = fetch(MASK_V2)
    assert path == tmp_path / "hub" / "checkpoints" / server.name
    server.unlink()
    assert fetch(f"torchvision:{MASK_V2}") == path  # from the cache
    path.write_bytes(b"half")
    with pytest.raises(UserError, match="damaged"):
        fetch(MASK_V2)


def broken(change: str) -> dict[str, Tensor]:
    """The tensors of a tiny Mask R-CNN v2, wrong in one way."""
    state = dict(tiny(MASK_V2).state_dict())
    first = "roi_heads.box_head.0.0.weight"
    if change == "no RPN":
        state = {key: value for key, value in state.items() if not key.startswith("rpn.")}
    elif change == "keypoints":
        state["roi_heads.keypoint_head.0.weight"] = torch.zeros(2, 2)
    elif change == "scalar":
        state["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(())
    elif change == "blocks":
        state["backbone.body.layer1.2.conv1.weight"] = torch.zeros(1, 1)
    elif change == "wide":
        state["backbone.body.layer1.0.conv2.weight"] = torch.zeros(128, 128, 3, 3)
    elif change == "gn":
        state = {key: value for key, value in state.items() if "running" not in key}
    elif change == "anchors":
        state["rpn.head.cls_logits.weight"] = torch.zeros(9, 32, 1, 1)
    elif change == "narrow":
        state[first] = state[first][:5]
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no RPN", "no rpn.head.cls_logits.weight: it is truncated"),
        ("keypoints", "keypoint_head.0.weight is not a tensor of resdet"),
        ("scalar", r"cls_score.weight has shape \(\); it is damaged"),
        ("blocks", "backbone is not one of resnet18, "),
        ("wide", "backbone is not one of resnet18, "),
        ("gn", "bn1 is not a batch norm"),
        ("anchors", "9 anchors per position"),
        ("narrow", "not a square of 5 channels"),
    ],
)
def test_broken_tensors_are_named(change: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        imported(broken(change), None, "the test")


def test_shapes_that_do_not_fit_are_listed() -> None:
    state = dict(tiny(MASK_V2).state_dict())
    state["rpn.head.bbox_pred.bias"] = torch.zeros(7)
    del state["backbone.body.bn1.bias"]
    with pytest.raises(UserError, match=r"(?s)backbone.bn1.bias.*rpn.deltas.bias"):
        build_trained(imported(state, None, "the test"))


def test_another_network_than_named_is_refused() -> None:
    with torch.device("meta"):
        state = tiny("fasterrcnn_resnet50_fpn", depth=50).state_dict()
    with pytest.raises(UserError, match=f"holds fasterrcnn_resnet50_fpn by its .*, not {MASK_V2}"):
        imported(state, MASK_V2, "the test")
    with pytest.raises(UserError, match="is not one of torchvision's Faster or Mask"):
        imported(torchvision.models.resnet18().state_dict(), None, "the test")


def test_a_file_loads_with_and_without_its_source(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    state = tiny(MASK_V2).state_dict()
    torch.save(state, path)
    expected = imported(state, None, "the test").state
    for source in (None, "torchvision"):
        model = resdet.load(path, source=source, device="cpu")
        own_state = model.state_dict()
        assert all(torch.equal(own_state[key], value) for key, value in expected.items())
        assert set(own_state) == set(expected)
    with pytest.raises(UserError, match="holds maskrcnn_resnet18_fpn_v2 by its tensors"):
        resdet.load(path, source=f"torchvision:{MASK_V2}")


def own(changes: dict[str, Any]) -> LoadedWeights:
    model = tiny_model(changes)
    names, ids = model.class_names, model.category_ids
    plain = model.config.model_dump(mode="json")
    return LoadedWeights(dict(model.state_dict()), "detector", plain, "a run", names, ids)


CASCADE: dict[str, Any] = {
    "roi": {"stages": [{}] * 2, "box_head": {"class_agnostic": True}, "mask_head": None}
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "backbone.norm other than gn"),
        ({"backbone": {"norm": "bn"}, **CASCADE}, "one entry in roi.stages; .*class_agnostic"),
        ({"backbone": {"norm": "bn", "res5_dilation": 2}}, "res5_dilation 1 or null in section"),
        ({"backbone": {"norm": "bn", "name": "vgg16"}}, "backbone.name resnet18 or"),
        ({"backbone": {"norm": "bn"}, "channel_order": "bgr"}, "channel_order rgb"),
        ({"backbone": {"norm": "bn"}, "roi": {"box_head": {"num_fcs": 3}}}, "num_fcs 2"),
        ({"backbone": {"norm": "bn"}, "roi": {"context": True}}, "roi.context false"),
    ],
)
def test_what_torchvision_has_no_place_for_is_listed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        exported(own(changes))


def test_a_detector_of_our_own_is_written_for_torchvision() -> None:
    """A run's, with stages that were frozen: their norms get back the counters they lost."""
    head = {"num_convs": 2, "num_fcs": 1, "conv_dim": 16, "norm": "bn"}
    loaded = own({"backbone": {"norm": "bn", "freeze_at": 2}, "roi": {"box_head": head}})
    state = exported(loaded)
    counter = "backbone.layer1.0.bn1.num_batches_tracked"
    assert counter not in loaded.state
    assert state[counter.replace("backbone", "backbone.body")].dtype == torch.int64
    # after two convolutions a flattening, and then the layer
    assert state["roi_heads.box_head.3.weight"].shape == (32, 16 * 49)
    again = imported(state, None, "the test")
    assert all(torch.equal(again.state[key], value) for key, value in loaded.state.items())
