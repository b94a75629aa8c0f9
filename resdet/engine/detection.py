"""Detection as a task of the training loop: COCO data, an R-CNN, its losses and COCO metrics."""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from resdet.config.detection import DetectionConfig
from resdet.config.model import BoxHeadConfig
from resdet.data.detection.batches import Batch, collate
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.fingerprint import fingerprint_detection
from resdet.data.detection.repeats import class_factors, image_factors
from resdet.data.detection.transforms import TrainTransform
from resdet.data.loader import TrainPlan
from resdet.data.resumed import Resumed
from resdet.engine import distributed, pictures
from resdet.engine.data_record import DataRecord, DataSet
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import check_classes, evaluate, make_evaluator
from resdet.engine.signals import StopRequest
from resdet.engine.task import Task
from resdet.engine.validation import Validation
from resdet.errors import UserError, did_you_mean, first_few
from resdet.factory import build_data, build_model, load_start_weights
from resdet.factory.backbone import check_frozen
from resdet.factory.detection_data import DataSets
from resdet.factory.imports import naming_imports
from resdet.factory.network import Resolved, resolve_config
from resdet.files.findings import Finding
from resdet.files.scale import seen_in
from resdet.hardware import Precision
from resdet.inference.combined import combine
from resdet.models.losses import class_weights
from resdet.models.rcnn import RCNN

logger = logging.getLogger("resdet")

MAX_CLASSES = 20
"""Classes counted by name in the log, the commonest first."""


