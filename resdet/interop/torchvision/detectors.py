"""torchvision's Faster and Mask R-CNN with a ResNet-FPN, read and written.

`torchvision:maskrcnn_resnet50_fpn_v2` is a published one; `….COCO_V1` is the same. The tensors of a
file identify its network: v1 or v2, with or without masks, its depth and number of classes.

torchvision counts background as class 0, resdet as the last class: its logit moves, and its deltas
and mask, which no loss and no result uses, are dropped. Written back they are zeros; all other
tensors come back unchanged, under torchvision's present names (before 2022 it had others for the
RPN, the pyramid and the mask head).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError, did_you_mean
from resdet.interop.coco_classes import COCO_CATEGORIES
from resdet.interop.files import count_names, find_matrix
from resdet.interop.loaded import LoadedWeights, numbered_classes
from resdet.interop.torchvision.classifiers import DEPTHS, PREFIX, SHAPES, fetch_url
from resdet.interop.torchvision.names import (
    our_name,
    present_name,
    their_name,
    with_background,
    without_background,
)

NAMES = (
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn_v2",
)
"""torchvision's published detectors that resdet supports, all with weights COCO_V1."""
WEIGHTS = "COCO_V1"
EPOCHS = 26
"""As torchvision trained its v1 detectors; the schema requires a length."""

NUM_ANCHORS = 3
LOGITS = "roi_heads.box_predictor.cls_score.weight"
MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
BOX_CONV = r"roi_heads\.box_head\.\d+\.0\.weight"
COUNTER = "num_batches_tracked"


def names_detector(name: str) -> bool:
    """Whether `name`, without the prefix, is one of torchvision's detectors, supported or not."""
    from torchvision import models

    return name.partition(".")[0] in models.list_models(module=models.detection)


def check_name(name: str) -> str:
    """The model in `name`, with or without weights; UserError with similar names for others."""
    model, _, weights = name.removeprefix(PREFIX).partition(".")
    if model not in NAMES:
        hint = did_you_mean(model, NAMES, f"it has {', '.join(NAMES)}", most=2)
        raise UserError(f"resdet has no network for torchvision's detector {model!r}; {hint}")
    if weights not in ("", "DEFAULT", WEIGHTS):
        raise UserError(f"{PREFIX}{model} has no weights {weights!r}; it only has {WEIGHTS}")
    return model


def weights_url(name: str) -> str:
    """The address of the weights of torchvision's detector `name`; UserError as `check_name`."""
    from torchvision import models

    return str(models.get_model_weights(check_name(name))[WEIGHTS].value.url)


