"""Every option and every default, once; loading.py fills them from YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from resdet.config.fields import (
    Ascending,
    BelowOne,
    BoxLoss,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Norm,
    Positive,
    PositiveFloat,
    Range,
    check_plateau,
    check_positives,
)


class Section(BaseModel):
    """A part of the config: frozen, unknown keys forbidden, described by the field docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class BackboneConfig(Section):
    name: str = "resnet50"
    """A name of `resdet.list_backbones()`."""
    weights: str | None = None
    """Start weights: a checkpoint file, a run folder, or torchvision:resnet101.IMAGENET1K_V1."""
    norm: Norm | None = None
    """Normalisation layers; null means the backbone's own default (bn; none for VGG)."""
    shortcut: Literal["A", "B", "C"] | None = None
    """ResNet shortcuts: A zero-pads, B projects where sizes differ, C projects always; null is the
    network's own (B; A on CIFAR)."""
    stochastic_depth: BelowOne | None = None
    """Chance that the last residual block is skipped in training; earlier blocks linearly less."""
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
    out_channels: Positive = 256
    """Channels of p2…p6."""
    norm: Norm = "none"
    """Norm after each FPN convolution."""


class RPNConfig(Section):
    anchor_sizes: list[PositiveFloat] = [32, 64, 128, 256, 512]
    """Square root of the anchor area in pixels, one for each of p2…p6."""
    aspect_ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]
    """Anchor height / width."""
    num_convs: Positive = 1
    """3×3 convolutions before the two predictors."""
    foreground_iou: Fraction = 0.7
    """Anchors at or above this IoU are positive, besides the best of each object."""
    background_iou: Fraction = 0.3
    """Anchors below this IoU are negative; those between are ignored."""
    num_samples: Positive = 256
    """Anchors sampled an image for the loss."""
    positive_fraction: Fraction = 0.5
    """Largest share of positives among them."""
    pre_nms_topk_train: Positive = 2000
    """Proposals kept a level before NMS, in training."""
    pre_nms_topk_test: Positive = 1000
    """The same at test time."""
    post_nms_topk_train: Positive = 1000
    """Proposals kept an image after NMS, in training."""
    post_nms_topk_test: Positive = 1000
    """The same at test time."""
    nms_thresh: Fraction = 0.7
    """NMS IoU of proposals, a level at a time."""
    box_loss: BoxLoss = "l1"
    """Loss on the anchor deltas (giou: on the decoded boxes)."""
    smooth_l1_beta: PositiveFloat = 0.1111
    """Where smooth_l1 turns from quadratic to linear."""

    @model_validator(mode="after")
    def _ious_and_samples(self) -> RPNConfig:
        if self.background_iou > self.foreground_iou:
            raise ValueError(
                f"background_iou {self.background_iou} is above foreground_iou "
                f"{self.foreground_iou}; an anchor would be both"
            )
        check_positives(self.num_samples, self.positive_fraction)
        return self


class BoxHeadConfig(Section):
    num_convs: NonNegative = 0
    """3×3 convolutions first: 0 (and num_fcs 2) is 2fc, 4 with num_fcs 1 is 4conv1fc."""
    conv_dim: Positive = 256
    """Their channels."""
    num_fcs: NonNegative = 2
    """Fully connected layers."""
    fc_dim: Positive = 1024
    """Their width."""
    norm: Norm = "none"
    """Norm after each convolution."""
    pool_size: Positive = 7
    """RoIAlign output size."""
    class_agnostic: bool = False
    """One box a proposal instead of one a class."""
    box_loss: BoxLoss = "l1"
    """Loss on the box deltas (giou: on the decoded boxes)."""
    smooth_l1_beta: PositiveFloat = 0.1111
    """Where smooth_l1 turns from quadratic to linear."""


class StageConfig(Section):
    foreground_iou: Fraction = 0.5
    """A proposal at or above this IoU with an object takes its class."""
    box_weights: Annotated[list[PositiveFloat], Field(min_length=4, max_length=4)] = [10, 10, 5, 5]
    """Scale of the dx, dy, dw, dh targets."""


class MaskHeadConfig(Section):
    num_convs: NonNegative = 4
    """3×3 convolutions before the deconvolution."""
    conv_dim: Positive = 256
    """Their channels."""
    norm: Norm = "none"
    """Norm after each convolution."""
    pool_size: Positive = 14
    """RoIAlign output size; masks are predicted at twice this."""
    class_agnostic: bool = False
    """One mask a detection instead of one a class."""


