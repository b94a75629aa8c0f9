"""Localization as a task of the training loop; `model.type` chooses between its networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from resdet.config.localization import LocalizationConfig
from resdet.data.detection.batches import Batch, collate
from resdet.engine import pictures
from resdet.engine.localization_rcnn import RegionTask
from resdet.engine.localization_task import LocalizationTask
from resdet.engine.task import Task
from resdet.inference.localization import RPNGuesser
from resdet.models.localizer import Localizer


class ClassRPNTask(LocalizationTask):
    """The per-class RPN on square crops; see `resdet.engine.task.Task`."""

    model: Localizer

    def prepare_data(self) -> None:
        self.collate = partial(collate, multiple=1)

    def losses(
        self, wrapped: nn.Module, batch: Batch, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return wrapped(batch.images, batch.targets, seed=seed, step=step), {}

    def image_names(self, micro_batches: Sequence[Batch]) -> list[str]:
        return [name for batch in micro_batches for name in batch.image_names]

    def guesser(self, workers: int) -> RPNGuesser:
        return RPNGuesser([self.model])

    def draw_batch(self, micro_batches: Sequence[Batch], step: int, path: Path) -> None:
        pictures.draw_batch(micro_batches, self.model.class_names, path)

    def small_batch(self) -> tuple[Batch, int]:
        # two images, as batch norm has no statistics of one pixel
        batch = self.collate([self.train_data[key] for key in self.plan.batch(0)[:2]])
        return batch, self.largest_area()


LOCALIZATION_TASKS: dict[str, Callable[..., Task]] = {
    "rpn": ClassRPNTask,
    "rcnn": RegionTask,
}
"""By `model.type`."""


def make_localization_task(config: LocalizationConfig, *args: object, **options: object) -> Task:
    """The task of the config's `model.type`; the other arguments are those of a task."""
    return LOCALIZATION_TASKS[config.model.type](config, *args, **options)
