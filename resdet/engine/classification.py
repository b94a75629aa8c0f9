"""Classification as a task of the training loop: labelled images, their losses, and accuracy."""

import hashlib
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resdet.config.classification import ClassificationConfig, ClassificationLossConfig
from resdet.data.classification.cifar import CifarData
from resdet.data.classification.samples import ClassificationBatch, collate_classification
from resdet.data.classification.transforms import progressive_side
from resdet.data.loader import TrainPlan
from resdet.data.resumed import Resumed
from resdet.engine import distributed, pictures
from resdet.engine.data_record import DataRecord, DataSet
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_classification import validate_classifier
from resdet.engine.precise_bn import check_statistics, recompute_statistics
from resdet.engine.signals import StopRequest
from resdet.engine.task import Task
from resdet.engine.validation import Validation
from resdet.errors import UserError
from resdet.evaluation import Evaluator, build_evaluator
from resdet.factory import load_start_weights
from resdet.factory.backbone import check_frozen
from resdet.factory.classification import (
    build_classifier,
    load_classifier,
)
from resdet.factory.classification_data import (
    Data,
    build_classification_train_data,
    build_classification_val_data,
    check_val,
    measured_mean,
)
from resdet.factory.imports import naming_imports
from resdet.factory.network import resolve_config
from resdet.hardware import Precision
from resdet.models.classifier import Classifier
from resdet.models.losses import ClassificationLoss
from resdet.ops.pixels import distort_colour, draw_mix, erase, mix_batch, pad_crop_flip
from resdet.structures import readable_names

logger = logging.getLogger("resdet")

MAX_CLASSES = 20
"""Classes counted by name in the log."""


