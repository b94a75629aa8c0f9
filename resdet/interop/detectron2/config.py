"""Detectron2's configs as resdet's and back: every convention that the numbers depend on.

Keys are dotted, as in `MODEL.RPN.NMS_THRESH`. Where resdet has only one way, another value is
refused, so that no config is read wrongly.
"""

from collections.abc import Callable
from typing import Any

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_to_dict
from resdet.errors import UserError
from resdet.interop.detectron2.settings import (
    DEFAULTS,
    FIXED,
    NORMS,
    SAME,
    SAME_NORMS,
    Settings,
    nested,
)
from resdet.interop.loaded import value_at

THEIR_NORMS = {ours: theirs for theirs, ours in reversed(NORMS.items())} | {"sync_bn": "SyncBN"}
# Detectron2 lets the config name a head class; C4 heads have their own.
ROI_HEADS = ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads")
POOLERS = {"ROIAlignV2": ("align", True), "ROIAlign": ("align", False), "ROIPool": ("pool", True)}
"""Detectron2's poolers, and `model.roi.pooling` and `model.roi.aligned` of each."""
TRAIN_STEPS = 90_000
"""Detectron2's 1× schedule; the schema requires a length, and a converted model is not trained."""

Get = Callable[[str], Any]


def from_detectron2(given: Settings, source: str) -> dict[str, Any]:
    """resdet's config, as plain values, of a detector with these settings over the defaults.

    Raises UserError that names the setting for what resdet does not have.
    """
    for key, only in FIXED.items():
        if key in given and given[key] != only:
            raise UserError(f"{source}: {key} is {given[key]}; resdet only supports {only!r}")
    get = {**DEFAULTS, **given}.__getitem__
    heads = get("MODEL.ROI_HEADS.NAME")
    if heads not in ROI_HEADS:
        raise UserError(
            f"{source}: MODEL.ROI_HEADS.NAME is {heads}; resdet supports {', '.join(ROI_HEADS)}"
        )
    is_c4, has_masks = heads == "Res5ROIHeads", get("MODEL.MASK_ON")
    has_fpn = get("MODEL.BACKBONE.NAME") == "build_resnet_fpn_backbone"
    _check_maps(get, has_fpn, source)
    absent = [] if has_fpn else ["model.fpn"]
    absent += [] if has_masks else ["model.roi.mask_head"]
    values: dict[str, Any] = dict.fromkeys(absent)
    for ours, theirs in {**SAME, **SAME_NORMS}.items():
        if not ours.startswith(tuple(absent)):
            values[ours] = _norm(get, theirs, source) if ours in SAME_NORMS else get(theirs)
    values["model.backbone.name"] = f"resnet{get('MODEL.RESNETS.DEPTH')}"
    if get("MODEL.RESNETS.DEPTH") >= 50:
        values["model.backbone.stride_in_1x1"] = get("MODEL.RESNETS.STRIDE_IN_1X1")
    if get("MODEL.RESNETS.RES5_DILATION") != 1:
        values["model.backbone.res5_dilation"] = get("MODEL.RESNETS.RES5_DILATION")
    values["model.channel_order"] = get("INPUT.FORMAT").lower()
    values["data.augment.resize.short_edges"] = list(get("INPUT.MIN_SIZE_TRAIN"))
    values["data.augment.resize.max_size"] = get("INPUT.MAX_SIZE_TRAIN")
    values["train.max_steps"] = TRAIN_STEPS
    values |= _rpn(get, source) | _roi(get, source)
    values["model.roi.box_head.type"] = "res5" if is_c4 else "fc"
    if is_c4:
        values |= {"model.roi.box_head.num_convs": 0, "model.roi.box_head.num_fcs": 0}
        if has_masks:
            # C4's mask head takes the regions of its box head
            values["model.roi.mask_head.pool_size"] = get("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION")
    return nested(values)


def _check_maps(get: Get, has_fpn: bool, source: str) -> None:
    """UserError if proposals or regions use other feature maps than resdet's."""
    c4 = get("MODEL.ROI_HEADS.NAME") == "Res5ROIHeads"
    proposals = ["p2", "p3", "p4", "p5", "p6"] if has_fpn else ["res4" if c4 else "res5"]
    regions = proposals[:-1] if has_fpn else proposals
    if has_fpn and c4:
        raise UserError(f"{source}: resdet does not support Res5ROIHeads with a feature pyramid")
    for key, wanted in (
        ("MODEL.RPN.IN_FEATURES", proposals),
        ("MODEL.ROI_HEADS.IN_FEATURES", regions),
    ):
        if list(get(key)) != wanted:
            raise UserError(f"{source}: {key} is {get(key)}; resdet only supports {wanted}")


def _norm(get: Get, key: str, source: str) -> str:
    if get(key) not in NORMS:
        raise UserError(f"{source}: {key} is {get(key)!r}; resdet supports {', '.join(NORMS)}")
    return NORMS[get(key)]


