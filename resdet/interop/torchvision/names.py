"""A detector's tensors under torchvision's names and resdet's, and the row of background in them.

torchvision counts background as class 0, resdet as the last class.
"""

import re

import torch
from torch import Tensor

from resdet.errors import UserError

# torchvision's names before 2022 and its present ones.
OLD_NAMES = (
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"^(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
)
OLD_MASK_CONV = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.(weight|bias)$")
PYRAMID = tuple(
    (f"backbone.fpn.{theirs}_blocks.{i}.", f"fpn.{ours}{i + 2}.")
    for theirs, ours in (("inner", "lateral.c"), ("layer", "output.p"))
    for i in range(4)
)
STARTS = (
    *PYRAMID,
    ("backbone.body.", "backbone."),
    ("rpn.head.conv.", "rpn.conv."),
    ("rpn.head.cls_logits.", "rpn.objectness."),
    ("rpn.head.bbox_pred.", "rpn.deltas."),
    ("roi_heads.box_head.fc6.", "roi_heads.stages.0.fcs.0."),
    ("roi_heads.box_head.fc7.", "roi_heads.stages.0.fcs.2."),
    ("roi_heads.box_predictor.", "roi_heads.stages.0."),
    ("roi_heads.mask_head.", "roi_heads.mask_head.convs."),
    ("roi_heads.mask_predictor.conv5_mask.", "roi_heads.mask_head.deconv."),
    ("roi_heads.mask_predictor.mask_fcn_logits.", "roi_heads.mask_head.predictor."),
)
"""Prefixes, torchvision's and ours, of names that are otherwise equal."""
BOX_LAYER = re.compile(r"roi_heads\.box_head\.(\d+)\.(.+)")
OUR_BOX_LAYER = re.compile(r"roi_heads\.stages\.0\.(convs|fcs)\.(\d+)\.(.+)")
LOGITS, DELTAS = "roi_heads.stages.0.cls_score.", "roi_heads.stages.0.bbox_pred."
MASKS = "roi_heads.mask_head.predictor."


def present_name(key: str) -> str:
    """torchvision's present name for a name of any of its versions."""
    for old, new in OLD_NAMES:
        key = old.sub(new, key)
    return OLD_MASK_CONV.sub(lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}", key)


def our_name(key: str, num_convs: int, source: str) -> str:
    """Our name for torchvision's present name; the box head has `num_convs` convolutions.

    Raises UserError for a tensor that resdet's detectors do not have.
    """
    layer = BOX_LAYER.fullmatch(key)
    if layer:
        # one list: convolutions with their norms, a flattening, then layers and their ReLUs
        number = int(layer[1])
        if "." in layer[2]:
            return f"roi_heads.stages.0.convs.{number}.{layer[2]}"
        return f"roi_heads.stages.0.fcs.{number - num_convs - 1}.{layer[2]}"
    for theirs, ours in STARTS:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    raise UserError(
        f"{source}: {key} is not a tensor of resdet's detectors (boxes and masks, on ResNets)"
    )


def without_background(key: str, value: Tensor) -> Tensor:
    """Our tensor `key` from torchvision's rows: the logit of background moves to the end; its
    deltas and its mask, which no loss and no result uses, are dropped."""
    if value.ndim == 0:
        return value  # damaged; its shape is refused when it is loaded
    if key.startswith(LOGITS):
        return torch.cat([value[1:], value[:1]])
    if key.startswith(DELTAS):
        return value[4:].clone()
    return value[1:].clone() if key.startswith(MASKS) else value


def their_name(key: str, num_convs: int, source: str) -> str:
    """The inverse of `our_name`; UserError if torchvision has no such tensor."""
    layer = OUR_BOX_LAYER.fullmatch(key)
    if layer and num_convs:
        number = int(layer[2]) + (0 if layer[1] == "convs" else num_convs + 1)
        return f"roi_heads.box_head.{number}.{layer[3]}"
    # the longest prefix decides: stages.0. is the predictor, and stages.0.fcs.0. is fc6
    starts = [pair for pair in STARTS if key.startswith(pair[1])]
    if not starts:
        raise UserError(
            f"{source}: torchvision's detectors have no {key}; convert it to resdet or Detectron2"
        )
    theirs, ours = max(starts, key=lambda pair: len(pair[1]))
    return theirs + key.removeprefix(ours)


def with_background(key: str, value: Tensor) -> Tensor:
    """The inverse of `without_background`; the deltas and the mask of background are 0."""
    if key.startswith(LOGITS):
        return torch.cat([value[-1:], value[:-1]])
    if key.startswith((DELTAS, MASKS)):
        rows = 4 if key.startswith(DELTAS) else 1
        return torch.cat([value.new_zeros((rows, *value.shape[1:])), value])
    return value
