"""The section `model` of a detector's config; its backbone's part is a classifier's too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from resdet.config.fields import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BelowOne,
    Boxes,
    BoxLoss,
    Cells,
    Channels,
    Fraction,
    Layers,
    NonNegativeFloat,
    Norm,
    Positive,
    PositiveFloat,
    Section,
    ThreeNumbers,
    ThreePositives,
    check_anchor_ious,
    check_positives,
)

AnchorSizes = list[PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)]]


class BackboneConfig(Section):
    name: str | None = "resnet50"
    """A name from `resdet.list_backbones()`; null takes the network of `model.weights`."""
    weights: str | None = None
    """Start weights: a checkpoint file, a run folder, or a published name such as
    torchvision:resnet101.IMAGENET1K_V1, timm:resnet50.a1_in1k or
    detectron2:ImageNetPretrained/MSRA/R-50."""
    norm: Norm | None = None
    """Normalisation layers; null means the backbone's own default (bn; none for VGG)."""
    activation: Literal["relu", "prelu"] | None = None
    """VGG: prelu learns the slope of each channel for negative values, from .25 and without weight
    decay (He et al. 2015); null is relu."""
    norm_eps: NonNegativeFloat | None = None
    """Added to the variance in its norms; null is the backbone's own (1e-5); torchvision's first
    COCO detectors have 0."""
    shortcut: Literal["A", "B", "C"] | None = None
    """ResNet shortcuts: A zero-pads, B projects where sizes differ, C projects always; null is the
    network's own (B; A on CIFAR)."""
    pad: Literal["after", "both"] | None = None
    """Shortcut A of a CIFAR network: zeros after the old channels, or half of them on both sides,
    as in most public ones and in cifar:resnet20; null is after."""
    stochastic_depth: BelowOne | None = None
    """Chance to skip the last residual block in training; linearly lower for earlier blocks."""
    stride_in_1x1: bool | None = None
    """Stride in the first 1×1 of a bottleneck (the paper, MSRA weights), not in its 3×3."""
    res5_dilation: Literal[1, 2] | None = None
    """2 keeps res5 at stride 16 with dilated convolutions (DC5)."""
    freeze_at: Annotated[int, Field(ge=0, le=5)] = 0
    """Freeze the stem (1), and res2 (2) … res5 (5); 0 trains everything."""
    zero_gamma: bool | None = None
    """Zero the last norm scale of each block, so that it starts as identity."""
    activation_checkpointing: bool | None = None
    """Recompute each block in the backward pass: less memory, about a third more time."""
    options: dict[str, Any] = {}
    """Further keyword arguments of a backbone of your own, checked against its signature."""


class FPNConfig(Section):
    out_channels: Channels = 256
    """Channels of p2…p6."""
    norm: Norm = "none"
    """Norm after each FPN convolution."""


class RPNConfig(Section):
    anchor_sizes: AnchorSizes = [32.0, 64.0, 128.0, 256.0, 512.0]
    """Square root of the anchor area in pixels, one per level p2…p6, or one list per level (without
    a pyramid there is one level: [[32, 64, 128, 256, 512]])."""
    aspect_ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]
    """Anchor height / width."""
    round_anchors: bool = False
    """Round the corners of anchors around the origin to whole pixels, as torchvision does."""
    anchor_spacing: Literal["stride", "rounded"] = "stride"
    """Pixels between anchors: the level's stride, or the padded image's side over the map's,
    rounded down (torchvision), which is less on p6 where p5 has an odd side."""
    num_convs: Annotated[int, Field(gt=0, le=100)] = 1
    """3×3 convolutions before the two predictors."""
    foreground_iou: Fraction = 0.7
    """Anchors at or above this IoU are positive, besides the best of each object."""
    background_iou: Fraction = 0.3
    """Anchors below this IoU are negative; those between are ignored."""
    num_samples: Boxes = 256
    """Anchors sampled per image for the loss."""
    positive_fraction: Fraction = 0.5
    """Largest share of positives among them."""
    pre_nms_topk_train: Boxes = 2000
    """Proposals kept per level before NMS, in training."""
    pre_nms_topk_test: Boxes = 1000
    """Proposals kept per level before NMS, at test time."""
    post_nms_topk_train: Boxes = 1000
    """Proposals kept per image after NMS, in training."""
    post_nms_topk_test: Boxes = 1000
    """Proposals kept per image after NMS, at test time."""
    nms_thresh: Fraction = 0.7
    """NMS IoU of proposals, within each level."""
    min_size: NonNegativeFloat = 0.0
    """Proposals narrower or shorter than this, in pixels, are dropped; empty ones always are."""
    loss_normalizer: Literal["num_samples", "sampled"] = "num_samples"
    """Divisor of both losses: num_samples × images (Detectron2), or the number of sampled anchors
    (torchvision)."""
    box_loss: BoxLoss = "l1"
    """Loss on the anchor deltas (giou: on the decoded boxes)."""
    smooth_l1_beta: PositiveFloat = 0.1111
    """Where smooth_l1 turns from quadratic to linear."""

    @model_validator(mode="after")
    def _ious_and_samples(self) -> RPNConfig:
        check_anchor_ious(self.background_iou, self.foreground_iou)
        check_positives(self.num_samples, self.positive_fraction)
        return self