class RoIConfig(Section):
    stages: Annotated[list[StageConfig], Field(min_length=1)] = [StageConfig()]
    """Box stages: one is Faster / Mask R-CNN, three are Cascade."""
    box_head: BoxHeadConfig = BoxHeadConfig()
    mask_head: MaskHeadConfig | None = None
    """Null trains boxes only."""
    num_samples: Positive = 512
    """Proposals sampled an image for the losses."""
    positive_fraction: Fraction = 0.25
    """Largest share of positives among them; these train the mask head."""

    @model_validator(mode="after")
    def _samples(self) -> RoIConfig:
        check_positives(self.num_samples, self.positive_fraction)
        return self


class ModelConfig(Section):
    num_classes: Positive | None = None
    """Object classes, without background; null means from the data."""
    weights: str | None = None
    """Start weights of the whole detector: a checkpoint file or a run folder."""
    backbone: BackboneConfig = BackboneConfig()
    fpn: FPNConfig = FPNConfig()
    rpn: RPNConfig = RPNConfig()
    roi: RoIConfig = RoIConfig()
    pixel_mean: Annotated[list[float], Field(min_length=3, max_length=3)] = [
        123.675,
        116.28,
        103.53,
    ]
    """Mean subtracted from each channel, 0..255, in the order of `channel_order`."""
    pixel_std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] = [
        58.395,
        57.12,
        57.375,
    ]
    """Divisor of each channel."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Channel order the weights were trained with; files are always read as RGB."""
    score_thresh: Fraction = 0.05
    """Detections at or below this score are dropped."""
    nms_thresh: Fraction = 0.5
    """NMS IoU of detections, a class at a time."""
    detections_per_image: Positive = 100
    """Detections kept an image."""


class SplitConfig(Section):
    images: str | list[str]
    """Image folder, or a list of folders paired by position with `annotations`."""
    annotations: str | list[str]
    """COCO JSON file, or a list of them."""


class ResizeConfig(Section):
    mode: Literal["short_edge", "large_scale_jitter"] = "short_edge"
    """short_edge: Detectron2's multi-scale resize; large_scale_jitter: scale, then crop or pad."""
    short_edges: Annotated[list[Positive], Field(min_length=1)] = [640, 672, 704, 736, 768, 800]
    """short_edge: the short side in pixels, one drawn an image."""
    max_size: Positive = 1333
    """short_edge: upper limit of the long side in pixels."""
    lsj_size: Positive = 1024
    """large_scale_jitter: height and width of the output in pixels."""
    lsj_scale: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), Range] = [0.1, 2.0]
    """large_scale_jitter: range of the scale relative to `lsj_size`."""


class AugmentConfig(Section):
    resize: ResizeConfig = ResizeConfig()
    flip_prob: Fraction = 0.5
    """Chance of a horizontal flip."""
    vertical_flip_prob: Fraction = 0.0
    """Chance of a vertical flip."""
    crop: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    """Random crop [height, width] in pixels after the resize; smaller images stay whole."""
    albumentations: list[dict[str, Any]] = []
    """Transforms in order, each {name: ColorJitter, p: 0.5, …}: class name and its arguments."""


class TestResizeConfig(Section):
    short_edge: Positive = 800
    """Short side in pixels at test time."""
    max_size: Positive = 1333
    """Upper limit of the long side in pixels."""


class DataConfig(Section):
    train: SplitConfig = SplitConfig(
        images="datasets/coco/train2017",
        annotations="datasets/coco/annotations/instances_train2017.json",
    )
    val: SplitConfig | None = SplitConfig(
        images="datasets/coco/val2017",
        annotations="datasets/coco/annotations/instances_val2017.json",
    )
    """Null trains without validation."""
    classes: list[str] | None = None
    """Category names to keep, in label order; null keeps all, ordered by category id."""
    keep_empty: bool = False
    """Train on images without objects too."""
    mask_size: Annotated[int, Field(ge=28)] = 112
    """M: gt masks are rasterised at M×M inside their gt box."""
    aspect_grouping: bool = True
    """Batches of landscape or of portrait images, so that less is padded."""
    workers: NonNegative | None = None
    """Loader processes for each training process; null means up to 4, as the cores allow."""
    augment: AugmentConfig = AugmentConfig()
    test_resize: TestResizeConfig = TestResizeConfig()


