"""Detectors and their data sets from configs."""

from collections.abc import Sequence

from torch import nn

from resdet.backbones.resnet import ResNet
from resdet.backbones.vgg import DROPOUT, VGG
from resdet.config.detection import DetectionConfig
from resdet.config.loading import override_config
from resdet.errors import UserError
from resdet.factory.backbone import detection_backbone
from resdet.factory.freezing import freeze_named
from resdet.factory.network import build_stored, check_kind, stored_config
from resdet.interop.loaded import LoadedWeights
from resdet.models.box_head import BoxHead
from resdet.models.branches import make_branch
from resdet.models.fpn import FPN, OneMap
from resdet.models.rcnn import RCNN
from resdet.models.roi_heads import RoIHeads
from resdet.models.rpn import RPN


def build_model(
    config: DetectionConfig, *, class_names: Sequence[str], category_ids: Sequence[int]
) -> RCNN:
    """A detector with random weights for these classes; loads and downloads nothing.

    Raises UserError where `model.num_classes` contradicts the classes.
    """
    section = config.model
    num_classes = len(class_names)
    if section.num_classes not in (None, num_classes):
        raise UserError(
            f"model.num_classes: {section.num_classes}, but the data has {num_classes} classes "
            f"({', '.join(list(class_names)[:5])}{', …' if num_classes > 5 else ''}); "
            "leave it null to take them from the data"
        )
    backbone, features = detection_backbone(config.model.backbone)
    head = section.roi.box_head.type
    is_c4 = head == "res5"
    res5 = _res5(backbone, section.backbone.name) if is_c4 else None
    if head == "vgg" and not isinstance(backbone, VGG):
        raise UserError(
            f"model.roi.box_head.type: vgg, and {section.backbone.name} is not a VGG; set "
            "model.backbone.name=vgg16, or another type"
        )
    fpn: FPN | OneMap
    if section.fpn is None:
        name = "c5" if head == "fc" else "c4"
        fpn = OneMap(features.channels, features.strides, name=name)
    else:
        fpn = FPN(features.channels, features.strides, **section.fpn.model_dump())
    roi_channels = features.channels["c5"] if is_c4 else fpn.out_channels
    model = RCNN(
        backbone,
        fpn,
        _rpn(config, fpn),
        _roi_heads(config, fpn, roi_channels, num_classes, res5),
        pixel_mean=section.pixel_mean,
        pixel_std=section.pixel_std,
        channel_order=section.channel_order,
        channels_last=config.train.channels_last,
        test_short_edge=config.data.test_resize.short_edge,
        test_max_size=config.data.test_resize.max_size,
        test_resize_method=config.data.test_resize.method,
        mask_paste=section.roi.mask_head.paste if section.roi.mask_head else "continuous",
        class_names=class_names,
        category_ids=category_ids,
        config=config,
    )
    return freeze_named(model, section.freeze)


def _res5(backbone: nn.Module, name: str | None) -> nn.Sequential:
    """The backbone's last stage, taken out of it; UserError where it can't give one."""
    if not isinstance(backbone, ResNet):
        raise UserError(
            f"model.roi.box_head.type: res5, and {name} has no res5 that heads could run; take a "
            "ResNet, for example resnet50"
        )
    return backbone.split_res5()


def _rpn(config: DetectionConfig, fpn: FPN | OneMap) -> RPN:
    section = config.model.rpn
    by_phase = {
        f"{when}_nms_topk_{phase}" for when in ("pre", "post") for phase in ("train", "test")
    }
    return RPN(
        fpn.out_channels,
        list(fpn.strides.values()),
        pre_nms_topk=(section.pre_nms_topk_train, section.pre_nms_topk_test),
        post_nms_topk=(section.post_nms_topk_train, section.post_nms_topk_test),
        **section.model_dump(exclude=by_phase),
    )


def _roi_heads(
    config: DetectionConfig,
    fpn: FPN | OneMap,
    in_channels: int,
    num_classes: int,
    res5: nn.Module | None,
) -> RoIHeads:
    """`in_channels` are those of the regions that the heads see."""
    model, roi = config.model, config.model.roi
    box, mask = roi.box_head, roi.mask_head
    dropout = box.dropout if box.dropout is not None else DROPOUT if box.type == "vgg" else 0.0
    stages = [
        BoxHead(
            in_channels,
            num_classes,
            average=box.type == "res5",
            context=roi.context,
            dropout=dropout,
            box_weights=stage.box_weights,
            **box.model_dump(exclude={"type", "dropout", "class_weights", "background_weight"}),
        )
        for stage in roi.stages
    ]
    options = dict(roi.branches)
    if mask is not None:
        # first, as its parameters have always been
        options = {"mask_head": mask.model_dump(exclude={"paste"}), **options}
    branches = {
        name: make_branch(name, in_channels, num_classes, given) for name, given in options.items()
    }
    return RoIHeads(
        stages,
        [stage.foreground_iou for stage in roi.stages],
        branches,
        res5=res5,
        context=roi.context,
        strides=fpn.roi_strides,
        box_pool_size=box.pool_size,
        pooling=roi.pooling,
        aligned=roi.aligned,
        sampling_ratio=roi.sampling_ratio,
        num_samples=roi.num_samples,
        positive_fraction=roi.positive_fraction,
        score_thresh=model.score_thresh,
        nms_thresh=model.nms_thresh,
        detections_per_image=model.detections_per_image,
        min_detection_size=model.min_detection_size,
    )


def build_trained(weights: LoadedWeights, overrides: Sequence[str] = ()) -> RCNN:
    """The detector that a checkpoint holds, on the CPU, in evaluation mode.

    `overrides` change its own config. Raises UserError if the file is not a checkpoint of a run,
    or if the overrides change the network.
    """
    check_kind(weights, "detector")
    config = stored = stored_config(weights, DetectionConfig)
    if overrides:
        config = override_config(config, overrides, weights.source)
    model = build_stored(weights, config, _build)
    # a larger test size enlarges tiles as much
    ratio = config.data.test_resize.short_edge / stored.data.test_resize.short_edge
    model.tile_scale = model.seen.scale * ratio
    return model


def _build(config: DetectionConfig, weights: LoadedWeights) -> RCNN:
    return build_model(config, class_names=weights.class_names, category_ids=weights.category_ids)