class BoxHeadConfig(Section):
    type: Literal["fc", "res5", "vgg"] = "fc"
    """res5: the backbone's last stage and the mean over the map (C4 of He et al. 2016); the mask
    head uses the same stage. It needs `model.fpn` null, num_convs 0 and num_fcs 0.
    vgg: fc6 and fc7 of a VGG on its conv5 (Girshick 2015), which start from the classifier in
    `model.backbone.weights`; published ones need fc_dim 4096. It needs `model.fpn` null."""
    num_convs: Layers = 0
    """3×3 convolutions first: 0 (and num_fcs 2) is 2fc, 4 with num_fcs 1 is 4conv1fc."""
    conv_dim: Channels = 256
    """Channels of these convolutions."""
    num_fcs: Layers = 2
    """Fully connected layers."""
    fc_dim: Channels = 1024
    """Width of these layers."""
    dropout: BelowOne | None = None
    """Chance to drop each of their outputs in training; null is 0, and the .5 of VGG with vgg."""
    norm: Norm = "none"
    """Norm after each convolution."""
    pool_size: Cells = 7
    """Side of a pooled region."""
    class_agnostic: bool = False
    """One box per proposal instead of one per class."""
    box_loss: BoxLoss = "l1"
    """Loss on the box deltas (giou: on the decoded boxes)."""
    smooth_l1_beta: PositiveFloat = 0.1111
    """Where smooth_l1 turns from quadratic to linear."""
    focal_gamma: Annotated[float, Field(gt=0, le=10)] | None = None
    """γ of a focal loss of the classes, (1 − p)^γ times the cross-entropy (Lin et al. 2017, which
    has 2); null is the cross-entropy."""
    class_weights: Literal["inverse", "inverse_sqrt"] | dict[str, PositiveFloat] | None = None
    """Weights of classes in the training loss, by name; 1 for those that are not named. inverse: in
    proportion to one over the number of objects, which gives each class the same weight in all;
    inverse_sqrt: to one over its root. Null weighs all alike."""
    background_weight: PositiveFloat = 1.0
    """Weight of background in the training loss, beside those of classes."""

    @model_validator(mode="after")
    def _dropout(self) -> BoxHeadConfig:
        if self.dropout is not None and self.num_fcs == 0:
            raise ValueError(
                "dropout comes after fully connected layers, and num_fcs is 0; set dropout: null"
            )
        return self


class StageConfig(Section):
    foreground_iou: Fraction = 0.5
    """A proposal at or above this IoU with an object takes its class."""
    box_weights: Annotated[list[PositiveFloat], Field(min_length=4, max_length=4)] = [10, 10, 5, 5]
    """Scale of the dx, dy, dw, dh targets."""


class MaskHeadConfig(Section):
    num_convs: Layers = 4
    """3×3 convolutions before the deconvolution."""
    conv_dim: Channels = 256
    """Channels of these convolutions."""
    norm: Norm = "none"
    """Norm after each convolution."""
    pool_size: Cells = 14
    """Side of a pooled region; masks are predicted at twice this."""
    class_agnostic: bool = False
    """One mask per detection instead of one per class."""
    paste: Literal["continuous", "rounded"] = "continuous"
    """How masks are pasted: bilinear at the exact box (Detectron2), or resized to the box in whole
    pixels (torchvision)."""


