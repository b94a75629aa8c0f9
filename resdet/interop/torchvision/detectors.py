"""torchvision's Faster and Mask R-CNN with a ResNet-FPN, read and written.

`torchvision:maskrcnn_resnet50_fpn_v2` names a published one; `….COCO_V1` is the same. A file tells
by its tensors what it is: v1 or v2, with masks or without, its depth and number of classes.

torchvision counts background as class 0, resdet as the last: its logit moves, and the deltas and
the mask of background, which no loss and no result ever uses, are left out. Written back they are
zeros; all other tensors come back as they were, under torchvision's present names (its files of
before 2022 have older ones for the RPN, the pyramid and the mask head).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.interop.coco_classes import COCO_CATEGORIES
from resdet.interop.download import fetch as fetch_url
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision import classifiers as torchvision
from resdet.interop.torchvision.names import (
    our_name,
    present_name,
    their_name,
    with_background,
    without_background,
)

PREFIX = torchvision.PREFIX
NAMES = (
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn_v2",
)
"""torchvision's published detectors that resdet has the network of, all with weights COCO_V1."""
WEIGHTS = "COCO_V1"
EPOCHS = 26
"""What torchvision trained its v1 detectors for; a config asks for a length."""

NUM_ANCHORS = 3
BOX_CONV = r"roi_heads\.box_head\.\d+\.0\.weight"
COUNTER = "num_batches_tracked"


def names_detector(name: str) -> bool:
    """Whether `name`, without the prefix, is one of torchvision's detectors, resdet's or not."""
    from torchvision import models

    return name.partition(".")[0] in models.list_models(module=models.detection)


def check_name(name: str) -> str:
    """The model's name in `name`, which may end in its weights; UserError for another one."""
    model, _, weights = name.removeprefix(PREFIX).partition(".")
    if model not in NAMES:
        near = difflib.get_close_matches(model, NAMES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(NAMES)}"
        raise UserError(f"resdet has no network for torchvision's detector {model!r}; {hint}")
    if weights not in ("", "DEFAULT", WEIGHTS):
        raise UserError(f"{PREFIX}{model} has no weights {weights!r}; it has {WEIGHTS} alone")
    return model


def weights_url(name: str) -> str:
    """Where torchvision keeps the weights of its detector `name`; UserError as `check_name`."""
    from torchvision import models

    return str(models.get_model_weights(check_name(name))[WEIGHTS].value.url)


