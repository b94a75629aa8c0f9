"""The random resizes of training, and how they cut what does not fit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import Affine
from resdet.files.pixels import output_size, resize_antialiased

PAD_VALUE = 128
"""Gray around images that large-scale jitter made smaller than its square (as in Detectron2)."""


@dataclass(frozen=True)
class ShortEdge:
    """Detectron2's multi-scale resize: the short side is drawn from `short_edges`, in pixels.

    Of tiles it is the side of a whole tile: `tile` in pixels of the image. Smaller ones, of images
    that a tile holds whole, are resized by the same factor.
    """

    short_edges: Sequence[int]
    max_size: int
    tile: int | None = None

    def __call__(
        self, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Affine]:
        height, width = image.shape[:2]
        (new_height, new_width), _ = self.fitted((height, width), rng)
        resized = resize_antialiased(image, (new_height, new_width))
        return resized, Affine(scale_x=new_width / width, scale_y=new_height / height)

    def fitted(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """What becomes of an image of `size`, and the size of the output: they are the same."""
        short_edge = self.short_edges[int(rng.integers(len(self.short_edges)))]
        if self.tile is None:
            resized = output_size(*size, short_edge, self.max_size)
        else:
            factor = min(short_edge, self.max_size) / self.tile
            resized = output_size(*size, factor * min(size), math.inf)
        return resized, resized


@dataclass(frozen=True)
class LargeScaleJitter:
    """Scale by a random factor, then crop or pad to a square (Ghiasi et al. 2021, copy-paste).

    The image is fitted into a square of `scale` × `size` pixels, keeping its aspect; what passes
    `size` is cropped at a random place, what lacks is padded right and bottom with `PAD_VALUE`.
    The padding counts as image, as in Detectron2.
    """

    size: int
    scale: tuple[float, float]

    def __call__(
        self, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Affine]:
        resized = self._fit(image.shape[:2], self.size * rng.uniform(*self.scale))
        window, affine = resize_and_cut(image, resized, (self.size, self.size), rng)
        square = np.full((self.size, self.size, 3), PAD_VALUE, np.uint8)
        square[: window.shape[0], : window.shape[1]] = window
        return square, affine

    def fitted(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """What becomes of an image of `size` without the jitter, and the size of the output."""
        return self._fit(size, self.size), (self.size, self.size)

    @staticmethod
    def _fit(size: tuple[int, ...], side: float) -> tuple[int, int]:
        ratio = min(side / size[0], side / size[1])
        return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


Resize = ShortEdge | LargeScaleJitter


def resize_and_cut(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    limit: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], Affine]:
    """(H, W, 3) resized to `size` and cut to `limit` at a random place, both (height, width); and
    from pixels of the image to those of the result. Only what is shown is resized."""
    top = int(rng.integers(max(size[0] - limit[0], 0) + 1))
    left = int(rng.integers(max(size[1] - limit[1], 0) + 1))
    rows, down = _visible(image.shape[0], size[0], top, limit[0])
    columns, across = _visible(image.shape[1], size[1], left, limit[1])
    window = resize_antialiased(image[rows, columns], (down, across))
    scale_x, scale_y = across / (columns.stop - columns.start), down / (rows.stop - rows.start)
    return window, Affine(scale_x, -columns.start * scale_x, scale_y, -rows.start * scale_y)


def _visible(length: int, resized: int, first: int, limit: int) -> tuple[slice, int]:
    """What a crop of `limit` from `first` on shows of an axis of `length` that is `resized`.

    Returns the pixels of the file, whole ones so that only they need be resized, and their length
    after it. The crop moves by less than a pixel of the file for that, and the scale by half a
    pixel in its length.
    """
    if resized <= limit:
        return slice(0, length), resized
    count = min(max(round(limit * length / resized), 1), length)
    start = min(round(first * length / resized), length - count)
    return slice(start, start + count), limit
