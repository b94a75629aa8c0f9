"""Masks as run lengths in COCO's compressed code: reading, checking, converting."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from resdet.errors import UserError
from resdet.files.json import whole_number
from resdet.ops.runs import CONTINUES, read_runs

Rle = dict[str, Any]


MAX_COORDINATE = 1e6
"""Pixels; pycocotools takes memory for each one that an outline passes, inside the image or not."""


MAX_PIXELS = 2**32 - 1
"""pycocotools counts the pixels of a mask in 32 bits."""

MAX_SIDE = 2**31 - 1
"""Pixels that an int32 holds."""

MERGED = 64
"""Masks joined at once: a join passes over what it has so far for each further mask."""


def to_rle(segmentation: Any, size: tuple[int, int] | None, item: str) -> Rle:
    """Compressed RLE of polygons (a list of flat xy lists in pixels), or of either kind of RLE.

    `size` is the image's (height, width), None where it is unknown. An empty list gives an empty
    mask. Raises UserError, naming `item`, for what is neither, and for an RLE of another size than
    its image.
    """
    if isinstance(segmentation, dict):
        return _check_rle(segmentation, size, item)
    if not isinstance(segmentation, list):
        raise UserError(f"{item}: segmentation must be polygons (a list) or an RLE (an object)")
    if size is None:
        raise UserError(
            f"{item}: polygons need the height and width of their image; "
            "add them to the ground truth's images, or evaluate kinds=bbox"
        )
    # Fewer than three points enclose nothing, and pycocotools reads four numbers as a box.
    polygons = [p for p in segmentation if isinstance(p, list) and len(p) >= 6]
    if not all(map(is_polygon, polygons)):
        raise UserError(
            f"{item}: a polygon has an odd number of coordinates, or a coordinate that is not a "
            f"number within ±{MAX_COORDINATE:,.0f} pixels"
        )
    return union_of_polygons(polygons, size)


def union_of_polygons(polygons: Sequence[Any], size: Sequence[int]) -> Rle:
    """Compressed RLE of flat xy lists or arrays that were checked; of none an empty mask."""
    height, width = size
    if not len(polygons):
        empty = {"size": [height, width], "counts": [height * width]}
        return mask_utils.frPyObjects(empty, height, width)
    # in groups: the masks of 200,000 parts are never in memory at once
    while len(polygons) > 1 or not isinstance(polygons[0], dict):
        groups = [polygons[at : at + MERGED] for at in range(0, len(polygons), MERGED)]
        if not isinstance(polygons[0], dict):
            groups = [mask_utils.frPyObjects(group, height, width) for group in groups]
        polygons = [group[0] if len(group) == 1 else mask_utils.merge(group) for group in groups]
    return polygons[0]


def _check_rle(rle: dict[Any, Any], size: tuple[int, int] | None, item: str) -> Rle:
    """An RLE of either kind, checked before a library sees it, with a compressed code."""
    given, counts = rle.get("size"), rle.get("counts")
    listed = given.tolist() if isinstance(given, np.ndarray) else given
    sides = [whole_number(side) for side in listed] if isinstance(listed, (list, tuple)) else []
    if len(sides) != 2 or counts is None or None in sides:
        raise UserError(
            f'{item}: an RLE needs "size" [height, width] in whole numbers and "counts"; it has '
            f"size {given!r:.40} and counts of type {type(counts).__name__}"
        )
    height, width = (side or 0 for side in sides)
    if size is not None and (height, width) != size:
        raise UserError(
            f"{item}: its mask is {height}×{width} (height × width), its image "
            f"{size[0]}×{size[1]}; encode masks at the original image size"
        )
    pixels = height * width
    if min(height, width) < 1 or max(height, width) > MAX_SIDE or pixels > MAX_PIXELS:
        raise UserError(
            f"{item}: its mask is {height}×{width} (height × width), which no image is; encode "
            "the mask again"
        )
    counts = counts.tolist() if isinstance(counts, np.ndarray) else counts
    if isinstance(counts, (list, tuple)):
        if set(map(type, counts)) - {int}:
            counts = [-1 if run is None else run for run in map(whole_number, counts)]
        if min(counts, default=0) < 0:
            raise UserError(f"{item}: the counts of its RLE are not whole numbers from 0")
        if sum(counts) != pixels:
            raise UserError(f"{item}: the counts of its RLE do not add up to its size")
        return mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if not isinstance(counts, (str, bytes, bytearray, memoryview)):
        raise UserError(f"{item}: RLE counts must be a list or a string")
    code = counts.encode("utf-8", "replace") if isinstance(counts, str) else bytes(counts)
    if not is_code_of(code, pixels):
        raise UserError(
            f"{item}: the counts of its RLE are broken, or do not add up to its size; encode "
            "the mask again"
        )
    return {"size": [height, width], "counts": code}


def is_polygon(part: Any) -> bool:
    """Whether this is a flat list of three or more points within `MAX_COORDINATE`."""
    whole = isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0
    return whole and all(type(v) in (int, float) and abs(v) <= MAX_COORDINATE for v in part)


def encode_runs(starts: NDArray[np.int64], ends: NDArray[np.int64], size: Sequence[int]) -> bytes:
    """The compressed code of a mask of (height, width) `size` whose pixels, counted down the
    columns, are set from each of (n,) `starts` up to its end; sorted, without overlap."""
    height, width = size
    bounds = np.empty(2 * len(starts), np.int64)
    bounds[::2], bounds[1::2] = starts, ends
    counts = np.diff(bounds, prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    runs = {"size": [height, width], "counts": counts.tolist()}
    code: bytes = mask_utils.frPyObjects(runs, height, width)["counts"]
    return code


def encode_bitmap(bitmap: NDArray[Any], top: int, left: int, size: Sequence[int]) -> bytes:
    """The compressed code of a bitmap (h, w), not 0 where set, whose corner is at
    (top, left) in an image of (height, width) `size`; what passes the border is cut off.

    Costs time by the size of the bitmap, not of the image.
    """
    height, width = size
    inside = bitmap[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    columns, rows = np.nonzero(inside.T)
    places = (columns + max(left, 0)) * height + rows + max(top, 0)
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts = places[np.concatenate([[0], breaks + 1])] if len(places) else places
    ends = places[np.concatenate([breaks, [-1]])] + 1 if len(places) else places
    return encode_runs(starts, ends, size)


def encode_labels(labels: NDArray[Any]) -> tuple[list[int], list[bytes]]:
    """The values of a label image (H, W) but 0, ascending, and the compressed code of each."""
    flat = labels.T.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    order = order[np.searchsorted(values[order], 0, side="right") :]
    starts, ends, values = starts[order], ends[order], values[order]
    heads = np.flatnonzero(np.diff(values, prepend=0))
    bounds = [*heads.tolist(), len(values)]
    codes = [
        encode_runs(starts[first:last], ends[first:last], labels.shape)
        for first, last in pairwise(bounds)
    ]
    return values[heads].tolist(), codes


CODES_AT_ONCE = 512
"""As many as fit the second-level cache: twice as fast as 1,024."""


def is_code_of(code: bytes, pixels: int) -> bool:
    """Whether `code` is runs that add up to this number of pixels."""
    one = np.array([len(code)]), np.array([pixels])
    return bool(measure_codes(np.frombuffer(code, np.uint8), *one)[0] >= 0)


def measure_codes(
    code: NDArray[np.uint8], lengths: NDArray[np.int64], pixels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(G,) areas in pixels of G masks; -1 for a code that is malformed.

    Args:
        code: the bytes of all masks; lengths: (G,) bytes of each.
        pixels: (G,) what the runs of each must add up to.
    """
    areas = np.full(len(lengths), -1, np.int64)
    rows = np.flatnonzero(lengths)  # no code at all is malformed
    bounds = np.concatenate([[0], np.cumsum(lengths[rows])])

    def measure(start: int) -> None:
        part = rows[start : start + CODES_AT_ONCE]
        offsets = bounds[start : start + len(part) + 1]
        some = code[offsets[0] : offsets[-1]]
        areas[part] = _areas_of_some(some, offsets - offsets[0], pixels[part])

    starts = range(0, len(rows), CODES_AT_ONCE)
    if len(starts) < 8:  # threads cost more than they save
        list(map(measure, starts))
    else:
        # numpy works on arrays without Python's lock
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            list(pool.map(measure, starts))
    return areas


def _areas_of_some(
    code: NDArray[np.uint8], offsets: NDArray[np.int64], pixels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`measure_codes` of a few codes, none of them empty, from `offsets` (G + 1,)."""
    digits, last = code - np.uint8(48), offsets[1:] - 1
    broken = digits[last] >= CONTINUES
    digits[last] &= CONTINUES - 1  # a number may not continue in the next code
    if digits.max() > 63:
        broken |= np.maximum.reduceat(digits, offsets[:-1]) > 63
    runs, bounds = read_runs((digits & np.uint8(63)) + np.uint8(48), offsets)
    starts = bounds[:-1]
    totals = np.add.reduceat(runs, starts)
    broken |= (totals != pixels) | (np.minimum.reduceat(runs, starts) < 0)
    runs[::2] = 0
    areas = np.add.reduceat(runs, starts)  # every second run, from a mask's first or second on
    return np.where(broken, -1, np.where(starts % 2, totals - areas, areas))
