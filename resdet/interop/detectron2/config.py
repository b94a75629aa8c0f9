"""Detectron2's configs in resdet's, and back: every convention that the numbers depend on.

Keys are dotted, as `MODEL.RPN.NMS_THRESH`. What resdet does in one way only is checked, so that a
config which asks for another way is refused and not read wrongly.
"""

from __future__ import annotations

from typing import Any

from resdet.config.detection import DetectionConfig
from resdet.errors import UserError
from resdet.interop.detectron2.settings import DEFAULTS, FIXED, Settings

NORMS = {
    "": "none",
    "BN": "bn",
    "FrozenBN": "frozen_bn",
    "SyncBN": "sync_bn",
    "nnSyncBN": "sync_bn",
    "naiveSyncBN": "sync_bn",
    "naiveSyncBN_N": "sync_bn",
    "GN": "gn",
}
THEIR_NORMS = {ours: theirs for theirs, ours in reversed(NORMS.items())} | {"sync_bn": "SyncBN"}
# Detectron2 takes these where a head is told of them; its C4 head has a name of its own.
ROI_HEADS = ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads")
TRAIN_STEPS = 90_000
"""Detectron2's 1× schedule: a converted model's config asks for a length, and nothing trains it."""


def from_detectron2(given: Settings, source: str) -> dict[str, Any]:
    """resdet's config, as plain values, of a detector with these settings over the defaults.

    Raises UserError that names the setting for what resdet does not have.
    """
    for key, only in FIXED.items():
        if key in given and given[key] != only:
            raise UserError(f"{source}: {key} is {given[key]}; resdet has {only!r} alone")
    get = {**DEFAULTS, **given}.__getitem__
    heads = get("MODEL.ROI_HEADS.NAME")
    if heads not in ROI_HEADS:
        raise UserError(
            f"{source}: MODEL.ROI_HEADS.NAME is {heads}; resdet has {', '.join(ROI_HEADS)}"
        )
    has_fpn = get("MODEL.BACKBONE.NAME") == "build_resnet_fpn_backbone"
    _check_maps(get, has_fpn, source)
    model: dict[str, Any] = {
        "backbone": {
            "name": f"resnet{get('MODEL.RESNETS.DEPTH')}",
            "norm": _norm(get, "MODEL.RESNETS.NORM", source),
            "freeze_at": get("MODEL.BACKBONE.FREEZE_AT"),
        },
        "fpn": None,
        "rpn": _rpn(get, source),
        "roi": _roi(get, source),
        "pixel_mean": list(get("MODEL.PIXEL_MEAN")),
        "pixel_std": list(get("MODEL.PIXEL_STD")),
        "channel_order": get("INPUT.FORMAT").lower(),
        "score_thresh": get("MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
        "nms_thresh": get("MODEL.ROI_HEADS.NMS_THRESH_TEST"),
        "detections_per_image": get("TEST.DETECTIONS_PER_IMAGE"),
    }
    if get("MODEL.RESNETS.DEPTH") >= 50:
        model["backbone"]["stride_in_1x1"] = get("MODEL.RESNETS.STRIDE_IN_1X1")
    if get("MODEL.RESNETS.RES5_DILATION") != 1:
        model["backbone"]["res5_dilation"] = get("MODEL.RESNETS.RES5_DILATION")
    if has_fpn:
        norm = _norm(get, "MODEL.FPN.NORM", source)
        model["fpn"] = {"out_channels": get("MODEL.FPN.OUT_CHANNELS"), "norm": norm}
    augment = {
        "short_edges": list(get("INPUT.MIN_SIZE_TRAIN")),
        "max_size": get("INPUT.MAX_SIZE_TRAIN"),
    }
    test = {
        "short_edge": get("INPUT.MIN_SIZE_TEST"),
        "max_size": get("INPUT.MAX_SIZE_TEST"),
    }
    return {
        "model": model,
        "data": {"augment": {"resize": augment}, "test_resize": test},
        "train": {"max_steps": TRAIN_STEPS},
    }


def _check_maps(get: Any, has_fpn: bool, source: str) -> None:
    """UserError where proposals or regions stand on other maps than resdet's."""
    c4 = get("MODEL.ROI_HEADS.NAME") == "Res5ROIHeads"
    proposals = ["p2", "p3", "p4", "p5", "p6"] if has_fpn else ["res4" if c4 else "res5"]
    regions = proposals[:-1] if has_fpn else proposals
    if has_fpn and c4:
        raise UserError(f"{source}: Res5ROIHeads on a pyramid is no network of resdet")
    for key, wanted in (
        ("MODEL.RPN.IN_FEATURES", proposals),
        ("MODEL.ROI_HEADS.IN_FEATURES", regions),
    ):
        if list(get(key)) != wanted:
            raise UserError(f"{source}: {key} is {get(key)}; resdet's is {wanted}")


def _norm(get: Any, key: str, source: str) -> str:
    if get(key) not in NORMS:
        raise UserError(f"{source}: {key} is {get(key)!r}; resdet has {', '.join(NORMS)}")
    return NORMS[get(key)]


def _box_loss(get: Any, section: str, source: str) -> dict[str, Any]:
    kind, beta = get(f"{section}.BBOX_REG_LOSS_TYPE"), get(f"{section}.SMOOTH_L1_BETA")
    if kind not in ("smooth_l1", "giou"):
        raise UserError(f"{source}: {section}.BBOX_REG_LOSS_TYPE is {kind}; resdet has giou, l1")
    # a beta of 0 is L1
    if kind == "smooth_l1" and beta > 0:
        return {"box_loss": "smooth_l1", "smooth_l1_beta": beta}
    return {"box_loss": "l1" if kind == "smooth_l1" else kind}


def _rpn(get: Any, source: str) -> dict[str, Any]:
    sizes = [list(each) for each in get("MODEL.ANCHOR_GENERATOR.SIZES")]
    ratios = [list(each) for each in get("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")]
    if any(each != ratios[0] for each in ratios):
        raise UserError(f"{source}: aspect ratios of its own on each level are not in resdet")
    convs = get("MODEL.RPN.CONV_DIMS")
    if any(each != -1 for each in convs):
        raise UserError(f"{source}: MODEL.RPN.CONV_DIMS is {convs}; resdet has -1 alone")
    background, foreground = get("MODEL.RPN.IOU_THRESHOLDS")
    return {
        "anchor_sizes": [each[0] if len(each) == 1 else each for each in sizes],
        "aspect_ratios": ratios[0],
        "num_convs": len(convs),
        "background_iou": background,
        "foreground_iou": foreground,
        "num_samples": get("MODEL.RPN.BATCH_SIZE_PER_IMAGE"),
        "positive_fraction": get("MODEL.RPN.POSITIVE_FRACTION"),
        "pre_nms_topk_train": get("MODEL.RPN.PRE_NMS_TOPK_TRAIN"),
        "pre_nms_topk_test": get("MODEL.RPN.PRE_NMS_TOPK_TEST"),
        "post_nms_topk_train": get("MODEL.RPN.POST_NMS_TOPK_TRAIN"),
        "post_nms_topk_test": get("MODEL.RPN.POST_NMS_TOPK_TEST"),
        "nms_thresh": get("MODEL.RPN.NMS_THRESH"),
        "min_size": get("MODEL.PROPOSAL_GENERATOR.MIN_SIZE"),
        **_box_loss(get, "MODEL.RPN", source),
    }


def _roi(get: Any, source: str) -> dict[str, Any]:
    box, heads = "MODEL.ROI_BOX_HEAD", get("MODEL.ROI_HEADS.NAME")
    if heads == "CascadeROIHeads":
        ious = get("MODEL.ROI_BOX_CASCADE_HEAD.IOUS")
        weights = get("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS")
    else:
        ious = get("MODEL.ROI_HEADS.IOU_THRESHOLDS")
        weights = [get(f"{box}.BBOX_REG_WEIGHTS")]
    is_c4 = heads == "Res5ROIHeads"
    pooler = _pooler(get, source)
    head = {
        "type": "res5" if is_c4 else "fc",
        "num_convs": 0 if is_c4 else get(f"{box}.NUM_CONV"),
        "conv_dim": get(f"{box}.CONV_DIM"),
        "num_fcs": 0 if is_c4 else get(f"{box}.NUM_FC"),
        "fc_dim": get(f"{box}.FC_DIM"),
        "norm": _norm(get, f"{box}.NORM", source),
        "pool_size": get(f"{box}.POOLER_RESOLUTION"),
        "class_agnostic": get(f"{box}.CLS_AGNOSTIC_BBOX_REG"),
        **_box_loss(get, box, source),
    }
    return {
        "stages": [
            {"foreground_iou": iou, "box_weights": list(each)}
            for iou, each in zip(ious, weights, strict=True)
        ],
        "box_head": head,
        "mask_head": _mask_head(get, source) if get("MODEL.MASK_ON") else None,
        "num_samples": get("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"),
        "positive_fraction": get("MODEL.ROI_HEADS.POSITIVE_FRACTION"),
        "aligned": pooler[0] == "ROIAlignV2",
        "sampling_ratio": pooler[1],
    }


def _mask_head(get: Any, source: str) -> dict[str, Any]:
    mask, is_c4 = "MODEL.ROI_MASK_HEAD", get("MODEL.ROI_HEADS.NAME") == "Res5ROIHeads"
    return {
        "num_convs": get(f"{mask}.NUM_CONV"),
        "conv_dim": get(f"{mask}.CONV_DIM"),
        "norm": _norm(get, f"{mask}.NORM", source),
        # C4's masks come out of the box head's regions
        "pool_size": get(
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION" if is_c4 else f"{mask}.POOLER_RESOLUTION"
        ),
        "class_agnostic": get(f"{mask}.CLS_AGNOSTIC_MASK"),
    }


def _pooler(get: Any, source: str) -> tuple[str, int]:
    """Type and sampling ratio, which are the same for boxes and masks."""
    box, mask = (
        (get(f"MODEL.{head}.POOLER_TYPE"), get(f"MODEL.{head}.POOLER_SAMPLING_RATIO"))
        for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")
    )
    if box[0] not in ("ROIAlignV2", "ROIAlign"):
        raise UserError(f"{source}: POOLER_TYPE is {box[0]}; resdet has ROIAlignV2 and ROIAlign")
    shares = get("MODEL.ROI_HEADS.NAME") == "Res5ROIHeads" or not get("MODEL.MASK_ON")
    if box != mask and not shares:
        raise UserError(
            f"{source}: boxes and masks are pooled in two ways, {box} and {mask}; resdet has one"
        )
    return box


def to_detectron2(config: DetectionConfig, num_classes: int, source: str) -> dict[str, Any]:
    """Detectron2's settings, by dotted keys, of a detector of resdet.

    Raises UserError that names the option which Detectron2 has no setting for.
    """
    model = config.model
    _check_expressible(config, source)
    is_c4, has_fpn = model.roi.box_head.type == "res5", model.fpn is not None
    depth = int((model.backbone.name or "").removeprefix("resnet"))
    norm = model.backbone.norm or "bn"
    levels = ["p2", "p3", "p4", "p5", "p6"] if has_fpn else ["res4" if is_c4 else "res5"]
    maps = ["res2", "res3", "res4", "res5"] if has_fpn else levels
    heads = "CascadeROIHeads" if len(model.roi.stages) > 1 else "StandardROIHeads"
    found: dict[str, Any] = {
        "VERSION": 2,
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.BACKBONE.NAME": f"build_resnet{'_fpn' if has_fpn else ''}_backbone",
        "MODEL.BACKBONE.FREEZE_AT": model.backbone.freeze_at,
        "MODEL.MASK_ON": model.roi.mask_head is not None,
        "MODEL.PIXEL_MEAN": list(model.pixel_mean),
        "MODEL.PIXEL_STD": list(model.pixel_std),
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.OUT_FEATURES": maps,
        "MODEL.RESNETS.NORM": THEIR_NORMS[norm],
        "MODEL.RESNETS.STRIDE_IN_1X1": bool(model.backbone.stride_in_1x1),
        "MODEL.RESNETS.RES5_DILATION": model.backbone.res5_dilation or 1,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256 if depth >= 50 else 64,
        "MODEL.RPN.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads" if is_c4 else heads,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_HEADS.IN_FEATURES": levels[:-1] if has_fpn else levels,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": model.score_thresh,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": model.nms_thresh,
        "TEST.DETECTIONS_PER_IMAGE": model.detections_per_image,
        "INPUT.FORMAT": model.channel_order.upper(),
        "INPUT.MIN_SIZE_TEST": config.data.test_resize.short_edge,
        "INPUT.MAX_SIZE_TEST": config.data.test_resize.max_size,
    }
    if model.fpn is not None:
        found |= {
            "MODEL.FPN.IN_FEATURES": maps,
            "MODEL.FPN.OUT_CHANNELS": model.fpn.out_channels,
            "MODEL.FPN.NORM": THEIR_NORMS[model.fpn.norm],
        }
    found |= _their_rpn(config) | _their_heads(config)
    return {key: _typed(key, value, source) for key, value in found.items()}


def _typed(key: str, value: Any, source: str) -> Any:
    """A whole number where Detectron2's default is one, as it refuses floats there."""
    default = DEFAULTS.get(key)
    if isinstance(value, float) and type(default) is int:
        if value != int(value):
            raise UserError(f"{source}: {key} would be {value}, and Detectron2 takes whole numbers")
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
        "model.min_detection_size": (model.min_detection_size, [0]),
        "model.roi.mask_head.paste": (mask.paste if mask else "continuous", ["continuous"]),
        "data.test_resize.method": (resize.method, ["pillow"]),
    }
    for key, (value, allowed) in wanted.items():
        if value not in allowed:
            raise UserError(
                f"{source}: {key} is {value}, which Detectron2 has no setting for (it has "
                f"{' or '.join(str(each) for each in allowed if each is not None)}); its numbers "
                "would differ there"
            )