def fetch(name: str) -> Path:
    """The local file of the published detector `name`, downloaded once into torch.hub's folder.

    Raises UserError as `check_name` and `fetch_url`.
    """
    return fetch_url(weights_url(name), PREFIX + name.removeprefix(PREFIX))


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of one of torchvision's detectors."""
    return LOGITS in state and any(key.startswith("backbone.body.") for key in state)


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The detector in `values`, tensors under torchvision's names.

    `name` is one of `NAMES`, with or without `.COCO_V1`, or None. Frozen batch norms have eps 0 for
    COCO's 91 classes and for COCO_V1, as in torchvision; else 1e-5.
    Raises UserError for tensors of other networks, and of another one than `name`.
    """
    state = {present_name(k): v for k, v in values.items() if isinstance(v, Tensor)}
    if not recognises(state):
        raise UserError(f"{source} is not one of torchvision's Faster or Mask R-CNNs")
    config = config_from_dict(_settings(state, name, source), source)
    if name is not None:
        _check_named(check_name(name), state, source)
    names, ids = _classes(len(find_matrix(state, LOGITS, source)) - 1)
    num_convs = count_names(state, BOX_CONV)
    renamed = {our_name(key, num_convs, source): value for key, value in state.items()}
    renamed = {key: without_background(key, value) for key, value in renamed.items()}
    return LoadedWeights(renamed, "detector", config_to_dict(config), source, names, ids)


def _check_named(model: str, state: Mapping[str, Tensor], source: str) -> None:
    """UserError if the tensors belong to another network than the one named."""
    kind = "mask" if MASK_LOGITS in state else "faster"
    version = "_v2" if "roi_heads.box_head.fc6.weight" not in state else ""
    own = f"{kind}rcnn_{_depth(state, source)}_fpn{version}"
    if own != model:
        raise UserError(
            f"{source} holds {own} by its tensors, not {model}; leave the name out or correct it"
        )


def _settings(state: Mapping[str, Tensor], name: str | None, source: str) -> dict[str, Any]:
    """resdet's config, as plain values, of the network with these tensors."""
    norm = _norm(state, "backbone.body.bn1", source)
    num_classes = len(find_matrix(state, LOGITS, source))
    published = num_classes == 91 or (name or "").endswith((f".{WEIGHTS}", ".DEFAULT"))
    backbone: dict[str, Any] = {"name": _depth(state, source), "norm": norm}
    if norm == "frozen_bn":
        # torchvision trains res3 … res5 of an ImageNet network
        backbone |= {"freeze_at": 2, "norm_eps": 0.0 if published else 1e-5}
    anchors = len(find_matrix(state, "rpn.head.cls_logits.weight", source))
    if anchors != NUM_ANCHORS:
        raise UserError(
            f"{source} has {anchors} anchors per position, and torchvision's detectors have "
            f"{NUM_ANCHORS}; their sizes are not in the file"
        )
    channels = len(find_matrix(state, "backbone.fpn.inner_blocks.0.0.weight", source))
    fpn_norm = _norm(state, "backbone.fpn.inner_blocks.0.1", source)
    model = {
        "num_classes": num_classes - 1,
        "backbone": backbone,
        "fpn": {"out_channels": channels, "norm": fpn_norm},
        "rpn": {
            "num_convs": count_names(state, r"rpn\.head\.conv\.\d+\.0\.weight"),
            "round_anchors": True,
            "anchor_spacing": "rounded",
            "post_nms_topk_train": 2000,
            "min_size": 1e-3,
            "loss_normalizer": "sampled",
            "box_loss": "smooth_l1",
            "smooth_l1_beta": 1 / 9,
        },
        "roi": {
            "aligned": False,
            "sampling_ratio": 2,
            "box_head": _box_head(state, channels, source),
            "mask_head": _mask_head(state, source),
        },
        "min_detection_size": 1e-2,
    }
    data = {"test_resize": {"method": "float"}}
    return {"model": model, "data": data, "train": {"epochs": EPOCHS}}


def _box_head(state: Mapping[str, Tensor], channels: int, source: str) -> dict[str, Any]:
    head: dict[str, Any] = {"box_loss": "smooth_l1", "smooth_l1_beta": 1 / 9}
    if "roi_heads.box_head.fc6.weight" in state:
        first, num_convs, num_fcs = find_matrix(state, "box_head.fc6.weight", source), 0, 2
    else:
        num_convs = count_names(state, BOX_CONV)
        # after the convolutions come a flattening, then layers and their ReLUs
        first = find_matrix(state, f"roi_heads.box_head.{num_convs + 1}.weight", source)
        num_fcs = count_names(state, r"roi_heads\.box_head\.\d+\.weight")
    if num_convs:
        channels = len(find_matrix(state, "roi_heads.box_head.0.0.weight", source))
        norm = _norm(state, "roi_heads.box_head.0.1", source)
        head |= {"num_convs": num_convs, "conv_dim": channels, "norm": norm}
    size = round((first.shape[1] / channels) ** 0.5)
    if size * size * channels != first.shape[1]:
        raise UserError(
            f"{source}: the box head takes {first.shape[1]} numbers, which is not a square of "
            f"{channels} channels"
        )
    return {**head, "num_fcs": num_fcs, "fc_dim": len(first), "pool_size": size}


def _mask_head(state: Mapping[str, Tensor], source: str) -> dict[str, Any] | None:
    if MASK_LOGITS not in state:
        return None
    return {
        "num_convs": count_names(state, r"roi_heads\.mask_head\.\d+\.0\.weight"),
        "conv_dim": len(find_matrix(state, "roi_heads.mask_head.0.0.weight", source)),
        "norm": _norm(state, "roi_heads.mask_head.0.1", source),
        "paste": "rounded",
    }


