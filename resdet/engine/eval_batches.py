"""Evaluation data for detectors that are tested at sizes of their own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.batches import Batch, collate
from resdet.data.detection.dataset import DetectionDataset, Sample
from resdet.data.loader import Key, eval_loader
from resdet.engine.distributed import Processes
from resdet.inference.combined import CombinedDetector
from resdet.inference.exported import AnyDetector
from resdet.inference.sizes import Prepared
from resdet.models.rcnn import RCNN

Item = tuple[Sample, Prepared]


class Viewed:
    """A data set whose images come as a `Preparation` makes them too, each read once."""

    def __init__(
        self, dataset: DetectionDataset, prepare: Callable[[NDArray[np.uint8]], Prepared]
    ) -> None:
        self.dataset, self.prepare = dataset, prepare

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        pixels = self.dataset.read(index)
        return self.dataset.sample(index, pixels, epoch), self.prepare(pixels)


def collate_viewed(items: Sequence[Item], multiple: int) -> tuple[Batch, list[Prepared]]:
    """The batch at the test size, and what the images were prepared to."""
    return collate([sample for sample, _ in items], multiple), [sizes for _, sizes in items]


def eval_batches(
    model: AnyDetector,
    dataset: DetectionDataset,
    processes: Processes,
    *,
    batch_size: int,
    workers: int,
    broken: dict[int, str],
    share: Sequence[int] | None = None,
) -> Generator[tuple[Batch, list[Prepared] | None]]:
    """This process's images in batches; with what a `CombinedDetector` predicts from. `broken` and
    `share` as in `eval_loader`."""
    first = model.models[0] if isinstance(model, CombinedDetector) else model
    multiple = first.size_divisibility
    load = partial(
        eval_loader,
        batch_size=batch_size,
        rank=processes.rank,
        world_size=processes.world_size,
        workers=workers,
        pin_memory=processes.device.type == "cuda",
        broken=broken,
        share=share,
    )
    if isinstance(model, CombinedDetector):
        viewed = Viewed(dataset, partial(model.prepared, is_tile=dataset.tiles is not None))
        return load(viewed, collate=partial(collate_viewed, multiple=multiple))
    return _plain(load(dataset, collate=partial(collate, multiple=multiple)))


def _plain(batches: Generator[Batch]) -> Generator[tuple[Batch, None]]:
    with closing(batches):
        for batch in batches:
            yield batch, None


def networks_of(model: AnyDetector) -> list[RCNN]:
    """The networks that a model is made of; none of an exported model."""
    if isinstance(model, CombinedDetector):
        return model.models
    return [model] if isinstance(model, RCNN) else []
