"""Every option and default of a localization run; detection.py has what the tasks share.

Localization answers where the one object of an image is whose class is known or was predicted
(He et al. 2016, appendix C).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from resdet.config.detection import (
    CheckpointConfig,
    LogConfig,
    OptimConfig,
    SplitConfig,
    TrainConfig,
)
from resdet.config.fields import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Ascending,
    BatchSize,
    Boxes,
    BoxLoss,
    Channels,
    ClassMap,
    DataPath,
    Fraction,
    HeldOutConfig,
    Images,
    Layers,
    MaxBroken,
    NonNegative,
    PixelLimit,
    Pixels,
    Positive,
    PositiveFloat,
    Range,
    Section,
    ThreeNumbers,
    ThreePositives,
    Workers,
    check_anchor_ious,
    check_positives,
    check_validations,
    split_replaces_val,
)
from resdet.config.model import BackboneConfig
from resdet.config.regions import ProposalsConfig, RegionConfig
from resdet.files.image_limits import MAX_PIXELS


class ClassRPNConfig(Section):
    """On the backbone's last map, c5: at stride 32, or 16 with backbone.res5_dilation 2."""

    anchor_sizes: Annotated[list[PositiveFloat], Field(min_length=1)] = [64.0, 96.0, 144.0, 216.0]
    """Square root of the anchor area in pixels."""
    aspect_ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]
    """Anchor height / width."""
    num_convs: Layers = 1
    """3×3 convolutions before the two predictors."""
    conv_dim: Channels = 512
    """Channels of these convolutions."""
    foreground_iou: Fraction = 0.7
    """Anchors at or above this IoU are positive, besides the best of each object."""
    background_iou: Fraction = 0.3
    """Anchors below this IoU are negative; those between are ignored."""
    num_samples: Boxes = 8
    """Anchors sampled per image for the loss."""
    positive_fraction: Fraction = 0.5
    """Largest share of positives among them."""
    trained_classes: Literal["own", "all"] = "own"
    """own: the sampled anchors train the classifier of the image's class only, which is enough
    where the class is given. all: every sampled anchor is also a negative of all other classes, so
    that scores of different classes can be compared without another classifier."""
    box_loss: BoxLoss = "smooth_l1"
    """Loss on the anchor deltas (giou: on the decoded boxes)."""
    smooth_l1_beta: PositiveFloat = 0.1111
    """Where smooth_l1 turns from quadratic to linear."""

    @model_validator(mode="after")
    def _ious_and_samples(self) -> ClassRPNConfig:
        check_anchor_ious(self.background_iou, self.foreground_iou)
        check_positives(self.num_samples, self.positive_fraction)
        return self


class LocalizationModelConfig(Section):
    type: Literal["rpn", "rcnn"] = "rpn"
    """rpn: the per-class region proposal network; rcnn: a network on the warped crops of its
    proposals, given as data.proposals."""
    num_classes: Positive | None = None
    """Classes; null means from the data."""
    weights: str | None = None
    """Start weights of the whole network: a checkpoint or a run folder of this task; with another
    number of classes, the layers that depend on it keep their random start."""
    freeze: list[str] = []
    """Patterns of parameter names to freeze, such as [backbone.*, rpn.*]: * is any text, ? and [ab]
    are single characters. Batch norms that match whole keep their statistics."""
    backbone: BackboneConfig = BackboneConfig()
    rpn: ClassRPNConfig = ClassRPNConfig()
    """Of type rpn."""
    rcnn: RegionConfig = RegionConfig()
    """Of type rcnn."""
    pixel_mean: ThreeNumbers = IMAGENET_MEAN
    """Mean subtracted from each channel, 0..255, in the order of `channel_order`."""
    pixel_std: ThreePositives = IMAGENET_STD
    """Divisor of each channel."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Channel order the weights were trained with; files are always read as RGB."""


