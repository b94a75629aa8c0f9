"""One annotation's box and segmentation, checked: what can be used, and what is wrong in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import BOX, POLYGON, RLE
from resdet.files.rle import is_rle_text

CLIP_TOLERANCE = 1.0
"""Boxes that pass the image's border by no more pixels than this are clipped without a word."""

MASK_FROM_BOX = "its box is taken as its mask"
DROPPED = "it is dropped; mend or remove it"
CLIPPED = "it is clipped to the image"

Xyxy = tuple[float, float, float, float]


@dataclass(frozen=True)
class Problem:
    """What is wrong with an item, and what was done about it."""

    what: str
    remedy: str


class Unusable(Exception):
    """An annotation that can't be kept; the text says why."""


@dataclass(frozen=True)
class Segmentation:
    """A segmentation in the form it is kept in."""

    kind: int = BOX
    polygons: list[list[float]] = field(default_factory=list)
    """x0, y0, x1, y1, … in pixels."""
    code: bytes = b""
    """COCO's compressed run-length code."""


def numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    if not isinstance(values, (list, tuple)):
        return False
    try:
        return all(map(math.isfinite, values))
    except TypeError:
        return False


def parse_box(raw: dict[str, Any], height: int, width: int) -> tuple[Xyxy, Problem | None]:
    """The annotation's box as xyxy, clipped to the image, and what had to be done for it.

    Raises:
        Unusable: there is no box, or nothing of it inside the image.
    """
    given = raw.get("bbox")
    problem = None
    if given is None:
        given = box_of(raw.get("segmentation"))
        if given is None:
            raise Unusable("has no bbox")
        problem = Problem("has no bbox", "the box of its segmentation is taken")
    if not numbers(given) or len(given) != 4:
        raise Unusable(f"has bbox {given!r:.80}, not four finite numbers x, y, width, height")
    x, y, box_width, box_height = map(float, given)
    if box_width <= 0 or box_height <= 0:
        side = "width" if box_width <= 0 else "height"
        raise Unusable(f"has bbox {given} without {side}")
    x0, y0 = max(x, 0.0), max(y, 0.0)
    x1, y1 = min(x + box_width, float(width)), min(y + box_height, float(height))
    if x1 <= x0 or y1 <= y0:
        raise Unusable(f"has bbox {given} outside its image of {width}×{height}")
    passed = max(x0 - x, y0 - y, x + box_width - x1, y + box_height - y1)
    if passed > CLIP_TOLERANCE:
        problem = Problem(f"has bbox {given} past its image of {width}×{height}", CLIPPED)
    return (x0, y0, x1, y1), problem


def box_of(segmentation: Any) -> list[float] | None:
    """The xywh box of a segmentation; None where it has none."""
    if isinstance(segmentation, dict):
        parsed, _ = _parse_rle(segmentation, None)
        if parsed.kind == BOX:
            return None
        code = {"size": segmentation["size"], "counts": parsed.code}
        return [float(value) for value in coco_mask.toBbox(code)]
    parsed, _ = parse_segmentation(segmentation, 0, 0)
    if parsed.kind == BOX:
        return None
    xs = [x for polygon in parsed.polygons for x in polygon[::2]]
    ys = [y for polygon in parsed.polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def parse_segmentation(
    segmentation: Any, height: int, width: int
) -> tuple[Segmentation, Problem | None]:
    """A segmentation in the form it is kept in; where it can't be used, the box stands for it."""
    if isinstance(segmentation, dict) and segmentation:
        return _parse_rle(segmentation, (height, width))
    if segmentation is None or segmentation in ([], {}):
        return Segmentation(), Problem("has no segmentation", MASK_FROM_BOX)
    if not isinstance(segmentation, list):
        what = f"has a segmentation of type {type(segmentation).__name__}"
        return Segmentation(), Problem(what, MASK_FROM_BOX)
    problem = None
    if numbers(segmentation):
        segmentation = [segmentation]
        problem = Problem("has a flat list as segmentation", "it is taken as one polygon")
    good = [part for part in segmentation if _is_polygon(part)]
    broken = len(segmentation) - len(good)
    if not good:
        what = "has no polygon of three or more points"
        return Segmentation(), Problem(what, MASK_FROM_BOX)
    if broken:
        what = f"has {broken} polygon(s) that are not lists of three or more points"
        problem = Problem(what, "its other polygons are taken")
    return Segmentation(POLYGON, good), problem


def _is_polygon(part: Any) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 and numbers(part)


def _parse_rle(
    segmentation: dict[str, Any], image_size: tuple[int, int] | None
) -> tuple[Segmentation, Problem | None]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    well_formed = isinstance(size, list) and numbers(size) and len(size) == 2
    if not isinstance(size, list) or not well_formed or not isinstance(counts, (list, str)):
        return Segmentation(), Problem("has an RLE without size or counts", MASK_FROM_BOX)
    height, width = int(size[0]), int(size[1])
    if image_size is not None and (height, width) != image_size:
        what = f"has an RLE of size {height}×{width} in an image of {image_size[0]}×{image_size[1]}"
        return Segmentation(), Problem(f"{what} (height×width)", MASK_FROM_BOX)
    broken = Problem("has an RLE whose counts are broken", MASK_FROM_BOX)
    if isinstance(counts, list):
        if not _are_counts(counts, height * width):
            return Segmentation(), broken
        code = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return Segmentation(RLE, code=code["counts"]), None
    code = counts.encode("utf-8")
    if not is_rle_text(code):
        return Segmentation(), broken
    return Segmentation(RLE, code=code), None


def _are_counts(counts: list[Any], pixels: int) -> bool:
    whole = all(isinstance(count, int) and count >= 0 for count in counts)
    return whole and sum(counts) == pixels
