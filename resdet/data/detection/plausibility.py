"""What whole sets of annotations look like: boxes in another unit or order than `bbox` has, objects
that repeat others, many crowd regions.

One box can be anything; a set of them shows its convention. A finding needs that many boxes do not
fit their images as they are read, and that nearly all do as something else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.data.plausibility import check_class_names
from resdet.errors import first_few
from resdet.files.findings import SHOWN, Finding

Boxes = NDArray[np.float64]

MIN_BOXES = 4
"""Fewer boxes than this show a convention only where they can be nothing else."""

TOLERANCE = 0.02
"""Share of its image's side, at least a pixel, by which a box may pass the border and still fit."""

MISFITS = 0.05
"""Sets with a smaller share of boxes that do not fit are taken as they are."""

LARGE = 200
"""Boxes of a set whose objects are at every border of their images."""

EXCEPTIONS = 0.01
"""Share of boxes that need not fit another reading for it to be the likely one."""

LOOKED = 20_000
"""Evenly spaced boxes of a large set that are looked at first."""

UNITS = {100.0: "percent of their image (0..100)", 1000.0: "thousandths of their image (0..1000)",
         1024.0: "1024ths of their image"}  # fmt: skip

CROWDS = 0.2
"""Share of crowd regions from which they are more likely a tool's mark than groups; COCO: 0.01."""

NOT_PIXELS = "bbox is [x, y, width, height] in pixels: convert the boxes; they are used as they are"


def check_annotations(table: AnnotationTable, findings: list[Finding]) -> None:
    """Adds findings for class names that nearly agree, boxes that look like others, objects that
    repeat others, and many crowd regions."""
    per_class = np.bincount(table.labels, minlength=len(table.class_names))
    check_class_names(table.source, table.class_names, per_class, findings)
    check_boxes(table, findings)
    check_repeats(table, findings)
    crowds = int(table.crowd.sum())
    if crowds >= max(3, CROWDS * len(table.crowd)):
        count = len(table.crowd)
        item = f"all {count} objects" if crowds == count else f"{crowds} of {count} objects"
        what = "are crowd regions (iscrowd 1), as some tools mark every painted mask"
        remedy = "they are not trained on and no miss counts; set iscrowd to 0 for single objects"
        findings.append(Finding(table.source, item, what, remedy))


def check_repeats(table: AnnotationTable, findings: list[Finding]) -> None:
    """Adds a finding where objects have the image, class and box of an earlier one."""
    fields = [table.image_of, table.labels, *table.boxes_xywh.T]
    # one number that equal objects share, and hardly any others: those are compared in full
    keys = 65537.0 * table.image_of + table.labels
    for weight, numbers in zip((1.618034, 7.389056, 23.140693, 53.0), fields[2:], strict=True):
        keys += weight * numbers
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return
    usable = ~table.crowd & (table.boxes_xywh[:, 2:] > 0).all(axis=1)
    alike = np.flatnonzero(np.isin(keys, repeated) & usable)
    whole = np.stack([field[alike].astype(np.float64) for field in fields], axis=1)
    _, firsts, which = np.unique(whole, axis=0, return_index=True, return_inverse=True)
    first_of = alike[firsts[which.reshape(-1)]]
    copies = alike != first_of
    if copies.any():
        ids = table.annotation_ids
        pairs = zip(ids[alike[copies]].tolist(), ids[first_of[copies]].tolist(), strict=True)
        named = first_few([f"annotation {one} that of {two}" for one, two in pairs], SHOWN)
        item = f"{int(copies.sum())} of {len(ids)} objects"
        what = f"have the image, class and bbox of another one ({named})"
        findings.append(Finding(table.source, item, what, "all are used; remove the copies"))


