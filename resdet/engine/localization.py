"""Localization as a task of the training loop; `model.type` chooses between its networks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from resdet.config.localization import LocalizationConfig
from resdet.data.detection.batches import Batch, collate
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.loader import TrainPlan
from resdet.engine import distributed, pictures
from resdet.engine.detection import describe_data, digest_of
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import check_classes
from resdet.engine.evaluate_localization import evaluate_localizer, make_loc_evaluator
from resdet.engine.signals import StopRequest
from resdet.engine.task import Task
from resdet.engine.validation import Validation
from resdet.factory.backbone import check_frozen
from resdet.factory.build import load_start_weights
from resdet.factory.imports import naming_imports
from resdet.factory.localization import build_localizer
from resdet.factory.localization_data import (
    build_localization_train_data,
    build_localization_val_data,
)
from resdet.factory.network import resolve_config
from resdet.hardware import Precision
from resdet.models.localizer import Localizer

logger = logging.getLogger("resdet")


class ClassRPNTask(Task):
    """The per-class RPN on square crops; see `resdet.engine.task.Task`."""

    kind = "localizer"
    config: LocalizationConfig
    model: Localizer

    def __init__(
        self,
        config: LocalizationConfig,
        processes: Processes,
        *,
        is_new: bool,
        strict: bool,
        decode_all: bool,
    ) -> None:
        """Data and model; with its start weights where the run `is_new`.

        UserError for whatever would make the run fail later.
        """
        start = resolve_config(config)
        self.config = config = start.config
        self.train_data, self.val_data = load_data(config, strict=strict, decode_all=decode_all)
        names, ids = self.train_data.class_names, self.train_data.category_ids
        with naming_imports(config):
            self.model = build_localizer(config, class_names=names, category_ids=ids)
        distributed.check_norms(self.model, processes)
        if is_new:
            check_frozen(config, self.model.backbone)
            for line in load_start_weights(self.model, start):
                logger.info(line)
        if self.val_data is not None:  # an unknown metric fails now, not after an epoch
            make_loc_evaluator(config, self.val_data)
        self.processes, self.class_names, self.category_ids = processes, names, ids
        self.collate = partial(collate, multiple=1)
        self.data_digest = digest_of(self.train_data)
        self.plan = TrainPlan(
            num_images=len(self.train_data),
            batch_size=config.train.batch_size,
            seed=config.train.seed,
        )

    def losses(
        self, wrapped: nn.Module, batch: Batch, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return wrapped(batch.images, batch.targets, seed=seed, step=step), {}

    def image_names(self, micro_batches: Sequence[Batch]) -> list[str]:
        return [
            f"{path} (id {image_id})"
            for batch in micro_batches
            for path, image_id in zip(batch.paths, batch.targets.image_ids, strict=True)
        ]

    def validate(
        self, precision: Precision, workers: int, stop: StopRequest | None
    ) -> Validation | None:
        assert self.val_data is not None, "validation without data.val"
        return evaluate_localizer(
            self.model,
            self.val_data,
            make_loc_evaluator(self.config, self.val_data),
            processes=self.processes,
            precision=precision,
            batch_size=self.config.eval.batch_size,
            workers=workers,
            stop=stop,
            num_pictures=pictures.MAX_IMAGES,
        )

    def draw_batch(self, micro_batches: Sequence[Batch], step: int, path: Path) -> None:
        pictures.draw_batch(micro_batches, self.model.class_names, path)

    def small_batch(self) -> tuple[Batch, int]:
        return self.collate([self.train_data[self.plan.batch(0)[0]]]), self.largest_area()

    def largest_area(self) -> int:
        return self.config.data.size**2


def load_data(
    config: LocalizationConfig, *, strict: bool, decode_all: bool
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Training and validation data, counted in the log."""
    train_data = build_localization_train_data(config, strict=strict, decode_all=decode_all)
    describe_data("data.train", train_data)
    val_data = build_localization_val_data(config, strict=strict, decode_all=decode_all)
    if val_data is None or config.data.val is None:
        return train_data, None
    describe_data("data.val", val_data)
    check_classes(val_data, train_data.class_names, str(config.data.val.annotations))
    return train_data, val_data


LOCALIZATION_TASKS: dict[str, Callable[..., Task]] = {"rpn": ClassRPNTask}
"""By `model.type`."""


def make_localization_task(config: LocalizationConfig, *args: object, **options: object) -> Task:
    """The task of the config's `model.type`; the other arguments are those of a task."""
    return LOCALIZATION_TASKS[config.model.type](config, *args, **options)