def _depth(state: Mapping[str, Tensor], source: str) -> str:
    """resdet's name of the backbone; UserError for other networks and for wider ones."""
    body = "backbone.body."
    counts = [count_names(state, rf"body\.layer{n}\.\d+\.conv1\.weight") for n in range(1, 5)]
    name = DEPTHS.get((f"{body}layer1.0.conv3.weight" in state, tuple(counts)))
    is_plain = all(
        tuple(state[body + key].shape) == shape
        for key, shape in SHAPES.items()
        if body + key in state
    )
    if name is None or not is_plain:
        raise UserError(
            f"{source}: its backbone is not one of {', '.join(DEPTHS.values())}, which "
            "resdet supports in torchvision's detectors"
        )
    return name


def _norm(state: Mapping[str, Tensor], prefix: str, source: str) -> str:
    """The norm at `prefix`: batch norm counts its batches, frozen batch norm does not."""
    if f"{prefix}.weight" not in state:
        return "none"
    if f"{prefix}.running_mean" not in state:
        raise UserError(f"{source}: {prefix} is not a batch norm, as in torchvision's detectors")
    return "bn" if f"{prefix}.{COUNTER}" in state else "frozen_bn"


def _classes(count: int) -> tuple[list[str], list[int]]:
    """Names and original ids of `count` classes; 90 are COCO's ids, of which ten are unused."""
    ids = list(range(1, count + 1))
    if count == 90:
        known = dict(COCO_CATEGORIES)
        return [known.get(number, f"N/A {number}") for number in ids], ids
    return numbered_classes(count), ids


def exported(weights: LoadedWeights) -> dict[str, Tensor]:
    """A detector's state dict for torchvision's model of the same network.

    K classes become K + 1, class k becomes k + 1, and the deltas and the mask of background are 0.
    A state dict holds nothing of the config: sizes, thresholds, mean and deviation are arguments of
    torchvision's model, and what it only does in one way (unaligned regions, rounded anchors,
    pasting) may differ from the config.
    Raises UserError that lists what torchvision's detectors can't have.
    """
    config = weights.detection_config()
    _check_exportable(config, weights.source)
    num_convs = config.model.roi.box_head.num_convs
    state: dict[str, Tensor] = {}
    for key, value in weights.state.items():
        state[their_name(key, num_convs, weights.source)] = with_background(key, value)
    for key in list(state):
        # a batch norm that was frozen in between has lost its counter
        counter = key.removesuffix("running_mean") + COUNTER
        if key.endswith("running_mean") and counter not in state and _is_trained(key, config):
            state[counter] = torch.zeros((), dtype=torch.int64)
    return state


def _is_trained(key: str, config: DetectionConfig) -> bool:
    """Whether torchvision's norm at `key` counts batches."""
    model, mask = config.model, config.model.roi.mask_head
    norms = {
        "backbone.body.": model.backbone.norm or "bn",
        "backbone.fpn.": model.fpn.norm if model.fpn else "none",
        "roi_heads.box_head.": model.roi.box_head.norm,
        "roi_heads.mask_head.": mask.norm if mask else "none",
    }
    return any(key.startswith(k) and norm in ("bn", "sync_bn") for k, norm in norms.items())


def _check_exportable(config: DetectionConfig, source: str) -> None:
    """UserError that lists the options which torchvision's classes can't have."""
    model, box, mask = config.model, config.model.roi.box_head, config.model.roi.mask_head
    backbone, fpn = model.backbone, model.fpn
    norms = {
        "backbone.norm": backbone.norm,
        "fpn.norm": fpn.norm if fpn else None,
        "roi.box_head.norm": box.norm,
        "roi.mask_head.norm": mask.norm if mask else None,
    }
    names = DEPTHS.values()
    wanted = {
        f"backbone.name {' or '.join(names)}": backbone.name in names,
        "backbone.shortcut B or null": backbone.shortcut in (None, "B"),
        "backbone.stride_in_1x1 false": not backbone.stride_in_1x1,
        "backbone.res5_dilation 1 or null": backbone.res5_dilation != 2,
        "a pyramid (fpn)": fpn is not None,
        "one entry in roi.stages": len(model.roi.stages) == 1,
        "roi.box_head.type fc": box.type == "fc",
        "roi.context false": not model.roi.context,
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
            f"{source}: torchvision's detectors cannot represent it; they need "
            f"{'; '.join(absent)} in section model"
        )