def check_boxes(table: AnnotationTable, findings: list[Finding]) -> None:
    """Adds a finding for each annotation file whose boxes look like another convention."""
    sizes = table.sizes[table.image_of]
    usable = ~table.crowd & (sizes.min(axis=1, initial=1) > 0)
    usable &= table.boxes_xywh[:, 2:].max(axis=1, initial=0) > 0
    of_file = table.file_of_image[table.image_of]
    for number, file in enumerate(table.files):
        rows = np.flatnonzero(usable & (of_file == number) if len(table.files) > 1 else usable)
        # of many boxes some show whether it is worth a look at all
        for looked in (rows[:: 1 + len(rows) // LOOKED], rows):
            what = describe_boxes(table.boxes_xywh[looked], sizes[looked], table.areas[looked])
            if what is None:
                break
        if what is not None:
            findings.append(Finding(file, *what, NOT_PIXELS))


def describe_boxes(
    boxes: Boxes, sizes: NDArray[np.int32], areas: NDArray[np.float64] | None = None
) -> tuple[str, str] | None:
    """Which boxes look like what, where they do not look like x, y, width, height in pixels.

    Args:
        boxes: (n, 4) numbers as annotated.
        sizes: (n, 2) height, width of their images in pixels.
        areas: (n,) as annotated, where they may be of another origin than the boxes.
    """
    if not len(boxes):
        return None
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    fraction = (np.abs(boxes) <= 1.001).all(axis=1) & (np.minimum(height, width) > 4)
    if fraction.any() and fraction.sum() >= max(MISFITS * len(boxes), min(3, len(boxes))):
        ones = np.ones(int(fraction.sum()))
        order = _order(boxes[fraction], ones, ones, None)
        return _count(fraction), f"are within 0..1: they look like fractions of their image{order}"
    if len(boxes) < MIN_BOXES:
        return None
    misfit = ~_inside(from_xywh(boxes), width, height)
    past = f"{_count(misfit)}", "pass the border of their image: they look like "
    order = _order(boxes, width, height, areas)
    if order:
        return past[0] if misfit.any() else f"all {len(boxes)} boxes", (
            f"{past[1] if misfit.any() else 'look like '}boxes{order}"
        )
    unit = _unit(boxes, width, height, int(misfit.sum()))
    if unit is not None:
        side = np.full(len(boxes), unit)
        order = _order(boxes, side, side, None)
        return f"all {len(boxes)} boxes", f"look like {UNITS[unit]}{order}"
    if misfit.sum() < max(3, 0.3 * len(boxes)):
        return None
    reach = _reach(boxes, width, height)
    return past[0], (
        f"{past[1]}boxes of larger images (edges reach {reach[0]:.1f} × the width, "
        f"{reach[1]:.1f} × the height)"
    )


def _count(which: NDArray[np.bool_]) -> str:
    number = int(which.sum())
    if number == len(which) > 1:
        return f"all {number} boxes"
    return f"{number} of {len(which)} boxes"


def _reach(
    boxes: Boxes, width: NDArray[np.float64], height: NDArray[np.float64]
) -> tuple[float, float]:
    """How far the edges of 99 % of the boxes reach to the right and down, in sides of the image."""
    right, bottom = (boxes[:, 0] + boxes[:, 2]) / width, (boxes[:, 1] + boxes[:, 3]) / height
    return float(np.quantile(right, 0.99)), float(np.quantile(bottom, 0.99))


def _inside(
    corners: Boxes, width: NDArray[np.float64], height: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(n,) whether boxes (n, 4) xyxy have an extent and are in images of these sides, nearly."""
    slack_x = np.maximum(TOLERANCE * width, np.minimum(1.0, 0.1 * width))
    slack_y = np.maximum(TOLERANCE * height, np.minimum(1.0, 0.1 * height))
    x1, y1, x2, y2 = corners.T
    inside = (x1 >= -slack_x) & (y1 >= -slack_y) & (x2 <= width + slack_x)
    return inside & (y2 <= height + slack_y) & (x2 >= x1) & (y2 >= y1)


def from_xywh(boxes: Boxes) -> Boxes:
    """Boxes (n, 4) x1, y1, x2, y2 of x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_center(boxes: Boxes) -> Boxes:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


ORDERS: dict[str, Callable[[Boxes], Boxes]] = {
    " given as corners [x1, y1, x2, y2]": lambda boxes: boxes,
    " given as corners [y1, x1, y2, x2]": lambda boxes: boxes[:, [1, 0, 3, 2]],
    " given as [center x, center y, width, height]": _from_center,
    " given as [y, x, height, width]": lambda boxes: from_xywh(boxes[:, [1, 0, 3, 2]]),
}
"""What messages call an order of the four numbers, and xyxy from it."""


def _order(
    boxes: Boxes,
    width: NDArray[np.float64],
    height: NDArray[np.float64],
    areas: NDArray[np.float64] | None,
) -> str:
    """The order of the four numbers that fits nearly all boxes where xywh does not; else empty."""
    count = len(boxes)
    misfits = count - int(_inside(from_xywh(boxes), width, height).sum())
    if areas is not None and _are_corners_by_area(boxes, areas):
        return next(iter(ORDERS))
    if count < MIN_BOXES:
        return ""
    for name, corners in ORDERS.items():
        # few boxes of small objects pass the border, but in larger sets some centers always do
        share = MISFITS if corners is not _from_center or count < LARGE else 0.3 * MISFITS
        if misfits < max(2, share * count):
            continue
        left = count - int(_inside(corners(boxes), width, height).sum())
        if left <= EXCEPTIONS * count:
            return name
    return ""


def _are_corners_by_area(boxes: Boxes, areas: NDArray[np.float64]) -> bool:
    """Whether areas are the product of differences of the numbers, and not of their sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    by_corners, by_sides = sides.prod(axis=1), boxes[:, 2:].prod(axis=1)
    given = (areas > 0) & (np.abs(areas - by_sides) > 0.05 * by_sides)
    alike = given & (sides > 0).all(axis=1) & (np.abs(areas - by_corners) <= 0.01 * areas)
    return bool(alike.sum() >= max(3, 0.9 * len(boxes)))


def _unit(
    boxes: Boxes, width: NDArray[np.float64], height: NDArray[np.float64], misfits: int
) -> float | None:
    """100, 1000 or 1024 where boxes fill the square of that side, and not their images."""
    largest = boxes.max()
    for unit in UNITS:
        if largest > 1.002 * unit or boxes.min() < -0.05 * unit:
            continue
        edges = [from_xywh(boxes)[:, 2:].max(axis=0), boxes[:, 2:].max(axis=0)]
        ends = edges[0] if edges[0].max() <= 1.01 * unit else edges[1]
        if ends.min() < 0.8 * unit:
            return None
        reach = _reach(boxes, width, height)
        is_one_shape = len(set((width > height).tolist())) == 1 and (width != height).all()
        if is_one_shape and abs(reach[0] - reach[1]) < 0.08 * max(reach):
            return None  # another size of the same images
        larger = min(np.quantile(width, 0.1), np.quantile(height, 0.1)) > 1.3 * unit
        smaller = max(np.quantile(width, 0.9), np.quantile(height, 0.9)) < 0.9 * unit
        if larger and len(boxes) >= 10 and ends.min() >= 0.85 * unit:
            return unit
        if smaller and misfits >= 0.2 * len(boxes):
            return unit
        return None
    return None
