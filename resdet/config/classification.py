"""Every option and every default of a classification run; detection.py has what both share."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from resdet.config.detection import CheckpointConfig, LogConfig, OptimConfig, TrainConfig
from resdet.config.fields import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Ascending,
    BatchSize,
    BelowOne,
    DataPath,
    Fraction,
    Images,
    MaxBroken,
    NonNegative,
    NonNegativeFloat,
    PixelLimit,
    Pixels,
    Positive,
    PositiveFloat,
    Range,
    Section,
    ThreeNumbers,
    ThreePositives,
    Workers,
    check_validations,
)
from resdet.config.model import BackboneConfig
from resdet.files.image_limits import MAX_PIXELS


class ClassificationModelConfig(Section):
    num_classes: Positive | None = None
    """Classes; null means from the data."""
    weights: str | None = None
    """Start weights of the whole classifier: a checkpoint, a run folder, or a published name such
    as torchvision:resnet50.IMAGENET1K_V2 or timm:resnet50.a1_in1k; with another number of classes,
    the last layer keeps its random start."""
    freeze: list[str] = []
    """Patterns of parameter names to freeze, such as [backbone.*, rpn.*]: * is any text, ? and [ab]
    are single characters. Batch norms that match whole keep their statistics."""
    backbone: BackboneConfig = BackboneConfig()
    dropout: Fraction | None = None
    """Dropout before the last layer; null is the network's own."""
    pixel_mean: ThreeNumbers | Literal["per_pixel", "per_channel"] = IMAGENET_MEAN
    """Mean subtracted from each channel, 0..255; per_pixel and per_channel measure it on the
    training images when the run starts."""
    pixel_std: ThreePositives = IMAGENET_STD
    """Divisor of each channel."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Channel order the weights were trained with; files are always read as RGB."""


class ClassificationSplitConfig(Section):
    root: DataPath | None = None
    """Folder: one subfolder per class, tar shards, ImageNet's flat val/, or CIFAR's folder; null
    is data.root/train or data.root/val (CIFAR: data.root itself)."""
    table: DataPath | None = None
    """A CSV file with the columns image and class, or parquet files (Hugging Face's with their
    images, or with paths) by a path or a pattern such as data/train-*.parquet. Paths start at
    `root`; null is then data.root, or else the folder of the table."""
    ground_truth: DataPath | None = None
    """ImageNet's flat val/ only: ILSVRC2012_validation_ground_truth.txt or a table of file and
    wnid; null looks for it beside the images."""


class ClassificationAugmentConfig(Section):
    crop: Literal["random_resized", "scale_jitter", "pad", "none"] = "random_resized"
    """random_resized: a box of random area and shape (Inception); scale_jitter: a random short
    side, then a random square (the ResNet paper); pad: padded and cropped at random (CIFAR); none:
    as at test time."""
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2), Range] = [0.08, 1.0]
    """random_resized: range of the area, relative to the image."""
    ratio: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), Range] = [0.75, 1.3333]
    """random_resized: range of width / height."""
    short_edges: Annotated[list[Pixels], Field(min_length=2, max_length=2), Range] = [256, 480]
    """scale_jitter: range of the short side in pixels."""
    pad: Annotated[int, Field(ge=0, le=1024)] = 4
    """pad: pixels of 0 (after the mean is subtracted) on each side."""
    flip_prob: Fraction = 0.5
    """Chance of a horizontal flip."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """TrivialAugment (wide), or RandAugment with magnitudes that grow with strength."""
    rand_ops: Annotated[int, Field(gt=0, le=100)] = 2
    """rand: operations per image."""
    rand_magnitude: Annotated[float, Field(ge=0, le=10)] = 9
    """rand: strength, 0..10."""
    rand_std: NonNegativeFloat = 0.5
    """rand: standard deviation of the strength."""
    color_jitter: Fraction = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    pca_std: NonNegativeFloat = 0.0
    """Deviation of the colour noise along ImageNet's principal colours (Krizhevsky et al. 2012)."""
    mixup: NonNegativeFloat = 0.0
    """Beta distribution's alpha of mixup; 0 is off."""
    cutmix: NonNegativeFloat = 0.0
    """Beta distribution's alpha of CutMix; 0 is off. With mixup, a batch takes one of the two."""
    erase_prob: Fraction = 0.0
    """Chance that a random box of an image is filled."""
    erase_fill: Literal["noise", "zero"] = "noise"
    """Fill with normal noise (timm), or with 0 after the mean is subtracted (torchvision)."""


class ClassificationDataConfig(Section):
    format: Literal["auto", "folder", "shards", "cifar10", "cifar100"] = "auto"
    """How the images are stored; auto detects it from the folder."""
    root: DataPath | None = None
    """Shorthand for both roots: ROOT/train and ROOT/val, or ROOT itself for CIFAR."""
    train: ClassificationSplitConfig = ClassificationSplitConfig()
    val: ClassificationSplitConfig | None = ClassificationSplitConfig()
    """Null trains without validation."""
    holdout: NonNegative = 0
    """CIFAR: validate on this many images from the end of the training set instead of the test
    set."""
    download: bool = False
    """CIFAR: download the archive if it is missing."""
    classes: list[str] | None = None
    """Class folders to keep, in label order; null keeps all, sorted by name."""
    size: Pixels = 224
    """Side of the training images in pixels."""
    progressive: list[Annotated[list[float], Field(min_length=2, max_length=2)]] = []
    """Points [epoch, side]: the side grows linearly between them, in steps of 32 pixels; empty
    trains at `size` throughout."""
    test_resize: Pixels = 256
    """Short side of a test image in pixels, before the centre crop."""
    test_size: Pixels = 224
    """Side of the centre crop in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of every resize, antialiased."""
    repeated_augmentation: Annotated[int, Field(gt=0, le=1000)] = 1
    """Copies of each image in a step, augmented independently (Hoffer et al. 2020)."""
    max_pixels: PixelLimit = MAX_PIXELS
    """Larger images are left out like damaged ones; decoding takes 3 to 10 bytes per pixel."""
    workers: Workers | None = None
    """Loader processes per training process; null means up to 4, depending on the cores."""
    max_broken: MaxBroken = 0.01
    augment: ClassificationAugmentConfig = ClassificationAugmentConfig()