def _their_loss(section: str, loss: str, beta: float) -> dict[str, Any]:
    kind = "giou" if loss == "giou" else "smooth_l1"
    return {
        f"{section}.BBOX_REG_LOSS_TYPE": kind,
        f"{section}.SMOOTH_L1_BETA": beta if loss == "smooth_l1" else 0.0,
    }


def _their_rpn(config: DetectionConfig) -> dict[str, Any]:
    rpn = config.model.rpn
    sizes = [[each] if isinstance(each, int | float) else each for each in rpn.anchor_sizes]
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": [[float(side) for side in each] for each in sizes],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn.aspect_ratios)],
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": rpn.min_size,
        "MODEL.RPN.CONV_DIMS": [-1] * rpn.num_convs,
        "MODEL.RPN.IOU_THRESHOLDS": [rpn.background_iou, rpn.foreground_iou],
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": rpn.num_samples,
        "MODEL.RPN.POSITIVE_FRACTION": rpn.positive_fraction,
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN": rpn.pre_nms_topk_train,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn.pre_nms_topk_test,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": rpn.post_nms_topk_train,
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn.post_nms_topk_test,
        "MODEL.RPN.NMS_THRESH": rpn.nms_thresh,
        **_their_loss("MODEL.RPN", rpn.box_loss, rpn.smooth_l1_beta),
    }