class LocalizationAugmentConfig(Section):
    crop: Literal["scale_jitter", "random_resized", "none"] = "scale_jitter"
    """scale_jitter: a random short side, then a random square (the ResNet paper); random_resized: a
    box of random area and shape (Inception); none: as at test time, the centre."""
    short_edges: Annotated[list[Pixels], Field(min_length=2, max_length=2), Range] = [256, 480]
    """scale_jitter: range of the short side in pixels."""
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2), Range] = [0.25, 1.0]
    """random_resized: range of the area, relative to the image."""
    ratio: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), Range] = [0.75, 1.3333]
    """random_resized: range of width / height."""
    min_visible: Fraction = 0.25
    """A crop that shows less than this share of every object's area is drawn again, up to ten
    times; 0 takes every first crop. Objects are clipped to the crop, and those outside it are left
    out."""
    flip_prob: Fraction = 0.5
    """Chance of a horizontal flip."""
    color_jitter: Fraction = 0.0
    """Largest relative change of brightness, contrast and saturation."""


class LocalizationDataConfig(Section):
    train: SplitConfig = SplitConfig(
        images="datasets/ILSVRC/Data/CLS-LOC/train",
        annotations="datasets/ILSVRC/Annotations/CLS-LOC/train",
        format="imagenet_loc",
    )
    """Images with one or more objects of one class each, in any format of detection data."""
    val: SplitConfig | None = SplitConfig(
        images="datasets/ILSVRC/Data/CLS-LOC/val",
        annotations="datasets/ILSVRC/Annotations/CLS-LOC/val",
        format="imagenet_loc",
    )
    """Null trains without validation."""
    split: HeldOutConfig | None = None
    """Hold out part of data.train for validation, in place of data.val: the run folder keeps the
    choice in split.json, and evaluates on it."""
    classes: list[str] | None = None
    """Category names to keep, in label order; null keeps all, ordered by category id."""
    class_map: ClassMap | None = None
    """{old name: new name} merges and renames classes before `classes` are chosen; null in place of
    a new name leaves out the class with its objects. Other classes stay."""
    keep_difficult: bool = False
    """Train on objects marked as difficult too; all of them are evaluated."""
    proposals: ProposalsConfig = ProposalsConfig()
    """Of type rcnn: the proposals of the images above."""
    size: Pixels = 224
    """Side of the training images in pixels; of type rcnn, of every crop."""
    test_resize: Pixels = 256
    """Short side of a test image in pixels, before the centre crop."""
    test_size: Pixels = 224
    """Side of the centre crop in pixels."""
    max_pixels: PixelLimit = MAX_PIXELS
    """Larger images are left out like damaged ones; decoding takes 3 to 10 bytes per pixel."""
    workers: Workers | None = None
    """Loader processes per training process; null means up to 4, depending on the cores."""
    max_broken: MaxBroken = 0.01
    augment: LocalizationAugmentConfig = LocalizationAugmentConfig()

    _split = model_validator(mode="before")(split_replaces_val)

    @property
    def val_files(self) -> SplitConfig | None:
        """The files that have the images to validate on; None without any."""
        return self.val if self.split is None else self.train


class LocalizationOptimConfig(OptimConfig):
    lr: PositiveFloat = 0.01
    """Learning rate at `reference_batch` images per update, scaled linearly to the batch."""
    reference_batch: Images = 256
    """The batch size that `lr` (and, with `train.epochs`, `milestones`) are given for."""
    milestones: Annotated[list[Positive], Ascending] = []
    """Steps where the rate is multiplied by `gamma`; with `train.epochs` they are steps of
    `reference_batch` images and are scaled to the batch."""
    warmup_steps: NonNegative = 0
    """Linear warm-up, in steps."""


class LocalizationTrainConfig(TrainConfig):
    batch_size: BatchSize = 256
    """Images per update, over all processes and micro-batches; auto takes the largest power of two
    that fits into 80 % of the free memory and is within 5 % of the fastest, and stores it."""


