"""Parts of TIFF files, decoded from the tiles or strips that hold them.

What a window needs is copied into a small TIFF file in memory, which is then read by the same code
as a whole one: the pixels are those of `read_image`.
"""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from resdet.files import tiff
from resdet.files.bit_depth import NOTHING, Span, seen_bands, span_of, tiff_colours
from resdet.files.image_header import tiff_orientation
from resdet.files.image_limits import ImageError
from resdet.files.regular import open_regular
from resdet.files.tiff_blocks import Blocks

KEPT_TAGS = (
    *(tiff.BITS, tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.FILL_ORDER, tiff.BANDS, tiff.PLANAR),
    *(tiff.PREDICTOR, tiff.SAMPLE_FORMAT, 320, 332, 338, 347, 530),
)
"""What describes the pixels of 8 bits; the last five are ColorMap, InkSet, ExtraSamples, JPEGTables
and YCbCrSubSampling."""
SPAN_PIXELS = 1 << 24
"""Pixels that are decoded at a time to find the range of values."""
ENOUGH = 1 << 14
"""The range of whole numbers of 16 bits is used up from this value on, see `to_8_bits`."""

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels, the last two outside."""


class TiffWindows:
    """A TIFF file, of which windows are decoded (`resdet.files.windows.Windows`).

    Values of more than 8 bits are scaled by the range of the whole image, for which all of it is
    decoded once, block by block, before the first window. The last blocks stay decoded: windows
    side by side in a file of strips need the same ones.
    """

    def __init__(self, path: Path, layout: tiff.Layout, blocks: Blocks) -> None:
        self.path, self.layout, self.blocks = path, layout, blocks
        self.orientation = tiff_orientation(layout)
        size = layout.height, layout.width
        self.size: tuple[int, int] = size if self.orientation < 5 else size[::-1]
        """(height, width) upright, in pixels."""
        self._span: Span | None = None
        self._last: tuple[Window, NDArray[np.uint8]] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def read(self, window: Window) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB as stored, not turned, of a window of the file as stored.

        Raises:
            ImageError: blocks are missing; and whatever decoders raise for damaged ones.
        """
        x1, y1, x2, y2 = window
        blocks = self.blocks
        around = (
            x1 // blocks.width,
            y1 // blocks.height,
            -(-x2 // blocks.width),
            -(-y2 // blocks.height),
        )
        with self._lock:
            if self._last is None or self._last[0] != around:
                self._last = around, self._decode(around)
            pixels = self._last[1]
        left, top = around[0] * blocks.width, around[1] * blocks.height
        return pixels[y1 - top : y2 - top, x1 - left : x2 - left].copy()

    def _decode(self, around: Window) -> NDArray[np.uint8]:
        """The pixels of whole blocks, from column and row up to column and row of blocks."""
        with open_regular(self.path) as file:
            if not self.layout.is_deep:
                data, part = self._cut(file, around)
                return _decode_plain(data, part)
            if self._span is None and self.layout.is_scaled:
                self._span = self._measure(file)
            data, part = self._cut(file, around)
        return tiff_colours(tiff.decode(data, part), self.layout, self._span)

    def _measure(self, file: BinaryIO) -> Span:
        """The range of the values in the bands that are seen."""
        blocks, span = self.blocks, NOTHING
        down = blocks.offsets.shape[1] // blocks.across
        columns = max(SPAN_PIXELS // (blocks.width * blocks.height), 1)
        rows = max(SPAN_PIXELS // (blocks.width * blocks.height * min(columns, blocks.across)), 1)
        for top in range(0, down, rows):
            for left in range(0, blocks.across, columns):
                right, bottom = min(left + columns, blocks.across), min(top + rows, down)
                values = seen_bands(tiff.decode(*self._cut(file, (left, top, right, bottom))))
                span = span.joined(span_of(values))
                if values.dtype == np.uint16 and span.high >= ENOUGH:
                    return span
        return span

    def _cut(self, file: BinaryIO, around: Window) -> tuple[bytes, tiff.Layout]:
        """The bytes of some blocks behind room for a header, and the layout of an image of them."""
        left, top, right, bottom = around
        blocks, layout = self.blocks, self.layout
        places = np.arange(top, bottom)[:, None] * blocks.across + np.arange(left, right)
        offsets = blocks.offsets[:, places.reshape(-1)].reshape(-1)
        counts = blocks.counts[:, places.reshape(-1)].reshape(-1)
        if (counts <= 0).any() or (offsets <= 0).any():
            raise ImageError(tiff.SPARSE)
        parts, starts, place = [b"\0" * 8], [], 8
        for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
            file.seek(offset)
            part = file.read(count)
            if len(part) < count:
                raise ImageError("image file is cut short; replace it")
            parts.append(part)
            starts.append(place)
            place += count
        height = min(bottom * blocks.height, layout.height) - top * blocks.height
        width = min(right * blocks.width, layout.width) - left * blocks.width
        tags = {key: value for key, value in layout.tags.items() if key != tiff.ORIENTATION}
        tags |= {tiff.WIDTH: width, tiff.HEIGHT: height}
        if tiff.TILE_OFFSETS in tags:
            tags |= {tiff.TILE_OFFSETS: tuple(starts), tiff.TILE_BYTES: tuple(counts.tolist())}
        else:
            tags |= {tiff.STRIP_OFFSETS: tuple(starts), tiff.STRIP_BYTES: tuple(counts.tolist())}
            tags[tiff.ROWS_PER_STRIP] = blocks.height
        return b"".join(parts), replace(layout, height=height, width=width, tags=tags)


def _decode_plain(data: bytes, layout: tiff.Layout) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an image of 8 bits."""
    tags = layout.tags
    entries: dict[int, tuple[int, ...] | bytes] = {}
    tiled = (tiff.TILE_WIDTH, tiff.TILE_HEIGHT, tiff.TILE_OFFSETS, tiff.TILE_BYTES)
    strips = (tiff.ROWS_PER_STRIP, tiff.STRIP_OFFSETS, tiff.STRIP_BYTES)
    kept = (tiff.WIDTH, tiff.HEIGHT, *KEPT_TAGS, *(tiled if tiff.TILE_OFFSETS in tags else strips))
    for tag in kept:
        value = tags.get(tag)
        if isinstance(value, bytes):
            entries[tag] = value
        elif value is not None:
            entries[tag] = tiff.numbers(tags, tag)
    with TiffImageFile(io.BytesIO(tiff.with_directory(data, entries))) as image:
        image.load()
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