class OptimConfig(Section):
    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    lr: PositiveFloat = 0.02
    """Learning rate at `reference_batch` images an update, scaled linearly to the batch."""
    reference_batch: Positive = 16
    """The batch that `lr` (and, with `train.epochs`, `milestones`) belong to."""
    momentum: Fraction = 0.9
    """sgd only."""
    nesterov: bool = False
    """sgd: Nesterov's momentum."""
    betas: Annotated[list[BelowOne], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """adamw and lamb only."""
    weight_decay: NonNegativeFloat = 1e-4
    norm_weight_decay: NonNegativeFloat = 0.0
    """Weight decay of norm layers' scale and shift."""
    bias_weight_decay: NonNegativeFloat | None = None
    """Weight decay of other layers' biases; null is `weight_decay`."""
    clip_norm: PositiveFloat | None = None
    """Largest total gradient norm; null does not clip (lamb clips at 1 by itself)."""
    schedule: Literal["multistep", "cosine", "plateau"] = "multistep"
    """plateau multiplies by `gamma` where validation has not improved `patience` times in a row."""
    milestones: Annotated[list[Positive], Ascending] = [210000, 250000]
    """Steps where the rate is multiplied by `gamma`; with `train.epochs` they are steps of
    `reference_batch` images and are scaled to the batch."""
    milestone_epochs: Annotated[list[PositiveFloat], Ascending] = []
    """The same in epochs, whatever the batch; in place of `milestones`."""
    gamma: Fraction = 0.1
    patience: Positive = 3
    """plateau: validations without a better metric before the rate drops."""
    min_lr: NonNegativeFloat = 0.0
    """Lowest rate of cosine and plateau, at `reference_batch`."""
    warmup_steps: NonNegative = 1000
    """Linear warm-up, in steps."""
    warmup_epochs: NonNegativeFloat | None = None
    """The same in epochs; in place of `warmup_steps`."""
    warmup_factor: Fraction = 0.001
    """Start of the warm-up, relative to lr."""

    @model_validator(mode="after")
    def _rates(self) -> OptimConfig:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError("nesterov belongs to sgd with momentum; set optim.nesterov=false")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}; lower it")
        return self


class TrainConfig(Section):
    epochs: PositiveFloat | None = None
    """Passes over the training set; give this or `max_steps`."""
    max_steps: Positive | None = None
    """Optimizer updates; give this or `epochs`."""
    batch_size: Positive = 16
    """Images an update, over all processes and accumulated parts."""
    accumulate: Positive = 1
    """Parts an update is split into, to save memory."""
    seed: NonNegative = 0
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """auto: bf16 where the processor computes with it, else fp32; fp64 is for parity checks."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of backbone and FPN, or of a classifier; auto: on a GPU where a compiler is
    found."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of averaged weights, used in evaluation and prediction; null keeps none."""
    deterministic: bool = True
    """On a CPU: deterministic algorithms, so that a resumed run is equal to the last bit."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """CPU threads of a training process; null is torch's choice, recorded for exact resuming."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            given = "both are given" if self.epochs is not None else "neither is given"
            raise ValueError(f"give train.epochs or train.max_steps, one of them; {given}")
        return self


class LogConfig(Section):
    every: Positive = 20
    """Steps between lines of log.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard events beside it."""


class CheckpointConfig(Section):
    every: Positive | None = None
    """Steps between checkpoints; null is once an epoch. The last step always writes one."""


class EvalConfig(Section):
    every: NonNegative | None = None
    """Steps between validations; null is once an epoch, 0 only at the end."""
    batch_size: Positive = 1
    """Images a forward pass, in each process."""
    max_dets: Annotated[list[Positive], Field(min_length=3, max_length=3), Ascending] = [1, 10, 100]
    """Detections an image that AR1, AR10 and AP / AR100 count."""
    backend: Literal["fast", "pycocotools"] = "fast"
    """faster-coco-eval, or the slow reference; the same numbers."""
    val_loss: bool = True
    """Compute the losses on data.val too."""


class Config(Section):
    """A whole detection run."""

    task: Literal["detection"] = "detection"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _validations(self) -> Config:
        check_plateau(self.optim.schedule, self.data.val is not None, self.eval.every)
        return self