class ClassificationLossConfig(Section):
    name: Literal["cross_entropy", "bce"] = "cross_entropy"
    """bce: a binary cross-entropy per class, averaged over the classes (Wightman et al. 2021)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bce_target_thresh: BelowOne | None = None
    """bce: mixed targets above this count as 1; null keeps them."""
    aux_weight: NonNegativeFloat = 0.3
    """Weight of auxiliary classifiers' losses (GoogLeNet)."""
    teacher: str | None = None
    """Distillation: weights of another classifier, as `model.weights` names them."""
    teacher_weight: Fraction = 0.5
    """Share of the teacher's loss in the total."""
    teacher_temperature: PositiveFloat = 1.0
    """Softmax temperature of student and teacher in this loss."""

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> ClassificationLossConfig:
        if self.bce_target_thresh is not None and self.name != "bce":
            raise ValueError("bce_target_thresh needs name bce; set it to null")
        if self.teacher is None and (self.teacher_weight, self.teacher_temperature) != (0.5, 1.0):
            raise ValueError("teacher_weight and teacher_temperature need a teacher; name one")
        return self


class ClassificationOptimConfig(OptimConfig):
    lr: PositiveFloat = 0.1
    """Learning rate at `reference_batch` images per update, scaled linearly to the batch."""
    reference_batch: Images = 256
    """The batch size that `lr` (and, with `train.epochs`, `milestones`) are given for."""
    norm_weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of norm layers' scale and shift."""
    milestones: Annotated[list[Positive], Ascending] = []
    """Steps where the rate is multiplied by `gamma`; with `train.epochs` they are steps of
    `reference_batch` images and are scaled to the batch."""
    warmup_steps: NonNegative = 0
    """Linear warm-up, in steps."""
    warmup_until_error_percent: Annotated[float, Field(gt=0, lt=100)] | None = None
    """Hold lr × `warmup_factor` until the training error falls below this (the paper's ResNet-110:
    80, with warmup_factor .1); replaces the linear warm-up. For mixed images, the error is that of
    the image with the larger share."""

    @model_validator(mode="after")
    def _low_rate(self) -> ClassificationOptimConfig:
        if self.warmup_until_error_percent is not None and self.warmup_factor < 0.01:
            raise ValueError(
                f"warmup_factor {self.warmup_factor} with warmup_until_error_percent holds the "
                "rate where nothing is learned; give .1 (the paper) or another one from .01 on"
            )
        return self


class ClassificationTrainConfig(TrainConfig):
    batch_size: BatchSize = 256
    """Images per update, over all processes and micro-batches; auto takes the largest power of two
    that fits into 80 % of the free memory and is within 5 % of the fastest, and stores it."""
    precise_bn_images: NonNegative = 0
    """Images over which batch norm statistics are recomputed after the last update, for last.pt;
    0 keeps them."""


class ClassificationEvalConfig(Section):
    every: NonNegative | None = None
    """Steps between validations; null is once per epoch, 0 only at the end."""
    batch_size: Images = 128
    """Images per forward pass, in each process."""
    metric: str = "accuracy"
    """accuracy, or a metric that a module in `imports` adds."""


class ClassificationConfig(Section):
    """A whole classification run."""

    task: Literal["classification"] = "classification"
    imports: list[str] = []
    """Python modules of your own to import first, such as [my_module]: found beside the config, in
    the current folder or on PYTHONPATH; what they register can be named below."""
    model: ClassificationModelConfig = ClassificationModelConfig()
    data: ClassificationDataConfig = ClassificationDataConfig()
    loss: ClassificationLossConfig = ClassificationLossConfig()
    optim: ClassificationOptimConfig = ClassificationOptimConfig()
    train: ClassificationTrainConfig
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: ClassificationEvalConfig = ClassificationEvalConfig()

    @model_validator(mode="after")
    def _parts_together(self) -> ClassificationConfig:
        check_validations(
            self.optim.schedule,
            stops_early=self.train.early_stop is not None,
            has_val=self.data.val is not None,
            every=self.eval.every,
        )
        if self.train.early_stop and self.train.precise_bn_images:
            raise ValueError(
                "train.early_stop: may end the run at any validation, and train.precise_bn_images "
                "computes statistics after its last step; set one of them to null or 0"
            )
        points = self.data.progressive
        if any(early[0] >= late[0] for early, late in pairwise(points)):
            raise ValueError("data.progressive: give the points by ascending epoch")
        if points and self.model.pixel_mean == "per_pixel":
            raise ValueError(
                "model.pixel_mean: per_pixel is a mean of one side, and data.progressive has "
                "several; take per_channel"
            )
        return self
