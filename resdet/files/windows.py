"""Images that are read window by window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.files import tiff
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import (
    ImageInput,
    named_errors,
    read_fast,
    read_image,
    to_rgb,
    turn_upright,
)
from resdet.files.regular import open_regular
from resdet.files.tiff_blocks import find_blocks
from resdet.files.tiff_windows import TiffWindows


class Windows(Protocol):
    """An image of which parts can be read."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) upright, in pixels."""
        ...

    def read(self, window: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB, upright, of x1, y1, x2, y2 in whole pixels inside the image, by the
        rules of `read_image`; DataError that names the file where it is damaged."""
        ...


class WholeImage:
    """An image that is in memory."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """`pixels` are (H, W, 3) RGB."""
        self.pixels = pixels
        self.size: tuple[int, int] = (pixels.shape[0], pixels.shape[1])

    def read(self, window: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        x1, y1, x2, y2 = map(int, window)
        return np.ascontiguousarray(self.pixels[y1:y2, x1:x2])


class FileWindows:
    """A TIFF file of tiles or strips, upright."""

    def __init__(self, stored: TiffWindows, name: str) -> None:
        self._stored, self._name = stored, name
        self.size: tuple[int, int] = stored.size

    def read(self, window: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        stored = self._stored
        wanted = stored_window(tuple(map(int, window)), stored.orientation, stored.size)
        with named_errors(self._name):
            pixels = stored.read(wanted)
            return np.ascontiguousarray(turn_upright(pixels, stored.orientation))


def stored_window(
    window: tuple[int, ...], orientation: int, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Where a window of an upright image of (height, width) `size` is in the pixels as stored, by
    the EXIF orientation, 1 to 8."""
    x1, y1, x2, y2 = window
    height, width = size
    right, below = (width - x2, width - x1), (height - y2, height - y1)
    across, down = {
        1: ((x1, x2), (y1, y2)),
        2: (right, (y1, y2)),
        3: (right, below),
        4: ((x1, x2), below),
        5: ((y1, y2), (x1, x2)),
        6: ((y1, y2), right),
        7: (below, right),
        8: (below, (x1, x2)),
    }[orientation]
    return across[0], down[0], across[1], down[1]


def open_windows(image: ImageInput, max_pixels: int = MAX_PIXELS, *, fast: bool = False) -> Windows:
    """An image to read windows of: a path, a Pillow image, or an (H, W, 3) uint8 RGB array.

    TIFF files of several tiles or strips are read window by window, whatever their size. All other
    files are decoded here, take 3 bytes per pixel, and have at most `max_pixels`. `fast` decodes as
    `read_fast`.

    Raises:
        DataError: a file cannot be read, or is too large; it names the file.
    """
    if not isinstance(image, str | Path):
        return WholeImage(to_rgb(image, max_pixels))
    if (windows := _file_windows(Path(image))) is not None:
        return windows
    return WholeImage((read_fast if fast else read_image)(image, max_pixels))


def _file_windows(path: Path) -> FileWindows | None:
    """A TIFF file that can be read by windows; None for others."""
    with named_errors(str(path)), open_regular(path) as file:
        if not file.read(4).startswith(tiff.MAGIC):
            return None
        layout = tiff.read_layout(file)
        blocks = find_blocks(layout)
    return None if blocks is None else FileWindows(TiffWindows(path, layout, blocks), str(path))


AT_ONCE = 1 << 24
"""Pixels that `overview` reads at a time."""
WIDEST = 1 << 16
"""Of these, pixels side by side: strips are as wide as the image, and are best read once."""


def overview(image: Windows, most_pixels: int) -> NDArray[np.uint8]:
    """The whole image (H, W, 3) uint8 RGB, shrunk to `most_pixels` where it has more.

    Memory does not grow with the image: parts of it are read and shrunk one after the other.

    Raises:
        DataError: a part cannot be read.
    """
    height, width = image.size
    scale = min(1.0, (most_pixels / (height * width)) ** 0.5)
    small = np.zeros((max(round(height * scale), 1), max(round(width * scale), 1), 3), np.uint8)
    across = min(width, WIDEST)
    columns, rows = (max(round(side * scale), 1) for side in (across, AT_ONCE // across))
    for top in range(0, small.shape[0], rows):
        for left in range(0, small.shape[1], columns):
            part = small[top : top + rows, left : left + columns]
            bottom, right = top + part.shape[0], left + part.shape[1]
            y1, y2 = (row * height // small.shape[0] for row in (top, bottom))
            x1, x2 = (column * width // small.shape[1] for column in (left, right))
            pixels = image.read((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
            if pixels.shape != part.shape:
                size = part.shape[1], part.shape[0]
                pixels = np.asarray(
                    cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8
                )
            part[:] = pixels
    return small