class LocalizationTestConfig(Section):
    """How an image is tested: in training, by the evaluation commands, and in prediction."""

    views: Literal["center", "dense"] = "center"
    """center: the centre crop; dense: the whole image at each of `scales`."""
    scales: Annotated[list[Pixels], Ascending] = []
    """dense: short sides in pixels; empty is the one of data.test_resize."""
    flip: bool = False
    """Test the mirror image of each view as well."""
    merge: Literal["best", "vote"] = "best"
    """best: of all anchors of all views, the box with the highest score; vote: the score-weighted
    mean of the boxes that overlap it by `vote_iou`, of the `vote_boxes` best ones."""
    vote_iou: Fraction = 0.7
    """vote: least IoU with the best box."""
    vote_boxes: Boxes = 50
    """vote: boxes that take part, the best of each class."""
    num_guesses: Positive = 5
    """Classes that `predict` answers with, one box each."""
    num_proposals: Boxes = 200
    """Boxes per image and class that `predict --proposals` writes for an R-CNN."""
    proposal_nms: Fraction = 0.7
    """NMS IoU of proposals for an R-CNN, within each class; 1 keeps all."""

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> LocalizationTestConfig:
        if self.scales and self.views != "dense":
            raise ValueError("scales need views: dense; a centre crop has data.test_resize")
        for key in ("vote_iou", "vote_boxes"):
            if self.merge != "vote" and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to merge: vote; set test.merge=vote")
        return self


class LocalizationEvalConfig(Section):
    every: NonNegative | None = None
    """Steps between validations; null is once per epoch, 0 only at the end."""
    batch_size: Images = 32
    """Images per forward pass, in each process; dense views pass one by one."""
    metric: str = "imagenet_loc"
    """imagenet_loc (the localization error, with the true class given), or a metric that a module
    in `imports` adds."""
    blacklist: DataPath | None = None
    """imagenet_loc: the devkit's list of images that are not evaluated."""


class LocalizationConfig(Section):
    """A whole localization run."""

    task: Literal["localization"] = "localization"
    imports: list[str] = []
    """Python modules of your own to import first, such as [my_module]: found beside the config, in
    the current folder or on PYTHONPATH; what they register can be named below."""
    model: LocalizationModelConfig = LocalizationModelConfig()
    data: LocalizationDataConfig = LocalizationDataConfig()
    optim: LocalizationOptimConfig = LocalizationOptimConfig()
    train: LocalizationTrainConfig
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    test: LocalizationTestConfig = LocalizationTestConfig()
    eval: LocalizationEvalConfig = LocalizationEvalConfig()

    @model_validator(mode="after")
    def _parts_together(self) -> LocalizationConfig:
        check_validations(
            self.optim.schedule,
            stops_early=self.train.early_stop is not None,
            has_val=self.data.val_files is not None,
            every=self.eval.every,
        )
        self._check_type()
        augment, data = self.data.augment, self.data
        is_cropped = self.model.type == "rpn" and augment.crop == "scale_jitter"
        if is_cropped and augment.short_edges[0] < data.size:
            raise ValueError(
                f"data.augment.short_edges starts at {augment.short_edges[0]} pixels, less than "
                f"the {data.size} of data.size that are cropped; raise it or lower data.size"
            )
        if data.test_resize < data.test_size:
            raise ValueError(
                f"data.test_resize {data.test_resize} is less than data.test_size "
                f"{data.test_size}; raise the first or lower the second"
            )
        return self

    def _check_type(self) -> None:
        """ValueError for keys of the other type of network, and for missing proposals."""
        own = self.model.type
        other, keys = next(item for item in KEYS_OF_TYPE.items() if item[0] != own)
        for key in keys:
            value: Any = self
            section = type(self).model_fields
            for part in key.split("."):
                default = section[part].default
                value = getattr(value, part)
                section = getattr(type(value), "model_fields", {})
            if value != default:
                raise ValueError(f"{key} is for model.type {other}, and model.type is {own}")
        if own == "rcnn" and self.data.proposals.train is None:
            raise ValueError(
                "model.type rcnn needs data.proposals.train, a file that `predict RUN --proposals` "
                "writes with a run of type rpn"
            )


KEYS_OF_TYPE = {
    "rpn": (
        *("model.rpn", "data.test_resize", "data.test_size", "test.views", "test.scales"),
        *("test.num_guesses", "test.num_proposals", "test.proposal_nms"),
        *("data.augment.crop", "data.augment.short_edges"),
        *("data.augment.scale", "data.augment.ratio", "data.augment.min_visible"),
    ),
    "rcnn": ("model.rcnn", "data.proposals"),
}
"""By `model.type`: the keys that only it uses, and the other leaves at their defaults."""
