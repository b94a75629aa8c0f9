"""Which objects are found and which detections are right: by size, shape, place and crowding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.statistics import MEDIUM, SMALL
from resdet.report.data import Cell, Table
from resdet.report.matching import Floats, Ints, Matches
from resdet.report.numbers import value_of

AREA_NAMES = ("small", "medium", "large")
RELATIVE = (0.05, 0.1, 0.2, 0.4)
"""Limits of the square root of box area over image area."""
RATIOS = (0.5, 0.8, 1.25, 2.0)
"""Limits of width over height."""
CROWDS = (2, 5, 10, 20, 50)
"""Limits of objects per image; 1 object is a group of its own."""
BORDER = 0.01
"""Share of the image's side within which a box counts as at the border."""

COLUMNS = ["group", "objects", "recall", "detections", "precision"]


def breakdowns(matches: Matches) -> list[Table]:
    """One table per property; groups without objects and detections are left out."""
    if not matches.is_object.any():
        return []
    truth, table = matches.truth, matches.detections
    sides = (truth.boxes_xywh[:, 2:], table.boxes[:, 2:])
    sizes = truth.sizes.astype(np.float64)
    image_areas = (sizes[truth.image_of].prod(axis=1), sizes[table.images].prod(axis=1))
    tables = [
        _table(
            matches,
            "Size of objects",
            AREA_NAMES,
            [np.digitize(a, (SMALL, MEDIUM)) for a in (truth.areas, table.areas(matches.kind))],
            "Small are areas under 32² px², large ones from 96² px².",
        )
    ]
    if (sizes > 0).all():
        relative = [
            np.sqrt(side.prod(axis=1) / area) for side, area in zip(sides, image_areas, strict=True)
        ]
        names = _ranges([f"{limit:.0%}" for limit in RELATIVE])
        groups = [np.digitize(each, RELATIVE) for each in relative]
        note = "The side of a square of the box's area, over that of a square of the image's."
        tables.append(_table(matches, "Size relative to the image", names, groups, note))
    ratios = [_ratio(side) for side in sides]
    names = ["tall: under 1:2", "1:2 to 4:5", "about square", "5:4 to 2:1", "wide: 2:1 or more"]
    groups = [np.digitize(each, RATIOS) for each in ratios]
    tables.append(_table(matches, "Width to height", names, groups))
    if (sizes > 0).all():
        groups = [
            _at_border(truth.boxes_xywh, sizes[truth.image_of]),
            _at_border(table.boxes, sizes[table.images]),
        ]
        names = ["inside", "at the border"]
        note = f"At the border: within {BORDER:.0%} of the image's side."
        tables.append(_table(matches, "Place in the image", names, groups, note))
    return [*tables, _crowding(matches)]


def _table(
    matches: Matches, title: str, names: Sequence[str], groups: Sequence[Ints], note: str = ""
) -> Table:
    """Counts at the best threshold; `groups` are those of the objects (A,) and detections (N,)."""
    objects, detections = groups
    is_object, threshold = matches.is_object, matches.threshold
    found = is_object & (matches.found_scores >= threshold)
    above = matches.detections.scores >= threshold
    right, wrong = matches.is_right & above, matches.is_wrong & above
    rows: list[list[Cell]] = []
    for number, name in enumerate(names):
        own, told = objects == number, detections == number
        counts = [
            int((each & mask).sum())
            for each, mask in ((is_object, own), (found, own), (right, told), (wrong, told))
        ]
        if any(counts):
            rows.append([name, *_row(*counts)])
    return Table(f"{title}, {matches.kind}", COLUMNS, rows, _note(matches, note), "recall")


def _row(objects: int, found: int, right: int, wrong: int) -> list[Cell]:
    recall = found / objects if objects else None
    precision = right / (right + wrong) if right + wrong else None
    return [objects, recall, right + wrong, precision]


def _note(matches: Matches, note: str) -> str:
    at = f"Detections with a score of {matches.threshold:.3g} or more, matched at IoU .50."
    return f"{at} {note}".strip()


def _crowding(matches: Matches) -> Table:
    """By objects per image; with AP, of which hotcoco accumulates each group by itself."""
    truth, table = matches.truth, matches.detections
    per_image = np.bincount(truth.image_of[matches.is_object], minlength=len(truth.image_ids))
    group_of = np.digitize(per_image, (1, *CROWDS))
    lows = [0, 1, *CROWDS]
    names = [str(low) if high == low + 1 else f"{low} to {high - 1}" for low, high in zip(
        lows, [*lows[1:], lows[-1] + 1], strict=True)]  # fmt: skip
    names[-1] = f"{lows[-1]} or more"
    plain = _table(
        matches,
        "Objects per image",
        names,
        [group_of[truth.image_of], group_of[table.images]],
    )
    ranks = matches.evaluation.image_ranks
    slices = {
        name: ranks[group_of == number].tolist()
        for number, name in enumerate(names)
        if (group_of == number).any()
    }
    found = matches.evaluation.hotcoco.slice_by(slices)
    rows: list[list[Cell]] = []
    for row in plain.rows:
        numbers = found[str(row[0])]
        rows.append([row[0], numbers["num_images"], *row[2:], value_of(numbers["AP"])])
    columns = ["objects per image", "images", *COLUMNS[2:], "AP"]
    return Table(plain.title, columns, rows, plain.note, "recall")


def _ranges(limits: Sequence[str]) -> list[str]:
    between = [f"{low} to {high}" for low, high in pairwise(limits)]
    return [f"under {limits[0]}", *between, f"{limits[-1]} or more"]


def _ratio(sides: Floats) -> Floats:
    """(N,) width over height; a box without height is wide."""
    width, height = sides.T
    return np.divide(width, height, out=np.full(len(width), np.inf), where=height > 0)


def _at_border(boxes: Floats, sizes: Floats) -> NDArray[np.int64]:
    """(N,) 1 where a box xywh touches the border of its image of (N, 2) height, width."""
    margin = BORDER * sizes[:, ::-1]
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    touches = (start <= margin) | (end >= sizes[:, ::-1] - margin)
    return np.any(touches, axis=1).astype(np.int64)
