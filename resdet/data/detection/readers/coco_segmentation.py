"""COCO segmentations, many at a time, as outlines; those that are unusable are reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import BOX, POLYGON, RLE, Outlines
from resdet.files.rle import MAX_COORDINATE, is_rle_text, rows_with_wrong_total

NO_OUTLINE = "training takes its box as its mask, evaluation of masks counts it as missed"

Report = Callable[[int, str, str], None]
"""Takes a row, what is wrong with its object, and the remedy."""


@dataclass(frozen=True)
class Segmentation:
    """One segmentation in the form it is kept in."""

    kind: int = BOX
    polygons: list[list[float]] = field(default_factory=list)
    """x0, y0, x1, y1, … in pixels."""
    code: bytes = b""
    """COCO's compressed run-length code."""
    size: tuple[int, int] | None = None
    """(height, width) of a run-length code."""


class Unusable(Exception):
    """A segmentation, or an object, that can't be kept; the text tells why."""


def are_numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    if not isinstance(values, (list, tuple)):
        return False
    try:
        return all(map(math.isfinite, values))
    except (TypeError, OverflowError):
        return False


def parse_outlines(
    segmentations: Sequence[Any], sizes: NDArray[np.int32], report: Report
) -> tuple[Outlines, NDArray[np.int32]]:
    """The outlines of n objects in images of (n, 2) sizes, 0 where unknown.

    Polygons, by far the most common, are checked all at once; whatever is not plainly right is
    looked at one by one, for the words of the report. Objects without a segmentation get kind BOX
    and no report.

    Returns:
        The outlines, and the sizes, which a run-length code gives where they were unknown.
    """
    count = len(segmentations)
    polygons: list[list[list[float]]] = [
        each if type(each) is list and set(map(type, each)) == {list} else []
        for each in segmentations
    ]
    kinds = np.array([POLYGON if each else BOX for each in segmentations], np.uint8)
    doubtful = [row for row, parts in enumerate(polygons) if not parts and kinds[row] != BOX]
    doubtful += _bad_polygons(polygons)
    codes = [b""] * count
    sizes = sizes.copy()
    for row in doubtful:
        size = (int(sizes[row, 0]), int(sizes[row, 1]))
        try:
            one, problem = parse_segmentation(segmentations[row], size if min(size) else None)
            if problem is not None:
                report(row, *problem)
        except Unusable as error:
            report(row, str(error), NO_OUTLINE)
            one = Segmentation()
        kinds[row], polygons[row], codes[row] = one.kind, one.polygons, one.code
        sizes[row] = one.size or size
    parts = list(chain.from_iterable(polygons))
    outlines = Outlines(
        kinds,
        _offsets(map(len, polygons)),
        _offsets(len(part) // 2 for part in parts),
        np.fromiter(chain.from_iterable(parts), np.float64).reshape(-1, 2),
        _offsets(map(len, codes)),
        np.frombuffer(b"".join(codes), np.uint8),
    )
    coded = np.flatnonzero(kinds == RLE)
    pixels = sizes[coded].astype(np.int64).prod(axis=1)
    lengths = np.diff(outlines.rle_offsets)[coded]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for row in coded[rows_with_wrong_total(outlines.rle, starts, pixels)].tolist():
        report(row, "has an RLE that does not add up to its image's pixels", NO_OUTLINE)
        kinds[row] = BOX
    return outlines, sizes


def _offsets(counts: Any) -> NDArray[np.int64]:
    return np.cumsum([0, *counts], dtype=np.int64)


def _bad_polygons(polygons: Sequence[list[list[Any]]]) -> list[int]:
    """Rows with a part that is not three or more points of usable numbers."""
    parts = list(chain.from_iterable(polygons))
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    if set(map(type, chain.from_iterable(parts))) <= {int, float}:
        bad = (lengths < 6) | (lengths % 2 == 1)
        try:
            values = np.fromiter(chain.from_iterable(parts), np.float64, lengths.sum())
        except OverflowError:
            values = np.full(lengths.sum(), np.inf)
        outside = np.flatnonzero(~(np.abs(values) <= MAX_COORDINATE))
        bad[np.searchsorted(np.cumsum(lengths), outside, side="right")] = True
    else:
        bad = np.array([not _is_polygon(part) for part in parts], bool)
    row_of = np.repeat(np.arange(len(polygons)), [len(each) for each in polygons])
    return np.unique(row_of[bad]).tolist()


def _is_polygon(part: Any) -> bool:
    whole = isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0
    return (
        whole
        and are_numbers(part)
        and all(type(v) in (int, float) and abs(v) <= MAX_COORDINATE for v in part)
    )


def parse_segmentation(
    segmentation: Any, size: tuple[int, int] | None
) -> tuple[Segmentation, tuple[str, str] | None]:
    """A segmentation in the form it is kept in, and what was repaired: what and the remedy.

    Raises:
        Unusable: nothing of it can be used.
    """
    if not segmentation:
        raise Unusable("has no segmentation")
    if isinstance(segmentation, dict):
        return _parse_rle(segmentation, size), None
    if not isinstance(segmentation, list):
        raise Unusable(f"has a segmentation of type {type(segmentation).__name__}")
    problem = None
    if are_numbers(segmentation):
        segmentation = [segmentation]
        problem = ("has a flat list as segmentation", "it is taken as one polygon")
    good = [part for part in segmentation if _is_polygon(part)]
    broken = len(segmentation) - len(good)
    if not good:
        raise Unusable(
            f"has no polygon of three or more points within ±{MAX_COORDINATE:,.0f} pixels"
        )
    if broken:
        what = f"has {broken} polygon(s) that are not lists of three or more points"
        problem = (what, "its other polygons are taken")
    return Segmentation(POLYGON, good), problem


def _parse_rle(segmentation: dict[str, Any], image_size: tuple[int, int] | None) -> Segmentation:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    well_formed = are_numbers(size) and size is not None and len(size) == 2
    if not well_formed or not isinstance(counts, (list, str, bytes)):
        raise Unusable("has an RLE without size or counts")
    height, width = (int(side) for side in size)  # type: ignore[union-attr]
    if not 0 < min(height, width) <= max(height, width) < 2**31:
        raise Unusable(f"has an RLE of size {height}×{width}")
    if image_size is not None and (height, width) != image_size:
        raise Unusable(
            f"has an RLE of size {height}×{width} in an image of {image_size[0]}×{image_size[1]} "
            "(height×width)"
        )
    if isinstance(counts, list):
        whole = all(isinstance(count, int) and count >= 0 for count in counts)
        if not whole or sum(counts) != height * width:
            raise Unusable("has an RLE whose counts are broken")
        code = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return Segmentation(RLE, [], code["counts"], (height, width))
    code = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    if not is_rle_text(code):
        raise Unusable("has an RLE whose counts are broken")
    return Segmentation(RLE, [], code, (height, width))


def box_of(segmentation: Any, size: tuple[int, int] | None) -> list[float] | None:
    """The xywh box of a segmentation; None where it has none."""
    try:
        parsed, _ = parse_segmentation(segmentation, size)
    except Unusable:
        return None
    if parsed.size is not None:
        height, width = parsed.size
        code = np.frombuffer(parsed.code, np.uint8)
        if len(rows_with_wrong_total(code, np.array([0, len(code)]), np.array([height * width]))):
            return None
        box = coco_mask.toBbox({"size": [height, width], "counts": parsed.code})
        return [float(value) for value in box]
    xs = [x for polygon in parsed.polygons for x in polygon[::2]]
    ys = [y for polygon in parsed.polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
