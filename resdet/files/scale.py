"""How large objects were for a detector in training, and whether an image is shrunk too much."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resdet.files.pixels import output_size

LEAST_SHARE = 1 / 3
"""Of the scale that images had in training: objects of less are hardly detected."""
LEAST_SIDE = 4.0
"""Pixels of an object at the size that the network sees: half of the finest stride."""


class Seen(NamedTuple):
    """What a detector was trained on, as medians."""

    scale: float
    """Resized over original side of an image, at the test size."""
    side: float
    """Square root of an object's area in pixels of the original image; 0 if unknown."""


UNKNOWN = Seen(1.0, 0.0)
"""Of imported weights and old checkpoints: images are taken to have been used at their size."""


def seen_in(
    sizes: NDArray[np.integer], areas: NDArray[np.floating], short_edge: int, max_size: int
) -> Seen:
    """Of training images of `sizes` (N, 2) and objects of `areas` (A,) in original pixels."""
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    scales = np.minimum(short_edge / np.maximum(short, 1), max_size / np.maximum(long, 1))
    side = float(np.sqrt(np.median(areas))) if len(areas) else 0.0
    return Seen(float(np.median(scales)) if len(scales) else 1.0, side)


def shrink_problem(size: tuple[int, int], short_edge: int, max_size: int, seen: Seen) -> str | None:
    """What is wrong with resizing an image of (height, width) so; None if nothing is."""
    height, width = output_size(*size, short_edge, max_size)
    scale = max(height, width) / max(size)
    was, now = seen.side * seen.scale, seen.side * scale
    is_tiny = now < LEAST_SIDE <= was
    if scale >= LEAST_SHARE * seen.scale and not is_tiny:
        return None
    objects = f", where the median object has {now:.2g} pixels instead of {was:.2g}" if was else ""
    return (
        f"its {size[1]}×{size[0]} pixels are shrunk to {width}×{height}, by {scale:.2g}, and "
        f"training images were resized by {seen.scale:.2g}{objects}; raise "
        "data.test_resize.short_edge and data.test_resize.max_size, or predict in tiles (--tile)"
    )
