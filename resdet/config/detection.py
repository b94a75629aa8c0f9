"""Every option and every default of a detection run, once; loading.py fills them from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from resdet.config.fields import (
    Ascending,
    BatchSize,
    BelowOne,
    Boxes,
    ClassMap,
    DataPath,
    Fraction,
    HeldOutConfig,
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
    Seed,
    Workers,
    check_validations,
    split_replaces_val,
)
from resdet.config.find import own_path
from resdet.config.model import ModelConfig
from resdet.config.testing import TestConfig
from resdet.config.tiles import TileConfig, count_more_objects, see_tiles_natively
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.regular import is_folder


class SplitConfig(Section):
    """Images and their annotations. In place of this section a path alone may be given: a folder
    with both, or a file such as data.yaml whose folder the images are in."""

    images: DataPath | list[DataPath]
    """Image folder, or a list of folders paired by position with `annotations`."""
    annotations: DataPath | list[DataPath]
    """Annotation file, or a list of them: a JSON file of coco; data.yaml, a list of images or a
    folder of label files of yolo; a table of csv; a list in ImageSets, such as trainval.txt, or the
    folder of the XML files of voc, imagenet_det and imagenet_loc (which also reads Kaggle's
    LOC_train_solution.csv); the folder of labelme's JSON files; CVAT's annotations.xml; the folder
    of masks. imagenet_det takes a pattern such as train_pos_*.txt."""
    format: str | None = None
    """Format of the annotations: coco, voc, yolo, csv, imagenet_det, imagenet_loc, labelme, cvat;
    masks as object_masks (a file per object), label_masks (a number per object), class_masks (a
    colour per class), cityscapes; or one that a module in `imports` adds. Null is recognised from
    what is there."""

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, values: Any) -> Any:
        if not isinstance(values, str) or not values:
            return values
        folder = values if is_folder(own_path(values)) else str(Path(values).parent)
        return {"images": folder, "annotations": values}


class ResizeConfig(Section):
    mode: Literal["short_edge", "large_scale_jitter"] = "short_edge"
    """short_edge: Detectron2's multi-scale resize; large_scale_jitter: scale, then crop or pad."""
    short_edges: Annotated[list[Pixels], Field(min_length=1)] = [640, 672, 704, 736, 768, 800]
    """short_edge: the short side in pixels, one drawn per image."""
    max_size: Pixels = 1333
    """short_edge: upper limit of the long side in pixels."""
    lsj_size: Pixels = 1024
    """large_scale_jitter: height and width of the output in pixels."""
    lsj_scale: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), Range] = [0.1, 2.0]
    """large_scale_jitter: range of the scale relative to `lsj_size`."""


class MosaicConfig(Section):
    """Four images in one picture, as large as one of them would be (Bochkovskiy et al. 2020)."""

    prob: Fraction = 1.0
    """Chance that an image becomes a mosaic with three others, drawn at random."""
    scale: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), Range] = [0.5, 1.5]
    """Range of the scale of the images in a mosaic, one drawn per mosaic, relative to what `resize`
    gives without jitter."""
    min_visible: Fraction = 0.1
    """Objects of whose box less than this share is left at a border are dropped."""
    off_epochs: NonNegativeFloat = 1.0
    """No mosaics in the last so many epochs, so that training ends on images as they are (YOLOX,
    Ge et al. 2021); 15 of 300 there."""