class ClassificationTask(Task):
    """See `resdet.engine.task.Task`."""

    kind = "classifier"
    config: ClassificationConfig
    model: Classifier

    def __init__(
        self,
        config: ClassificationConfig,
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
        self._load_data(resumed or Resumed(), strict=strict, decode_all=decode_all)
        names, mean = self.train_data.class_names, None
        if is_new:
            # of a large set it takes minutes, and every core
            own = measured_mean(config, self.train_data) if processes.is_main else None
            mean = distributed.broadcast(own, processes)
        with naming_imports(config):
            self.model = build_classifier(config, class_names=names, pixel_mean=mean)
        distributed.check_norms(self.model, processes)
        self._check_batch(processes)
        if is_new:
            check_frozen(config, self.model.backbone)
            for line in load_start_weights(self.model, start):
                logger.info(line)
        self.processes, self.class_names = processes, names
        self.collate = collate_classification
        self.uses_workers = not isinstance(self.train_data, CifarData)
        self.plan = TrainPlan(
            num_images=len(self.train_data),
            batch_size=config.train.images_per_step,
            seed=config.train.seed,
            repeats=config.data.repeated_augmentation,
        )
        if isinstance(self.train_data, CifarData):
            # 45,000 images are 138 MB: a batch is then a gather on the device
            self.train_data = self.train_data.to(processes.device)
        if isinstance(self.val_data, CifarData):
            self.val_data = self.val_data.to(processes.device)
        self.loss = make_loss(config.loss)
        self.teacher = self._load_teacher(processes)

    def _load_data(self, resumed: Resumed, *, strict: bool, decode_all: bool) -> None:
        config, left_out = self.config, resumed.left_out
        self.train_data: Data = build_classification_train_data(
            config, strict=strict, decode_all=decode_all, left_out=left_out.get("data.train")
        )
        sets, self.val_data = {"data.train": self.train_data}, None
        if config.data.val is not None:
            sets["data.val"] = self.val_data = build_classification_val_data(
                config,
                classes=self.train_data.class_names,
                strict=strict,
                decode_all=decode_all,
                left_out=left_out.get("data.val"),
            )
            check_val(self.train_data, self.val_data, strict=strict, contents=decode_all)
        for key, data in sets.items():
            describe_data(key, data)
        self.findings = [finding for data in sets.values() for finding in data.findings]
        self.record = DataRecord(
            {key: DataSet(data.fingerprint(), data.name) for key, data in sets.items()},
            old_digest=self.train_data.digest,
        )

    def _check_batch(self, processes: Processes) -> None:
        """UserError where the smallest batch has no statistics for batch norm."""
        train, data = self.config.train, self.config.data
        if (
            distributed.images_per_part(
                train.images_per_step, processes.world_size, train.accumulate
            )
            > 1
        ):
            return
        sides = [
            progressive_side(data.progressive, int(epoch), data.size)
            for epoch, _ in data.progressive
        ]
        check_statistics(self.model, min(sides, default=data.size))

    def _load_teacher(self, processes: Processes) -> Classifier | None:
        spec = self.config.loss.teacher
        if spec is None:
            return None
        teacher = load_classifier(spec)
        if teacher.class_names != self.model.class_names:
            raise UserError(
                f"loss.teacher: {spec} has {teacher.num_classes} classes "
                f"({', '.join(teacher.class_names[:4])}, …), the data {self.model.num_classes} "
                f"({', '.join(self.model.class_names[:4])}, …); give a teacher of these classes"
            )
        if teacher.channel_order != self.model.channel_order:
            raise UserError(
                f"loss.teacher: {spec} uses {teacher.channel_order}, the model "
                f"{self.model.channel_order}; set model.channel_order={teacher.channel_order}"
            )
        is_double = self.config.train.precision == "fp64"
        teacher.place(processes.device, torch.float64 if is_double else torch.float32)
        teacher.requires_grad_(False)
        hashed = hashlib.sha256()
        for tensor in teacher.state_dict().values():
            hashed.update(tensor.cpu().numpy().tobytes())
        # a teacher that was trained on would make a resumed run another one
        digest, of_images = hashed.hexdigest()[:16], self.record.old_digest
        self.record.others["loss.teacher"] = digest
        self.record.old_digest = lambda: f"{of_images()}, taught by {digest}"
        logger.info(f"teacher: {spec}")
        return teacher

    def load_steps(
        self, start_step: int, end_step: int, workers: int
    ) -> Generator[list[ClassificationBatch]]:
        """See `Task`; CIFAR's are gathered on the device."""
        data, accumulate = self.train_data, self.config.train.accumulate
        if not isinstance(data, CifarData):
            yield from super().load_steps(start_step, end_step, workers)
            return
        share = self.processes.rank, self.processes.world_size
        size = distributed.images_per_part(self.plan.batch_size, share[1], accumulate)
        first = share[0] * accumulate * size
        for step in range(start_step, end_step):
            keys = self.plan.batch(step)
            begins = range(first, first + accumulate * size, size)
            yield [data.batch(keys[begin : begin + size]) for begin in begins]

    def losses(
        self, wrapped: nn.Module, batch: ClassificationBatch, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images, targets = self.augment(batch, seed=seed, step=step)
        outputs = wrapped(images)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self.teacher(self._as_teacher_sees(images))[0]
        named = self.loss(outputs, targets, teacher)
        others = {"error_percent": error_percent(outputs[0].detach(), batch.labels)}
        return named, others

    def augment(self, batch: ClassificationBatch, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """The network's input, and labels (B,) or, where images are mixed, rows (B, K)."""
        section = self.config.data.augment
        images, device = batch.images, batch.images.device
        epochs, indices = torch.tensor(batch.keys).unbind(1)
        # of an image's repeats each has an epoch of its own
        on_host = keys = epochs * 0x9E3779B1 + indices
        if section.pca_std or section.erase_prob:
            pinned = keys.pin_memory() if device.type == "cuda" else keys
            keys = pinned.to(device, non_blocking=True)
        if section.pca_std:
            images = distort_colour(images, std=section.pca_std, keys=keys, seed=seed, step=step)
        x = self.model.normalize(images)
        if section.crop == "pad" or isinstance(self.train_data, CifarData):
            x = pad_crop_flip(
                x,
                pad=section.pad if section.crop == "pad" else 0,
                flip_prob=section.flip_prob,
                keys=on_host,
                seed=seed,
            )
        targets = batch.labels
        height, width = x.shape[-2:]
        mix = draw_mix(
            (height, width),
            mixup_alpha=section.mixup,
            cutmix_alpha=section.cutmix,
            seed=seed,
            step=step,
            # no two micro-batches of a step start with the same key
            part=(batch.keys[0][0] << 32) | batch.keys[0][1],
        )
        if mix is not None:
            x, targets = mix_batch(x, targets, mix, num_classes=self.model.num_classes)
        if section.erase_prob:
            x = erase(
                x,
                prob=section.erase_prob,
                noise=section.erase_fill == "noise",
                keys=keys,
                seed=seed,
                step=step,
            )
        return x, targets

    def _as_teacher_sees(self, images: Tensor) -> Tensor:
        """This model's input as the teacher's: their means and deviations may differ."""
        assert self.teacher is not None
        own, other = self.model, self.teacher
        means = [m.pixel_mean.mean((1, 2), keepdim=True) for m in (own, other)]
        x = (images * own.pixel_std + means[0] - means[1]) / other.pixel_std
        return x.contiguous(memory_format=torch.channels_last) if other.channels_last else x

    def image_names(self, micro_batches: Sequence[ClassificationBatch]) -> list[str]:
        return [path for batch in micro_batches for path in batch.paths]

    def finalize(self, precision: Precision, workers: int, total_steps: int) -> None:
        """Recompute batch norm statistics over the last steps' images, not mixed or erased."""
        count = self.config.train.precise_bn_images
        if not count:
            return
        with (
            precision.autocast(),
            closing(self._last_batches(count, workers, total_steps)) as batches,
        ):
            num_images = recompute_statistics(self.model, batches, self.processes)
        if not num_images:
            raise UserError(
                "train.precise_bn_images: micro-batches of one image have no statistics; raise "
                "train.batch_size or set it to 0"
            )
        logger.info(f"batch norm statistics recomputed over {num_images} images")

    def _last_batches(self, count: int, workers: int, total_steps: int) -> Generator[Tensor]:
        """Normalised batches of this process's share of `count` training images."""
        steps = max(1, -(-min(count, len(self.train_data)) // self.config.train.images_per_step))
        # the last ones have the size that training ended with
        first = max(0, total_steps - steps)
        with closing(self.load_steps(first, total_steps, workers)) as last:
            for batch in (batch for micro_batches in last for batch in micro_batches):
                moved = batch.to(self.processes.device)
                readable = moved.labels >= 0
                # one image alone may have maps of one pixel, which have no variance
                if readable.sum() > 1:
                    yield self.model.normalize(moved.images[readable])

    def validate(
        self, precision: Precision, workers: int, stop: StopRequest | None
    ) -> Validation | None:
        assert self.val_data is not None, "validation without data.val"
        return validate_classifier(
            self.model,
            self.val_data,
            self._make_evaluator(),
            processes=self.processes,
            precision=precision,
            batch_size=self.config.eval.batch_size,
            workers=workers,
            stop=stop,
            num_pictures=pictures.MAX_IMAGES,
        )

    def _make_evaluator(self) -> Evaluator:
        with naming_imports(self.config):
            return build_evaluator(self.config.eval.metric, self.model.class_names)

    def draw_batch(
        self, micro_batches: Sequence[ClassificationBatch], step: int, path: Path
    ) -> None:
        """The images as the network gets them: cropped, mixed and erased."""
        batch = micro_batches[0].to(self.model.device)
        with torch.no_grad():
            x, _ = self.augment(batch, seed=self.config.train.seed, step=step)
        model = self.model
        mean = model.pixel_mean
        if mean.shape[-2:] != x.shape[-2:]:
            mean = mean.mean((1, 2), keepdim=True)
        pixels = (x * model.pixel_std + mean).clamp(0, 255).byte()
        if model.channel_order == "bgr":
            pixels = pixels.flip(1)
        arrays = pixels[: pictures.MAX_IMAGES].permute(0, 2, 3, 1).cpu().numpy()
        labels = batch.labels[: pictures.MAX_IMAGES].tolist()
        names = readable_names(model.class_names)
        named = [names[label] if label >= 0 else "unreadable" for label in labels]
        pictures.draw_labelled(list(zip(arrays, named, strict=True)), path)

    def small_batch(self) -> tuple[ClassificationBatch, int]:
        # two images, as batch norm has no statistics of one pixel
        keys = self.plan.batch(0)[:2]
        if isinstance(self.train_data, CifarData):
            batch = self.train_data.batch(keys)
        else:
            batch = collate_classification([self.train_data[key] for key in keys])
        height, width = batch.shape[-2:]
        return batch, height * width

    def largest_area(self) -> int:
        data = self.config.data
        points = data.progressive
        sides = [progressive_side(points, int(epoch), data.size) for epoch, _ in points]
        return max(sides, default=data.size) ** 2


def make_loss(section: ClassificationLossConfig) -> ClassificationLoss:
    return ClassificationLoss(
        name=section.name,
        label_smoothing=section.label_smoothing,
        bce_target_thresh=section.bce_target_thresh,
        aux_weight=section.aux_weight,
        teacher_weight=section.teacher_weight,
        teacher_temperature=section.teacher_temperature,
    )


def error_percent(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the readable images that are misclassified, in percent; of none 0."""
    valid = labels >= 0
    wrong = (logits.argmax(1) != labels) & valid
    return 100.0 * wrong.sum() / valid.sum().clamp(min=1)


def describe_data(name: str, data: Any) -> None:
    """Images by class in the log."""
    counts = np.bincount(data.labels, minlength=len(data.class_names))
    order = np.argsort(-counts, kind="stable")[:MAX_CLASSES]
    common = ", ".join(f"{data.class_names[i]} {counts[i]}" for i in order)
    more = f" and {len(counts) - MAX_CLASSES} more" if len(counts) > MAX_CLASSES else ""
    logger.info(f"{name}: {len(data)} images; by class: {common}{more}")
    absent = [data.class_names[i] for i in np.flatnonzero(counts == 0)]
    if absent:
        listed = ", ".join(absent[:MAX_CLASSES])
        logger.info(f"{name}: no image of {len(absent)} class(es): {listed}")