def _box_loss(get: Get, theirs: str, ours: str, source: str) -> dict[str, Any]:
    kind, beta = get(f"{theirs}.BBOX_REG_LOSS_TYPE"), get(f"{theirs}.SMOOTH_L1_BETA")
    if kind not in ("smooth_l1", "giou"):
        raise UserError(
            f"{source}: {theirs}.BBOX_REG_LOSS_TYPE is {kind}; resdet supports smooth_l1 and giou"
        )
    # a beta of 0 is L1
    if kind == "smooth_l1" and beta > 0:
        return {f"{ours}.box_loss": "smooth_l1", f"{ours}.smooth_l1_beta": beta}
    return {f"{ours}.box_loss": "l1" if kind == "smooth_l1" else kind}


def _rpn(get: Get, source: str) -> dict[str, Any]:
    sizes = [list(level) for level in get("MODEL.ANCHOR_GENERATOR.SIZES")]
    ratios = [list(level) for level in get("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")]
    if any(level != ratios[0] for level in ratios):
        raise UserError(f"{source}: resdet does not support different aspect ratios per level")
    convs = get("MODEL.RPN.CONV_DIMS")
    if any(width != -1 for width in convs):
        raise UserError(f"{source}: MODEL.RPN.CONV_DIMS is {convs}; resdet only supports -1")
    background, foreground = get("MODEL.RPN.IOU_THRESHOLDS")
    return {
        "model.rpn.anchor_sizes": [level[0] if len(level) == 1 else level for level in sizes],
        "model.rpn.aspect_ratios": ratios[0],
        "model.rpn.num_convs": len(convs),
        "model.rpn.background_iou": background,
        "model.rpn.foreground_iou": foreground,
        **_box_loss(get, "MODEL.RPN", "model.rpn", source),
    }


def _roi(get: Get, source: str) -> dict[str, Any]:
    if get("MODEL.ROI_HEADS.NAME") == "CascadeROIHeads":
        ious = get("MODEL.ROI_BOX_CASCADE_HEAD.IOUS")
        weights = get("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS")
    else:
        ious = get("MODEL.ROI_HEADS.IOU_THRESHOLDS")
        weights = [get("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS")]
    pooler, sampling_ratio = _pooler(get, source)
    return {
        "model.roi.stages": [
            {"foreground_iou": iou, "box_weights": list(stage_weights)}
            for iou, stage_weights in zip(ious, weights, strict=True)
        ],
        "model.roi.pooling": POOLERS[pooler][0],
        "model.roi.aligned": POOLERS[pooler][1],
        "model.roi.sampling_ratio": sampling_ratio if POOLERS[pooler][0] == "align" else 0,
        **_box_loss(get, "MODEL.ROI_BOX_HEAD", "model.roi.box_head", source),
    }


def _pooler(get: Get, source: str) -> tuple[str, int]:
    """Type and sampling ratio, which have to be the same for boxes and masks."""
    box, mask = (
        (get(f"MODEL.{head}.POOLER_TYPE"), get(f"MODEL.{head}.POOLER_SAMPLING_RATIO"))
        for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")
    )
    if box[0] not in POOLERS:
        raise UserError(f"{source}: POOLER_TYPE is {box[0]}; resdet supports {', '.join(POOLERS)}")
    shares = get("MODEL.ROI_HEADS.NAME") == "Res5ROIHeads" or not get("MODEL.MASK_ON")
    if box != mask and not shares:
        raise UserError(
            f"{source}: boxes and masks are pooled differently, {box} and {mask}; resdet only "
            "supports one way for both"
        )
    return box


def to_detectron2(config: DetectionConfig, num_classes: int, source: str) -> dict[str, Any]:
    """Detectron2's settings, by dotted keys, of a detector of resdet.

    Raises UserError that names the option for which Detectron2 has no setting.
    """
    model = config.model
    _check_expressible(config, source)
    is_c4, has_fpn = model.roi.box_head.type == "res5", model.fpn is not None
    depth = int((model.backbone.name or "").removeprefix("resnet"))
    levels = ["p2", "p3", "p4", "p5", "p6"] if has_fpn else ["res4" if is_c4 else "res5"]
    maps = ["res2", "res3", "res4", "res5"] if has_fpn else levels
    heads = "CascadeROIHeads" if len(model.roi.stages) > 1 else "StandardROIHeads"
    own = config_to_dict(config)
    settings = {theirs: value_at(own, ours) for ours, theirs in SAME.items()}
    norms = {theirs: value_at(own, ours) for ours, theirs in SAME_NORMS.items()}
    norms["MODEL.RESNETS.NORM"] = model.backbone.norm or "bn"
    settings |= {key: THEIR_NORMS[norm] for key, norm in norms.items() if norm is not None}
    settings |= {
        "VERSION": 2,
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.BACKBONE.NAME": f"build_resnet{'_fpn' if has_fpn else ''}_backbone",
        "MODEL.MASK_ON": model.roi.mask_head is not None,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.OUT_FEATURES": maps,
        "MODEL.RESNETS.STRIDE_IN_1X1": bool(model.backbone.stride_in_1x1),
        "MODEL.RESNETS.RES5_DILATION": model.backbone.res5_dilation or 1,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256 if depth >= 50 else 64,
        "MODEL.FPN.IN_FEATURES": maps if has_fpn else None,
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads" if is_c4 else heads,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_HEADS.IN_FEATURES": levels[:-1] if has_fpn else levels,
        "INPUT.FORMAT": model.channel_order.upper(),
        **_their_rpn(config),
        **_their_heads(config),
    }
    given = {key: value for key, value in settings.items() if value is not None}
    return {key: _typed(key, value, source) for key, value in given.items()}