class CopyPasteConfig(Section):
    """Objects of another image pasted into each (Ghiasi et al. 2021); it needs outlines."""

    prob: Fraction = 1.0
    """Chance that an image gets objects of another, drawn at random and augmented alike."""
    max_objects: Boxes = 100
    """Most objects that are pasted; the number is drawn from 1 to this or what there is."""
    min_visible: Fraction = 0.1
    """Objects are dropped of whose outline less than this share remains uncovered, and pasted ones
    of whose box less is inside the picture."""
    blend_sigma: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Standard deviation, in pixels, of the Gaussian that smooths the borders; 0 leaves them sharp,
    which the paper found to be as good."""


class AugmentConfig(Section):
    resize: ResizeConfig = ResizeConfig()
    flip_prob: Fraction = 0.5
    """Chance of a horizontal flip."""
    vertical_flip_prob: Fraction = 0.0
    """Chance of a vertical flip."""
    crop: Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None
    """Random crop [height, width] in pixels after the resize; smaller images are not cropped."""
    albumentations: list[dict[str, Any]] = []
    """Transforms in order, each {name: ColorJitter, p: 0.5, …}: class name and its arguments."""
    mosaic: MosaicConfig | None = None
    """Null makes none; {} takes the defaults."""
    copy_paste: CopyPasteConfig | None = None
    """Null pastes nothing; {} takes the defaults. With mosaics, objects are pasted into those."""


class TestResizeConfig(Section):
    short_edge: Pixels = 800
    """Short side in pixels at test time."""
    max_size: Pixels = 1333
    """Upper limit of the long side in pixels."""
    method: Literal["pillow", "float"] = "pillow"
    """pillow: antialiased on 8 bits (Detectron2); float: bilinear on floating numbers, without
    antialiasing, the long side rounded down (torchvision's detectors)."""


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
    split: HeldOutConfig | None = None
    """Hold out part of `train` for validation, by class, in place of `val`. The run folder keeps
    the choice in split.json, and evaluates on it."""
    classes: list[str] | None = None
    """Category names to keep, in label order; null keeps all, ordered by category id."""
    class_map: ClassMap | None = None
    """{old name: new name} merges and renames classes before `classes` are chosen; null in place of
    a new name leaves out the class with its objects. Other classes stay."""
    tile: TileConfig | None = None
    """Cut images into tiles, in training and evaluation; null takes them whole."""
    keep_empty: bool = False
    """Train on images without objects too."""
    keep_difficult: bool = False
    """Train on objects marked as difficult too; metrics have their own rules for them."""
    extras: list[str] = []
    """Keys of further numbers per object in the annotation file, for branches of your own."""
    mask_size: Annotated[int, Field(ge=28, le=1024)] = 112
    """M: gt masks are rasterised at M×M inside their gt box."""
    aspect_grouping: bool = True
    """Batches of landscape or of portrait images, so that less is padded."""
    max_pixels: PixelLimit = MAX_PIXELS
    """Larger images are left out like damaged ones; decoding takes 3 to 10 bytes per pixel."""
    workers: Workers | None = None
    """Loader processes per training process; null means up to 4, depending on the cores."""
    max_broken: MaxBroken = 0.01
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Repeat images of classes that are in less than this share t of the training images: an image
    comes max(1, √(t / f)) times per epoch on average, with the share f of its rarest class (LVIS,
    Gupta et al. 2019; .001 there). Epochs are longer by that."""
    augment: AugmentConfig = AugmentConfig()
    test_resize: TestResizeConfig = TestResizeConfig()

    _split = model_validator(mode="before")(split_replaces_val)

    _native = model_validator(mode="before")(see_tiles_natively)

    @property
    def val_files(self) -> SplitConfig | None:
        """The files that have the images to validate on; None without any."""
        return self.val if self.split is None else self.train


class OptimConfig(Section):
    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    lr: PositiveFloat = 0.02
    """Learning rate at `reference_batch` images per update, scaled linearly to the batch."""
    reference_batch: Images = 16
    """The batch size that `lr` (and, with `train.epochs`, `milestones`) are given for."""
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
    layer_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Multiplies the rate once for each stage of the backbone between a parameter and the heads:
    of .7, res5 has .7 of the rate, res4 .49, and the stem .17. Null gives all the same rate."""
    clip_norm: PositiveFloat | None = None
    """Largest total gradient norm; null does not clip (lamb clips at 1 by itself)."""
    schedule: Literal["multistep", "cosine", "plateau"] = "multistep"
    """plateau multiplies by `gamma` when validation has not improved `patience` times in a row."""
    milestones: Annotated[list[Positive], Ascending] = [210000, 250000]
    """Steps where the rate is multiplied by `gamma`; with `train.epochs` they are steps of
    `reference_batch` images and are scaled to the batch."""
    milestone_epochs: Annotated[list[PositiveFloat], Ascending] = []
    """The same in epochs, for any batch size; replaces `milestones`."""
    gamma: Fraction = 0.1
    patience: Positive = 3
    """plateau: validations without a better metric before the rate drops."""
    min_lr: NonNegativeFloat = 0.0
    """Lowest rate of cosine and plateau, at `reference_batch`."""
    warmup_steps: NonNegative = 1000
    """Linear warm-up, in steps."""
    warmup_epochs: NonNegativeFloat | None = None
    """The same in epochs; replaces `warmup_steps`."""
    warmup_factor: Fraction = 0.001
    """Start of the warm-up, relative to lr."""

    @model_validator(mode="after")
    def _rates(self) -> OptimConfig:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError("nesterov needs sgd with momentum; set optim.nesterov=false")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}; lower it")
        return self


