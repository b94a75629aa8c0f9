"""COCO segmentations, many at a time, as outlines; those that are unusable are reported."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import BOX, POLYGON, RLE, Outlines
from resdet.errors import UserError
from resdet.files.rle import MAX_COORDINATE, Rle, is_polygon, measure_codes, to_rle

NO_OUTLINE = "training takes its box as its mask, evaluation of masks counts it as missed"

Polygons = list[list[float]]
"""x0, y0, x1, y1, … in pixels, per part."""


def parse_outlines(
    segmentations: Sequence[Any],
    sizes: NDArray[np.int32],
    report: Callable[[int, str, str], None],
) -> Outlines:
    """The outlines of n objects in images of (n, 2) sizes, 0 where unknown.

    Polygons and compressed codes are checked all at once; whatever is not plainly right is looked
    at one by one. Objects without a segmentation get kind BOX and no report.

    Args:
        report: takes a row, what is wrong, and the remedy.
        sizes: unknown ones are filled in from run-length codes.
    """
    count = len(segmentations)
    kinds, codes = np.full(count, BOX, np.uint8), [b""] * count
    polygons: list[Polygons] = [[] for _ in range(count)]
    doubtful = []
    for row, (each, size) in enumerate(zip(segmentations, sizes.tolist(), strict=True)):
        if type(each) is list and set(map(type, each)) == {list}:
            kinds[row], polygons[row] = POLYGON, each
        elif _is_code(each, size):
            kinds[row], codes[row] = RLE, each["counts"].encode("utf-8", "replace")
        elif not is_missing(each):
            doubtful.append(row)
    doubtful += _bad_polygons(polygons)
    coded = np.flatnonzero(kinds == RLE)
    text = b"".join(codes)  # only these rows have any
    lengths = np.array([len(codes[row]) for row in coded], np.int64)
    pixels = sizes[coded].astype(np.int64).prod(axis=1)
    areas = measure_codes(np.frombuffer(text, np.uint8), lengths, pixels)
    doubtful += coded[areas < 0].tolist()
    for row in sorted(set(doubtful)):
        kinds[row], polygons[row], codes[row] = BOX, [], b""
        try:
            outline, problem = _parse_one(segmentations[row], sizes[row])
        except UserError as error:
            report(row, str(error), NO_OUTLINE)
            continue
        if problem:
            report(row, problem, "its polygons are taken")
        if isinstance(outline, dict):
            kinds[row], codes[row], sizes[row] = RLE, outline["counts"], outline["size"]
        else:
            kinds[row], polygons[row] = POLYGON, outline
    parts = list(chain.from_iterable(polygons))
    return Outlines(
        kinds,
        _offsets(map(len, polygons)),
        _offsets(len(part) // 2 for part in parts),
        np.fromiter(chain.from_iterable(parts), np.float64).reshape(-1, 2),
        _offsets(map(len, codes)),
        np.frombuffer(b"".join(codes), np.uint8),
    )


def _is_code(segmentation: Any, size: list[int]) -> bool:
    """Whether this is a compressed code of an image of a known [height, width]."""
    if type(segmentation) is not dict or type(segmentation.get("counts")) is not str:
        return False
    own = segmentation.get("size")
    return type(own) is list and own == size and size[0] > 0


def _offsets(counts: Any) -> NDArray[np.int64]:
    return np.cumsum([0, *counts], dtype=np.int64)


def _bad_polygons(polygons: Sequence[list[list[Any]]]) -> list[int]:
    """Rows with a part that is not three or more points of usable numbers."""
    parts = list(chain.from_iterable(polygons))
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    try:
        plain = set(map(type, chain.from_iterable(parts))) <= {int, float}
        values = np.fromiter(chain.from_iterable(parts if plain else []), np.float64)
    except OverflowError:  # a whole number that no float holds
        plain = False
    if plain:
        bad = (lengths < 6) | (lengths % 2 == 1)
        outside = np.flatnonzero(~(np.abs(values) <= MAX_COORDINATE))
        bad[np.searchsorted(np.cumsum(lengths), outside, side="right")] = True
    else:
        bad = np.array([not is_polygon(part) for part in parts], bool)
    row_of = np.repeat(np.arange(len(polygons)), list(map(len, polygons)))
    return np.unique(row_of[bad]).tolist()


def _parse_one(segmentation: Any, size: NDArray[np.int32]) -> tuple[Polygons | Rle, str | None]:
    """A segmentation in the form it is kept in, and what was wrong with a part of it.

    Raises:
        UserError: nothing of it can be used; the text tells why.
    """
    if isinstance(segmentation, dict):
        try:
            known = size.min() > 0
            rle = to_rle(segmentation, (int(size[0]), int(size[1])) if known else None, "RLE")
        except UserError as error:
            raise UserError(f"has an unusable {error}") from None
        return rle, None
    if not isinstance(segmentation, list):
        raise UserError(f"has a segmentation of type {type(segmentation).__name__}")
    if is_polygon(segmentation):
        return [segmentation], "has a flat list as segmentation"
    flat = _without_points(segmentation)
    if flat:
        return flat, "has points [x, y] as segmentation, not flat lists"
    good = [part for part in segmentation if is_polygon(part)]
    if not good:
        raise UserError(
            f"has no polygon of three or more points within ±{MAX_COORDINATE:,.0f} pixels"
        )
    broken = len(segmentation) - len(good)
    problem = f"has {broken} polygon(s) that are not lists of three or more points"
    return good, problem if broken else None


def _without_points(segmentation: list[Any]) -> Polygons:
    """Flat polygons of [[x, y], …], one part, or [[[x, y], …], …]; empty if it is neither."""
    parts = [segmentation] if _is_pair(segmentation[0]) else segmentation
    if not all(type(part) is list and all(map(_is_pair, part)) for part in parts):
        return []
    flat = [list(chain.from_iterable(part)) for part in parts]
    return flat if all(map(is_polygon, flat)) else []


def _is_pair(point: Any) -> bool:
    return type(point) is list and len(point) == 2 and all(type(v) in (int, float) for v in point)


def is_missing(segmentation: Any) -> bool:
    """Whether there is none, or an empty one."""
    if isinstance(segmentation, np.ndarray):
        return segmentation.size == 0
    return segmentation is None or (
        isinstance(segmentation, (list, dict, str)) and not segmentation
    )


def box_of(segmentation: Any, size: NDArray[np.int32]) -> list[float] | None:
    """The xywh box of a segmentation; None where it has none."""
    try:
        outline, _ = _parse_one(segmentation, size)
    except UserError:
        return None
    if isinstance(outline, dict):
        return [float(value) for value in coco_mask.toBbox(outline)]
    xs = [x for polygon in outline for x in polygon[::2]]
    ys = [y for polygon in outline for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