class DetectionTask(Task):
    """See `resdet.engine.task.Task`."""

    kind = "detector"
    config: DetectionConfig
    model: RCNN

    def __init__(
        self,
        config: DetectionConfig,
        processes: Processes,
        *,
        is_new: bool,
        strict: bool,
        decode_all: bool,
        resumed: Resumed | None = None,
    ) -> None:
        """Data and model; with its start weights where the run `is_new`. `resumed` is the choice of
        images of a run that is resumed.

        UserError for whatever would make the run fail later.
        """
        start = resolve_config(config)
        self.config = config = start.config
        data = load_data(config, resumed=resumed, strict=strict, decode_all=decode_all)
        self.train_data, self.val_data, self.split = data.train, data.val, data.split
        self.model = make_model(start, self.train_data, processes, is_new=is_new)
        if self.val_data is not None:  # what can't be evaluated fails now
            make_evaluator(config, combine([self.model], [self.kind]), self.val_data)
        self.processes = processes
        self.class_names, self.category_ids = self.model.class_names, self.model.category_ids
        self.collate = partial(collate, multiple=self.model.size_divisibility)
        self.record, self.findings = record_of(data), findings_of(data)
        sizes, resize = self.train_data.sizes, config.data.test_resize
        # of tiles, smaller ones are resized by the same factor
        tile = config.data.tile
        seen = sizes if tile is None else np.array([[tile.size, tile.size]])
        areas = self.train_data.object_areas
        self.seen = seen_in(seen, areas, resize.short_edge, resize.max_size)
        self.model.tile_scale = self.seen.scale
        self.plan = TrainPlan(
            num_images=len(self.train_data),
            batch_size=config.train.images_per_step,
            seed=config.train.seed,
            aspect_ratios=sizes[:, 1] / sizes[:, 0] if config.data.aspect_grouping else None,
            factors=repeat_factors(config, self.train_data),
        )

    def follow_plan(self) -> None:
        end_mosaics(self.config, self.train_data, self.plan)

    def losses(
        self, wrapped: nn.Module, batch: Batch, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return wrapped(batch.images, batch.targets, seed=seed, step=step), {}

    def image_names(self, micro_batches: Sequence[Batch]) -> list[str]:
        return [name for batch in micro_batches for name in batch.image_names]

    def validate(
        self, precision: Precision, workers: int, stop: StopRequest | None
    ) -> Validation | None:
        assert self.val_data is not None, "validation without data.val"
        section = self.config.eval
        return evaluate(
            combine([self.model], [self.kind]),
            self.val_data,
            make_evaluator(self.config, self.model, self.val_data),
            processes=self.processes,
            precision=precision,
            batch_size=section.batch_size,
            val_loss=section.val_loss,
            workers=workers,
            stop=stop,
            num_pictures=pictures.MAX_IMAGES,
        )

    def draw_batch(self, micro_batches: Sequence[Batch], step: int, path: Path) -> None:
        pictures.draw_batch(micro_batches, self.model.class_names, path)

    def small_batch(self) -> tuple[Batch, int]:
        batch = self.collate([self.train_data[self.plan.batch(0)[0]]])
        height, width = batch.images.images.shape[-2:]
        return batch, height * width

    def largest_area(self) -> int:
        return largest_area(self.config, self.train_data.sizes, self.model.size_divisibility)


def record_of(data: DataSets) -> DataRecord:
    """What checkpoints keep of annotated images."""
    parts = [("data.train", data.train), *([("data.val", data.val)] if data.val else [])]
    return DataRecord(
        {
            key: DataSet(
                fingerprint_detection(part.untiled, whole=part is data.val),
                part.untiled.image_name,
            )
            for key, part in parts
        },
        old_digest=partial(old_digest, data.train.untiled),
    )


def findings_of(data: DataSets) -> list[Finding]:
    return [*data.train.findings, *(data.val.findings if data.val else [])]


def old_digest(data: DetectionDataset) -> str:
    """The digest in checkpoints of 0.1.0: the number of images, and a fingerprint of their sizes,
    ids and classes."""
    digest = hashlib.sha256(np.ascontiguousarray(data.sizes).tobytes())
    digest.update(repr((list(data.image_ids), list(data.class_names))).encode())
    return f"{len(data)} images, {digest.hexdigest()[:16]}"


def load_data(
    config: DetectionConfig, *, resumed: Resumed | None, strict: bool, decode_all: bool
) -> DataSets:
    """Training and validation data, counted in the log."""
    data = build_data(config, resumed=resumed, strict=strict, decode_all=decode_all)
    if data.split is not None:
        held_out, test = len(data.split.val), len(data.split.test)
        more = f", and {test} for a test" if test else ""
        logger.info(
            f"data.split: {held_out} of {held_out + test + len(data.split.train)} images of "
            f"data.train are held out for validation{more}"
        )
    describe_data("data.train", data.train.untiled)
    if not len(data.train):
        raise UserError(
            f"{config.data.train.annotations}: no image to train on; "
            "see the findings above, or set data.keep_empty=true"
        )
    if data.val is not None and config.data.val_files is not None:
        describe_data("data.val" if data.split is None else "held out", data.val.untiled)
        source = str(config.data.val_files.annotations)
        check_classes(data.val, data.train.class_names, source)
    return data


def describe_data(name: str, data: DetectionDataset) -> None:
    """Objects by class and the number of findings in the log; reading named these one by one."""
    objects = Counter(dict(zip(data.class_names, data.objects_per_class.tolist(), strict=True)))
    absent = [name for name, count in objects.items() if not count]
    present = len(objects) - len(absent)
    common = [f"{name} {count}" for name, count in objects.most_common(min(present, MAX_CLASSES))]
    more = f" and {present - MAX_CLASSES} more" if present > MAX_CLASSES else ""
    logger.info(
        f"{name}: {len(data)} images; objects by class: {', '.join(common)}{more}; "
        f"{len(data.findings)} finding(s) in the annotations"
    )
    if absent:
        logger.info(f"{name}: no object of {len(absent)} class(es): {', '.join(absent)}")


def repeat_factors(config: DetectionConfig, data: DetectionDataset) -> np.ndarray | None:
    """(N,) how often each image comes per epoch on average, which the log sums up; None for once
    each."""
    threshold = config.data.repeat_threshold
    if threshold is None:
        return None
    images, labels = data.image_of_object, data.table.labels[data.rows]
    count, names = len(data), data.class_names
    of_class = class_factors(
        images, labels, num_images=count, num_classes=len(names), threshold=threshold
    )
    factors = image_factors(images, labels, of_class, count)
    order = [row for row in np.argsort(-of_class, kind="stable").tolist() if of_class[row] > 1]
    more = f" and {len(order) - MAX_CLASSES} more" if len(order) > MAX_CLASSES else ""
    listed = ", ".join(f"{names[row]} ×{of_class[row]:.2f}" for row in order[:MAX_CLASSES])
    logger.info(
        f"data.repeat_threshold {threshold:g}: an epoch has {math.ceil(factors.sum())} samples of "
        f"{count} images; repeated classes: {listed or 'none'}{more}"
    )
    return factors


def end_mosaics(config: DetectionConfig, data: DetectionDataset, plan: TrainPlan) -> None:
    """Mosaics are made in the whole epochs before the last `off_epochs`."""
    section, last = config.data.augment.mosaic, epochs_with_mosaics(config, plan)
    if section is None or last is None:
        return
    epochs = plan.total_steps(config.train.epochs, config.train.max_steps) / plan.steps_per_epoch
    if last < 1:
        raise UserError(
            f"data.augment.mosaic.off_epochs: {section.off_epochs:g} of the run's {epochs:.2g} "
            "epochs leave no whole epoch with mosaics; train longer, or set it to 0"
        )
    logger.info(f"data.augment.mosaic: in the first {last} of {epochs:.3g} epochs")
    assert isinstance(data.transform, TrainTransform)
    data.transform.mosaic_until = last * plan.turns


def epochs_with_mosaics(config: DetectionConfig, plan: TrainPlan) -> int | None:
    """How many, before the last `off_epochs`; None for all, or without mosaics."""
    section = config.data.augment.mosaic
    if section is None or section.off_epochs == 0:
        return None
    epochs = plan.total_steps(config.train.epochs, config.train.max_steps) / plan.steps_per_epoch
    return math.floor(epochs - section.off_epochs + 1e-6)


def make_model(
    start: Resolved[DetectionConfig],
    data: DetectionDataset,
    processes: Processes,
    *,
    is_new: bool,
) -> RCNN:
    """The detector for this data; with its start weights where the run is new."""
    names, ids = data.class_names, data.category_ids
    with naming_imports(start.config):
        model = build_model(start.config, class_names=names, category_ids=ids)
    weigh_classes(model, start.config.model.roi.box_head, data)
    distributed.check_norms(model, processes)
    if is_new:
        check_frozen(start.config, model.backbone)
        for line in load_start_weights(model, start):
            logger.info(line)
    return model


def largest_area(config: DetectionConfig, sizes: np.ndarray, multiple: int) -> int:
    """Largest image in pixels that the training transforms can make of (N, 2) sizes, its sides
    padded to a `multiple`."""
    augment, resize = config.data.augment, config.data.augment.resize
    if resize.mode == "large_scale_jitter":
        sides = np.array([[resize.lsj_size, resize.lsj_size]], dtype=np.float64)
    else:
        short, long = sizes.min(axis=1), sizes.max(axis=1)
        scale = np.minimum(max(resize.short_edges) / short, resize.max_size / long)
        sides = sizes * scale[:, None]
    if augment.crop is not None:
        sides = np.minimum(sides, augment.crop)
    padded = np.ceil(sides / multiple) * multiple
    return math.ceil(padded.prod(axis=1).max())


def weigh_classes(model: RCNN, section: BoxHeadConfig, data: DetectionDataset) -> None:
    """Weights of the classes in the loss of the box head, which the log lists.

    UserError for a name that no class has.
    """
    names, rule = data.class_names, section.class_weights
    if rule is None and section.background_weight == 1:
        return
    weights = [1.0] * len(names)
    if isinstance(rule, dict):
        for name, weight in rule.items():
            if name not in names:
                hint = did_you_mean(name, names, f"it has {first_few(names, MAX_CLASSES)}")
                raise UserError(
                    f"model.roi.box_head.class_weights: no class {name!r} in data.train; {hint}"
                )
            weights[names.index(name)] = weight
    elif rule is not None:
        counts = data.objects_per_class.tolist()
        weights = class_weights(counts, power=1.0 if rule == "inverse" else 0.5)
    for head in model.roi_heads.box_heads:
        head.weigh_classes([*weights, section.background_weight])
    listed = [f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True)]
    logger.info(
        f"weights in loss_cls: background {section.background_weight:g}, "
        f"{first_few(listed, MAX_CLASSES)}"
    )
