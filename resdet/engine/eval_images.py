"""From the predictions of batches to those of whole images, which metrics count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from resdet.data.detection.batches import Batch
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.tiles import Tiles
from resdet.data.detection.transforms import TestTransform
from resdet.models.tiles import TileMerger
from resdet.structures import Detections

Answer = tuple[int, int | str, str, Detections]
"""An image's position among the whole images, its id, its file, and its detections."""


class Images:
    """Whole images: a batch has all of each."""

    def __init__(self, count: int) -> None:
        self.count = count

    def share(self, rank: int, world_size: int) -> Sequence[int]:
        """The positions that a process evaluates."""
        return range(rank, self.count, world_size)

    def complete(self, batch: Batch, predictions: Sequence[Detections]) -> Iterator[Answer]:
        """The images of which the last part has come; batches come in the order of the share."""
        ids = batch.targets.image_ids
        yield from zip(batch.indices, ids, batch.paths, predictions, strict=True)

    def position(self, index: int) -> int:
        """That of the image which a sample is of."""
        return index


class TiledImages(Images):
    """Images that come tile by tile; one with a tile that cannot be read is left out."""

    def __init__(self, tiles: Tiles) -> None:
        super().__init__(len(tiles.untiled))
        self.tiles = tiles
        self._ends = np.searchsorted(tiles.parents, np.arange(self.count), side="right").tolist()
        self._merger: TileMerger | None = None
        self._parent, self._missing = -1, 0

    def share(self, rank: int, world_size: int) -> Sequence[int]:
        own = np.arange(rank, self.count, world_size)
        return np.flatnonzero(np.isin(self.tiles.parents, own)).tolist()

    def complete(self, batch: Batch, predictions: Sequence[Detections]) -> Iterator[Answer]:
        rows = zip(batch.indices, batch.targets.image_ids, batch.paths, predictions, strict=True)
        for index, image_id, path, detections in rows:
            parent = int(self.tiles.parents[index])
            first = self._ends[parent - 1] if parent else 0
            if parent != self._parent or self._merger is None:
                height, width = self.tiles.untiled.sizes[parent].tolist()
                self._merger = TileMerger(self.tiles.tiling, (height, width))
                self._parent, self._missing = parent, self._ends[parent] - first
            self._merger.add(index - first, detections)
            self._missing -= 1
            if not self._missing:
                yield parent, image_id, path, self._merger.merged()
                self._merger = None

    def position(self, index: int) -> int:
        return int(self.tiles.parents[index])


def images_of(dataset: DetectionDataset, tile_scale: float | None) -> Images:
    """The whole images of a validation set, whose tiles are resized by `tile_scale` from now on."""
    if dataset.tiles is None:
        return Images(len(dataset))
    assert isinstance(dataset.transform, TestTransform), "a validation set"
    dataset.transform = replace(dataset.transform, factor=tile_scale)
    return TiledImages(dataset.tiles)