def _their_heads(config: DetectionConfig) -> dict[str, Any]:
    roi = config.model.roi
    box, mask, stages = roi.box_head, roi.mask_head, roi.stages
    pooler = "ROIAlignV2" if roi.aligned else "ROIAlign"
    weights = [[float(each) for each in stage.box_weights] for stage in stages]
    found: dict[str, Any] = {
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": roi.num_samples,
        "MODEL.ROI_HEADS.POSITIVE_FRACTION": roi.positive_fraction,
        "MODEL.ROI_HEADS.IOU_THRESHOLDS": [stages[0].foreground_iou],
        "MODEL.ROI_BOX_HEAD.NAME": "" if box.type == "res5" else "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_CONV": box.num_convs,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": box.conv_dim,
        "MODEL.ROI_BOX_HEAD.NUM_FC": box.num_fcs,
        "MODEL.ROI_BOX_HEAD.FC_DIM": box.fc_dim,
        "MODEL.ROI_BOX_HEAD.NORM": THEIR_NORMS[box.norm],
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": box.pool_size,
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": roi.sampling_ratio,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": pooler,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": box.class_agnostic,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": weights[0],
        **_their_loss("MODEL.ROI_BOX_HEAD", box.box_loss, box.smooth_l1_beta),
    }
    if len(stages) > 1:
        found |= {
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": [stage.foreground_iou for stage in stages],
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": weights,
        }
    if mask is not None:
        found |= {
            "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
            "MODEL.ROI_MASK_HEAD.NUM_CONV": mask.num_convs,
            "MODEL.ROI_MASK_HEAD.CONV_DIM": mask.conv_dim,
            "MODEL.ROI_MASK_HEAD.NORM": THEIR_NORMS[mask.norm],
            "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": mask.pool_size,
            "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": roi.sampling_ratio,
            "MODEL.ROI_MASK_HEAD.POOLER_TYPE": pooler,
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": mask.class_agnostic,
        }
    return found