class EarlyStopConfig(Section):
    """End a run whose validations no longer get better. best.pt is of its best one."""

    patience: Positive = 10
    """Validations without a better metric after which the run ends."""


class TrainConfig(Section):
    epochs: PositiveFloat | None = None
    """Passes over the training set; set this or `max_steps`."""
    max_steps: Positive | None = None
    """Optimizer updates; set this or `epochs`."""
    early_stop: EarlyStopConfig | None = None
    """Null never ends a run early."""
    max_hours: PositiveFloat | None = None
    """Hours of training and validation, all resumes together, after which a run saves and ends;
    `--resume` with more hours continues it exactly. Null sets no limit."""
    batch_size: BatchSize = 16
    """Images per update, over all processes and micro-batches; auto takes the largest power of two
    that fits into 80 % of the free memory and is within 5 % of the fastest, and stores it."""
    accumulate: Images = 1
    """Micro-batches per update; more of them save memory."""
    seed: Seed = 0
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp64"] = "auto"
    """auto: bf16 if the processor supports it, else fp32; fp64 is for parity checks."""
    channels_last: bool = True
    """Memory layout of the convolutions."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of backbone and FPN, or of a classifier; auto: on a GPU where it works."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of averaged weights, used in evaluation and prediction; null keeps none."""
    deterministic: bool = True
    """On a CPU: deterministic algorithms, so that a resumed run is bit-exact."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None = None
    """CPU threads of a training process; null is torch's choice, recorded for exact resuming."""
    profile: bool = False
    """Profile three steps after the first ten: a table of where a step spends its time, and a
    trace, in profile/ of the run folder."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.max_steps is None):
            given = "both are given" if self.epochs is not None else "neither is given"
            raise ValueError(f"give train.epochs or train.max_steps, one of them; {given}")
        return self

    @property
    def images_per_step(self) -> int:
        """`batch_size`, once auto has become a number."""
        assert self.batch_size != "auto", "the batch size has not been measured yet"
        return self.batch_size


class LogConfig(Section):
    every: Positive = 20
    """Steps between lines of log.jsonl."""
    tensorboard: bool = True
    """Write TensorBoard events too."""
    trackers: list[str] = []
    """Also send config, numbers and plots to wandb, mlflow, or one that a module in `imports`
    adds."""
    report: bool = True
    """Write report.html into the run folder at the end of the training."""


class CheckpointConfig(Section):
    every: Positive | None = None
    """Steps between checkpoints; null is once per epoch. The last step always writes one."""


class EvalConfig(Section):
    every: NonNegative | None = None
    """Steps between validations; null is once per epoch, 0 only at the end."""
    batch_size: Images = 1
    """Images per forward pass, in each process."""
    max_dets: Annotated[list[Boxes], Field(min_length=3, max_length=3), Ascending] = [1, 10, 100]
    """Limits on detections per image, for AR1, AR10, and AR100 with AP."""
    metric: str = "coco"
    """coco, lvis (for LVIS annotation files), voc07, voc12, imagenet_det, imagenet_loc, or a metric
    that a module in `imports` adds."""
    overlap: Literal["inclusive", "exclusive"] = "inclusive"
    """voc07 and voc12: inclusive: an overlap of exactly .5 is a match, as in VOC's devkit."""
    blacklist: DataPath | None = None
    """imagenet_det and imagenet_loc: the devkit's list of what is not evaluated."""
    backend: Literal["fast", "hotcoco", "pycocotools"] = "fast"
    """fast (hotcoco), or pycocotools, the slow reference with the same numbers."""
    val_loss: bool = True
    """Compute the losses on data.val too."""


class DetectionConfig(Section):
    """A whole detection run."""

    task: Literal["detection"] = "detection"
    imports: list[str] = []
    """Python modules of your own to import first, such as [my_module]: found beside the config, in
    the current folder or on PYTHONPATH; what they register can be named below."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    test: TestConfig = TestConfig()

    _many_objects = model_validator(mode="before")(count_more_objects)

    @model_validator(mode="after")
    def _parts_together(self) -> DetectionConfig:
        check_validations(
            self.optim.schedule,
            stops_early=self.train.early_stop is not None,
            has_val=self.data.val_files is not None,
            every=self.eval.every,
        )
        if self.model.backbone.name is not None:  # else the network is another config's
            self.test.check(self.model.fpn is not None)
        return self
