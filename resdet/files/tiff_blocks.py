"""Where the tiles or strips of a TIFF file are, and whether they can be decoded one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resdet.files import tiff

JPEG = 7
PALETTE, CMYK, YCBCR = 3, 5, 6
MOST_BLOCK_BYTES = 1 << 28
"""Decoded bytes of one tile or strip; files with larger ones are decoded whole."""
STRIP_BYTES = 1 << 18
"""Into about so many bytes the strips of a file without compression are divided."""


@dataclass(frozen=True)
class Blocks:
    """Where the tiles or strips of a file are; a strip is as wide as the image."""

    height: int
    width: int
    """Of a block in pixels."""
    across: int
    """Blocks side by side."""
    offsets: NDArray[np.int64]
    """(planes, rows of blocks × across) first byte of each."""
    counts: NDArray[np.int64]
    """The same, bytes of each."""


def find_blocks(layout: tiff.Layout) -> Blocks | None:
    """The blocks of a file that can be read by windows; None where it has to be decoded whole, as a
    single compressed strip has."""
    tags, bands = layout.tags, len(layout.bits)
    compression, planar = tiff.number(tags, tiff.COMPRESSION, 1), tiff.number(tags, tiff.PLANAR, 1)
    if not _is_known(layout, compression):
        return None
    planes = bands if planar == 2 else 1
    is_tiled = tiff.TILE_OFFSETS in tags
    names = (
        (tiff.TILE_OFFSETS, tiff.TILE_BYTES) if is_tiled else (tiff.STRIP_OFFSETS, tiff.STRIP_BYTES)
    )
    offsets, counts = (np.array(tiff.numbers(tags, name), np.int64) for name in names)
    width = tiff.number(tags, tiff.TILE_WIDTH, 0) if is_tiled else layout.width
    height = tiff.number(tags, tiff.TILE_HEIGHT if is_tiled else tiff.ROWS_PER_STRIP, layout.height)
    height = height if is_tiled else min(height, layout.height)
    if width <= 0 or height <= 0:
        return None
    across, down = -(-layout.width // width), -(-layout.height // height)
    if not len(offsets) == len(counts) == planes * across * down:
        return None
    row_bytes = width * sum(layout.bits) // (8 * planes)
    blocks = Blocks(height, width, across, offsets.reshape(planes, -1), counts.reshape(planes, -1))
    if compression == 1 and not is_tiled:
        blocks = _divided(blocks, layout.height, row_bytes)
    is_small = blocks.height * row_bytes * planes <= MOST_BLOCK_BYTES
    return blocks if is_small and blocks.offsets.shape[1] > 1 else None


def _is_known(layout: tiff.Layout, compression: int) -> bool:
    if compression not in (*tiff.BYTE_COMPRESSIONS, JPEG) or layout.bits[0] % 8:
        return False
    if layout.is_deep:
        return compression != JPEG
    colours = (tiff.MIN_IS_WHITE, tiff.MIN_IS_BLACK, tiff.RGB, PALETTE, CMYK)
    is_plain = layout.photometric in colours or (layout.photometric, compression) == (YCBCR, JPEG)
    return is_plain and set(layout.bits) == {8}


def _divided(blocks: Blocks, height: int, row_bytes: int) -> Blocks:
    """Strips without compression, divided into strips of a few rows."""
    rows = max(STRIP_BYTES // max(row_bytes, 1), 1)
    while blocks.height % rows and rows > 1 and blocks.height < height:
        rows -= 1  # strips follow each other in whole numbers of the smaller ones
    if rows >= blocks.height:
        return blocks
    first = np.arange(0, height, rows)
    strip, inside = np.divmod(first, blocks.height)
    offsets = blocks.offsets[:, strip] + inside * row_bytes
    counts = np.minimum(rows, np.minimum(blocks.height - inside, height - first)) * row_bytes
    is_there = offsets + counts <= (blocks.offsets + blocks.counts)[:, strip]
    counts = np.where(is_there, counts, 0)
    return Blocks(rows, blocks.width, 1, offsets, counts)