def _typed(key: str, value: Any, source: str) -> Any:
    """An integer where Detectron2's default is one, because it refuses floats there."""
    default = DEFAULTS.get(key)
    if isinstance(value, float) and type(default) is int:
        if value != int(value):
            raise UserError(
                f"{source}: {key} would be {value}, and Detectron2 only accepts whole numbers"
            )
        return int(value)
    return float(value) if isinstance(default, float) else value


def _check_expressible(config: DetectionConfig, source: str) -> None:
    model, resize = config.model, config.data.test_resize
    known = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    mask = model.roi.mask_head
    wanted: dict[str, tuple[Any, list[Any]]] = {
        "model.backbone.name": (model.backbone.name, known),
        "model.backbone.shortcut": (model.backbone.shortcut, [None, "B"]),
        "model.backbone.norm_eps": (model.backbone.norm_eps, [None, 1e-5]),
        "model.rpn.round_anchors": (model.rpn.round_anchors, [False]),
        "model.rpn.anchor_spacing": (model.rpn.anchor_spacing, ["stride"]),
        "model.rpn.loss_normalizer": (model.rpn.loss_normalizer, ["num_samples"]),
        "model.roi.context": (model.roi.context, [False]),
        "model.min_detection_size": (model.min_detection_size, [0]),
        "model.roi.mask_head.paste": (mask.paste if mask else "continuous", ["continuous"]),
        "data.test_resize.method": (resize.method, ["pillow"]),
    }
    for key, (value, allowed) in wanted.items():
        if value not in allowed:
            only = " or ".join(str(choice) for choice in allowed if choice is not None)
            raise UserError(
                f"{source}: {key} is {value}, and Detectron2 only has {only}, without a setting; "
                "its numbers would differ"
            )


def _their_loss(section: str, loss: str, beta: float) -> dict[str, Any]:
    kind = "giou" if loss == "giou" else "smooth_l1"
    return {
        f"{section}.BBOX_REG_LOSS_TYPE": kind,
        f"{section}.SMOOTH_L1_BETA": beta if loss == "smooth_l1" else 0.0,
    }


def _their_rpn(config: DetectionConfig) -> dict[str, Any]:
    rpn = config.model.rpn
    sizes = [[side] if isinstance(side, int | float) else side for side in rpn.anchor_sizes]
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": [[float(side) for side in level] for level in sizes],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn.aspect_ratios)],
        "MODEL.RPN.CONV_DIMS": [-1] * rpn.num_convs,
        "MODEL.RPN.IOU_THRESHOLDS": [rpn.background_iou, rpn.foreground_iou],
        **_their_loss("MODEL.RPN", rpn.box_loss, rpn.smooth_l1_beta),
    }


def _their_heads(config: DetectionConfig) -> dict[str, Any]:
    roi = config.model.roi
    box, stages = roi.box_head, roi.stages
    pooler = next(name for name, how in POOLERS.items() if how == (roi.pooling, roi.aligned))
    weights = [[float(value) for value in stage.box_weights] for stage in stages]
    settings: dict[str, Any] = {
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [stages[0].foreground_iou],
        "MODEL.ROI_BOX_HEAD.NAME": "" if box.type == "res5" else "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": weights[0],
        **_their_loss("MODEL.ROI_BOX_HEAD", box.box_loss, box.smooth_l1_beta),
    }
    if len(stages) > 1:
        settings |= {
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": [stage.foreground_iou for stage in stages],
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": weights,
        }
    heads = ["MODEL.ROI_BOX_HEAD"]
    if roi.mask_head is not None:
        settings["MODEL.ROI_MASK_HEAD.NAME"] = "MaskRCNNConvUpsampleHead"
        heads.append("MODEL.ROI_MASK_HEAD")
    for head in heads:
        settings[f"{head}.POOLER_TYPE"] = pooler
        settings[f"{head}.POOLER_SAMPLING_RATIO"] = roi.sampling_ratio
    return settings
