"""How an image is cut into overlapping tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAP = 0.2
"""Of tiles where none is given, as in SAHI (Akyon et al. 2022)."""
SMALLEST, LARGEST = 32, 16384
"""Sides of tiles in pixels."""
MOST_OVERLAP = 0.9


@dataclass(frozen=True)
class Tiling:
    """Square tiles of one size."""

    size: int
    """Side of a tile in pixels of the image."""
    overlap: float
    """Least share of a tile's side that it has in common with its neighbour, 0 to .9."""

    def starts(self, length: int) -> NDArray[np.int64]:
        """The first pixels of the tiles along an axis of `length` pixels: as few as the overlap
        allows, evenly spaced, the last of them ending with the axis. A shorter axis has one tile of
        its own length."""
        if length <= self.size:
            return np.zeros(1, np.int64)
        step = max(self.size - int(np.ceil(self.size * self.overlap)), 1)
        count = -(-(length - self.size) // step) + 1
        return np.rint(np.linspace(0, length - self.size, count)).astype(np.int64)

    def windows(self, size: tuple[int, int]) -> NDArray[np.int64]:
        """(T, 4) x1, y1, x2, y2 in whole pixels of the tiles of an image of (height, width), row
        by row."""
        height, width = size
        tops, lefts = self.starts(height), self.starts(width)
        corners = np.stack([np.tile(lefts, len(tops)), np.repeat(tops, len(lefts))], axis=1)
        sides = np.minimum((width, height), self.size)
        return np.concatenate([corners, corners + sides], axis=1)

    def neighbours(self, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Each pair of tiles of an image of (height, width) that share pixels or a border, as
        positions in `windows`, the smaller first."""
        rows, columns = (self._near(side) for side in size)
        across = len(self.starts(size[1]))
        for top, others in enumerate(rows):
            for left, beside in enumerate(columns):
                for row in others:
                    for column in beside:
                        if (row, column) > (top, left):
                            yield top * across + left, row * across + column

    def _near(self, length: int) -> list[list[int]]:
        """For each tile along an axis, those whose pixels meet its own, itself included."""
        starts = self.starts(length)
        meets = np.abs(starts[:, None] - starts) <= min(self.size, length)
        return [np.flatnonzero(row).tolist() for row in meets]