def fetch(name: str) -> Path:
    """The local file of the published detector `name`, downloaded once into torch.hub's folder.

    Raises UserError for a name that is none of `NAMES`, without network, and for a damaged file.
    """
    url = weights_url(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    match = torchvision.HASH_IN_NAME.search(path.name)
    spec = PREFIX + name.removeprefix(PREFIX)
    return fetch_url(url, path, sha256=match[1] if match else None, spec=spec)


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of a torchvision detector's tensors."""
    return "roi_heads.box_predictor.cls_score.weight" in state and any(
        key.startswith("backbone.body.") for key in state
    )


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The detector in `values`, the tensors by torchvision's names.

    `name` is one of `NAMES`, with or without `.COCO_V1`, or None. Frozen batch norms have eps 0
    where the file has COCO's 91 classes or is said to come from COCO_V1, as torchvision sets it
    for these weights; else 1e-5.
    Raises UserError for tensors that are none of such a network's, and for another network than
    `name` says.
    """
    state = {present_name(k): v for k, v in values.items() if isinstance(v, Tensor)}
    if not recognises(state):
        raise UserError(f"{source} holds none of torchvision's Faster or Mask R-CNNs")
    config = config_from_dict(_settings(state, name, source), source)
    if name is not None:
        _check_told(check_name(name), state, source)
    count = len(_tensor(state, "roi_heads.box_predictor.cls_score.weight", source)) - 1
    names, ids = _classes(count)
    num_convs = _count(state, BOX_CONV)
    renamed = {our_name(key, num_convs, source): value for key, value in state.items()}
    renamed = {key: without_background(key, value) for key, value in renamed.items()}
    return LoadedWeights(renamed, "detector", config_to_dict(config), source, names, ids)


def _check_told(model: str, state: Mapping[str, Tensor], source: str) -> None:
    """UserError where the tensors are those of another network than the one named."""
    has_masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in state
    is_v2 = "roi_heads.box_head.fc6.weight" not in state
    depth = _depth(state, source).removeprefix("resnet")
    told = f"{'mask' if has_masks else 'faster'}rcnn_resnet{depth}_fpn{'_v2' if is_v2 else ''}"
    if told != model:
        raise UserError(
            f"{source} holds {told} by its tensors, not {model}; leave the name out or correct it"
        )


def _settings(state: Mapping[str, Tensor], name: str | None, source: str) -> dict[str, Any]:
    """resdet's config, as plain values, of the network that has these tensors."""
    norm = _norm(state, "backbone.body.bn1", source)
    num_classes = len(_tensor(state, "roi_heads.box_predictor.cls_score.weight", source))
    published = num_classes == 91 or (name or "").endswith((f".{WEIGHTS}", ".DEFAULT"))
    backbone: dict[str, Any] = {"name": _depth(state, source), "norm": norm}
    if norm == "frozen_bn":
        # torchvision trains res3 … res5 on top of an ImageNet network
        backbone |= {"freeze_at": 2, "norm_eps": 0.0 if published else 1e-5}
    anchors = len(_tensor(state, "rpn.head.cls_logits.weight", source))
    if anchors != NUM_ANCHORS:
        raise UserError(
            f"{source} has {anchors} anchors at each place, and torchvision's detectors "
            f"{NUM_ANCHORS}; their sizes are not in the file"
        )
    lateral = _tensor(state, "backbone.fpn.inner_blocks.0.0.weight", source)
    roi: dict[str, Any] = {
        "aligned": False,
        "sampling_ratio": 2,
        "box_head": _box_head(state, len(lateral), source),
        "mask_head": _mask_head(state, source),
    }
    fpn_norm = _norm(state, "backbone.fpn.inner_blocks.0.1", source)
    model = {
        "num_classes": num_classes - 1,
        "backbone": backbone,
        "fpn": {"out_channels": len(lateral), "norm": fpn_norm},
        "rpn": {
            "num_convs": _count(state, r"rpn\.head\.conv\.\d+\.0\.weight"),
            "round_anchors": True,
            "anchor_spacing": "rounded",
            "post_nms_topk_train": 2000,
            "min_size": 1e-3,
            "loss_normalizer": "sampled",
            "box_loss": "smooth_l1",
            "smooth_l1_beta": 1 / 9,
        },
        "roi": roi,
        "min_detection_size": 1e-2,
    }
    data = {"test_resize": {"method": "float"}}
    return {"model": model, "data": data, "train": {"epochs": EPOCHS}}


def _box_head(state: Mapping[str, Tensor], channels: int, source: str) -> dict[str, Any]:
    head: dict[str, Any] = {"box_loss": "smooth_l1", "smooth_l1_beta": 1 / 9}
    if "roi_heads.box_head.fc6.weight" in state:
        first, num_convs, num_fcs = _tensor(state, "roi_heads.box_head.fc6.weight", source), 0, 2
    else:
        num_convs = _count(state, BOX_CONV)
        # the list goes on with a flattening, then layers and their ReLUs
        first = _tensor(state, f"roi_heads.box_head.{num_convs + 1}.weight", source)
        num_fcs = _count(state, r"roi_heads\.box_head\.\d+\.weight")
    if num_convs:
        channels = len(_tensor(state, "roi_heads.box_head.0.0.weight", source))
        norm = _norm(state, "roi_heads.box_head.0.1", source)
        head |= {"num_convs": num_convs, "conv_dim": channels, "norm": norm}
    size = round((first.shape[1] / channels) ** 0.5)
    if size * size * channels != first.shape[1]:
        raise UserError(
            f"{source}: the box head takes {first.shape[1]} numbers, which are no square of "
            f"{channels} channels"
        )
    return {**head, "num_fcs": num_fcs, "fc_dim": len(first), "pool_size": size}


def _mask_head(state: Mapping[str, Tensor], source: str) -> dict[str, Any] | None:
    if "roi_heads.mask_predictor.mask_fcn_logits.weight" not in state:
        return None
    return {
        "num_convs": _count(state, r"roi_heads\.mask_head\.\d+\.0\.weight"),
        "conv_dim": len(_tensor(state, "roi_heads.mask_head.0.0.weight", source)),
        "norm": _norm(state, "roi_heads.mask_head.0.1", source),
        "paste": "rounded",
    }


def _depth(state: Mapping[str, Tensor], source: str) -> str:
    """resdet's name of the backbone; UserError for other networks and for wider ones."""
    counts = tuple(
        _count(state, rf"backbone\.body\.layer{stage}\.\d+\.conv1\.weight") for stage in range(1, 5)
    )
    is_bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    found = [name for kind, name in torchvision.DEPTHS.items() if kind == (is_bottleneck, counts)]
    is_plain = all(
        tuple(state[f"backbone.body.{key}"].shape) == shape
        for key, shape in torchvision.SHAPES.items()
        if f"backbone.body.{key}" in state
    )
    if not found or not is_plain:
        raise UserError(
            f"{source}: its backbone is none of {', '.join(torchvision.DEPTHS.values())}, "
            "which resdet has of torchvision's detectors"
        )
    return found[0]


def _norm(state: Mapping[str, Tensor], prefix: str, source: str) -> str:
    """The norm at `prefix`: batch norm counts its batches, a frozen one does not."""
    if f"{prefix}.weight" not in state:
        return "none"
    if f"{prefix}.running_mean" not in state:
        raise UserError(f"{source}: {prefix} is no batch norm, which torchvision's detectors have")
    return "bn" if f"{prefix}.{COUNTER}" in state else "frozen_bn"


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(1 for key in state if re.fullmatch(pattern, key))


def _tensor(state: Mapping[str, Tensor], key: str, source: str) -> Tensor:
    """The matrix or filter at `key`; UserError where it is missing or has no rows of any size."""
    value = state.get(key)
    if value is None:
        raise UserError(f"{source} has no {key}: it is cut short, or no detector of resdet's kind")
    if value.ndim < 2 or 0 in value.shape:
        raise UserError(f"{source}: {key} has shape {tuple(value.shape)}; it is damaged")
    return value


def _classes(count: int) -> tuple[list[str], list[int]]:
    """Names and original ids of `count` classes: 90 are COCO's ids, of which ten are unused."""
    ids = list(range(1, count + 1))
    if count == 90:
        known = dict(COCO_CATEGORIES)
        return [known.get(number, f"N/A {number}") for number in ids], ids
    return [f"class {number}" for number in ids], ids


def exported(weights: LoadedWeights) -> dict[str, Tensor]:
    """A detector's state dict as torchvision's model of the same network loads it.

    A model with K classes becomes one with K + 1, class k as k + 1; what background has of deltas
    and masks is 0. Of the config nothing is in a state dict: its sizes, thresholds, mean and
    deviation are arguments of torchvision's model, and what that does in one way only
    (unaligned regions, rounded anchors, pasting) may have been otherwise here.
    Raises UserError that lists what torchvision's detectors have no place for.
    """
    if weights.kind != "detector" or weights.config is None:
        raise UserError(f"{weights.source} is no detector with its config")
    config = config_from_dict(weights.config, weights.source)
    assert isinstance(config, DetectionConfig), "a detector has a detection config"
    _check_exportable(config, weights.source)
    num_convs = config.model.roi.box_head.num_convs
    state: dict[str, Tensor] = {}
    for key, value in weights.state.items():
        state[their_name(key, num_convs, weights.source)] = with_background(key, value)
    for key in list(state):
        # a batch norm that was frozen on the way has lost its counter
        counter = key.removesuffix("running_mean") + COUNTER
        if key.endswith("running_mean") and counter not in state and _is_trained(key, config):
            state[counter] = torch.zeros((), dtype=torch.int64)
    return state


def _is_trained(key: str, config: DetectionConfig) -> bool:
    """Whether torchvision's norm at `key` is one that counts batches."""
    model, mask = config.model, config.model.roi.mask_head
    norms = {
        "backbone.body.": model.backbone.norm or "bn",
        "backbone.fpn.": model.fpn.norm if model.fpn else "none",
        "roi_heads.box_head.": model.roi.box_head.norm,
        "roi_heads.mask_head.": mask.norm if mask else "none",
    }
    return any(key.startswith(k) and norm in ("bn", "sync_bn") for k, norm in norms.items())


def _check_exportable(config: DetectionConfig, source: str) -> None:
    """UserError that lists the options of a network that torchvision's classes can't hold."""
    model, box, mask = config.model, config.model.roi.box_head, config.model.roi.mask_head
    backbone, fpn = model.backbone, model.fpn
    norms = {
        "backbone.norm": backbone.norm,
        "fpn.norm": fpn.norm if fpn else None,
        "roi.box_head.norm": box.norm,
        "roi.mask_head.norm": mask.norm if mask else None,
    }
    names = torchvision.DEPTHS.values()
    wanted = {
        f"backbone.name {' or '.join(names)}": backbone.name in names,
        "backbone.shortcut B or null": backbone.shortcut in (None, "B"),
        "backbone.stride_in_1x1 false": not backbone.stride_in_1x1,
        "backbone.res5_dilation 1 or null": backbone.res5_dilation != 2,
        "a pyramid (fpn)": fpn is not None,
        "one entry in roi.stages": len(model.roi.stages) == 1,
        "roi.box_head.type fc": box.type == "fc",
        "roi.box_head with num_convs 0 and num_fcs 2, or with convolutions": box.num_convs > 0
        or box.num_fcs == 2,
        "roi.box_head.class_agnostic false": not box.class_agnostic,
        "roi.mask_head.class_agnostic false": mask is None or not mask.class_agnostic,
        "channel_order rgb": model.channel_order == "rgb",
        **{f"{key} other than gn": norm != "gn" for key, norm in norms.items()},
    }
    absent = [text for text, holds in wanted.items() if not holds]
    if absent:
        raise UserError(
            f"{source}: torchvision's detectors can't hold this network; they need "
            f"{'; '.join(absent)} in section model"
        )