class RoIConfig(Section):
    stages: Annotated[list[StageConfig], Field(min_length=1)] = [StageConfig()]
    """Box stages: one is Faster / Mask R-CNN, three are Cascade."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    mask_head: MaskHeadConfig | None = None
    """Null trains boxes only."""
    branches: dict[str, dict[str, Any]] = {}
    """Branches of your own by name, each with its keyword arguments, checked against its signature;
    `imports` names the module that adds them to resdet.models.branches.BRANCHES."""
    context: bool = False
    """Predict from the whole image's features beside those of each region (He et al. 2016,
    appendix B)."""
    num_samples: Boxes = 512
    """Proposals sampled per image for the losses."""
    positive_fraction: Fraction = 0.25
    """Largest share of positives among them; these train the mask head."""
    pooling: Literal["align", "pool"] = "align"
    """align: RoIAlign (Mask R-CNN); pool: RoI max pooling in whole cells, as in Fast R-CNN and in
    the detectors of the ResNet paper. aligned and sampling_ratio are RoIAlign's alone."""
    aligned: bool = True
    """RoIAlign at pixel centres, half a pixel off the corners; false as in torchvision's
    detectors."""
    sampling_ratio: Annotated[int, Field(ge=0, le=64)] = 0
    """Samples per bin and side of RoIAlign; 0 adapts to the box, torchvision's detectors take 2."""

    @model_validator(mode="after")
    def _samples(self) -> RoIConfig:
        if "mask_head" in self.branches:
            raise ValueError("branches: mask_head has a section of its own, roi.mask_head")
        check_positives(self.num_samples, self.positive_fraction)
        return self

    @model_validator(mode="after")
    def _pooling(self) -> RoIConfig:
        if self.pooling == "pool" and (not self.aligned or self.sampling_ratio):
            raise ValueError(
                "pooling pool has no samples; set aligned: true and sampling_ratio: 0, their "
                "defaults, which only RoIAlign uses"
            )
        return self


class ModelConfig(Section):
    num_classes: Positive | None = None
    """Object classes, without background; null means from the data."""
    weights: str | None = None
    """Start weights of the whole detector: a checkpoint, a run folder, or a published one by name,
    detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x."""
    class_map: dict[str, str] = {}
    """Maps classes of this run to the classes of `model.weights` whose predictors they start from;
    classes of the same name need no entry."""
    freeze: list[str] = []
    """Patterns of parameter names to freeze, such as [backbone.*, rpn.*]: * is any text, ? and [ab]
    are single characters. Batch norms that match whole keep their statistics."""
    backbone: BackboneConfig = BackboneConfig()
    fpn: FPNConfig | None = FPNConfig()
    """Null: no pyramid; the heads use c4 (box_head.type res5 or vgg) or c5 (DC5, with
    backbone.res5_dilation 2)."""
    rpn: RPNConfig = RPNConfig()
    roi: RoIConfig = RoIConfig()
    pixel_mean: ThreeNumbers = IMAGENET_MEAN
    """Mean subtracted from each channel, 0..255, in the order of `channel_order`."""
    pixel_std: ThreePositives = IMAGENET_STD
    """Divisor of each channel."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Channel order the weights were trained with; files are always read as RGB."""
    score_thresh: Fraction = 0.05
    """Detections at or below this score are dropped."""
    nms_thresh: Fraction = 0.5
    """NMS IoU of detections, within each class."""
    detections_per_image: Boxes = 100
    """Detections kept per image."""
    min_detection_size: NonNegativeFloat = 0.0
    """Detections narrower or shorter than this, in pixels, are dropped before NMS; 0 keeps all."""

    @model_validator(mode="after")
    def _class_map(self) -> ModelConfig:
        if self.class_map and self.weights is None:
            raise ValueError("class_map names classes of model.weights, and that is null; give it")
        return self

    @model_validator(mode="after")
    def _heads_on_one_map(self) -> ModelConfig:
        box, mask = self.roi.box_head, self.roi.mask_head
        if box.type == "fc":
            return self
        needed = {"fpn: null": self.fpn is None, "roi.box_head.num_convs: 0": box.num_convs == 0}
        if box.type == "res5":
            needed |= {
                "roi.box_head.num_fcs: 0": box.num_fcs == 0,
                "roi.box_head.norm: none": box.norm == "none",
                "one entry in roi.stages": len(self.roi.stages) == 1,
                "backbone.res5_dilation: 1 or null": self.backbone.res5_dilation != 2,
                f"roi.mask_head.pool_size: {box.pool_size}, that of the box head": mask is None
                or mask.pool_size == box.pool_size,
            }
        else:
            needed |= {
                "roi.box_head.num_fcs: 2": box.num_fcs == 2,
                "roi.box_head.pool_size: 7": box.pool_size == 7,
                "backbone.activation: relu or null": self.backbone.activation != "prelu",
            }
        absent = [name for name, holds in needed.items() if not holds]
        if absent:
            name = "res5 (C4)" if box.type == "res5" else "vgg"
            raise ValueError(f"roi.box_head.type {name} needs {'; '.join(absent)}")
        return self
