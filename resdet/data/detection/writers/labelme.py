"""LabelMe's layout: one JSON file per image, with the path to the image in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.writers.layout import (
    check_classes,
    check_sized,
    counted,
    image_stems,
    inside,
    left_out,
    lost,
    objects_of,
    outline_parts,
    write_files,
)

VERSION = "5.5.0"
"""Of LabelMe, whose files these are like."""
DECIMALS = 3
"""Of coordinates in pixels."""


@dataclass
class Counts:
    """Objects that changed."""

    traced: int = 0
    holes: int = 0


def write(
    table: AnnotationTable, folder: Path, images: str | None = None, part: str = "train"
) -> list[str]:
    """Writes one JSON file per image: polygons for outlines, rectangles for boxes.

    The parts of an outline share a `group_id`; run-length codes are traced along their pixels. All
    is clipped to the image. Returns what was left out or changed. Raises UserError for an image
    without a size and names that no file can have.
    """
    stems = image_stems(table)
    check_classes(table)
    check_sized(table, "LabelMe's files have sizes")
    counts = Counts()
    write_files(folder, _files(table, folder, stems, images, counts))
    numbers = [
        *left_out(table, *inside(table), "LabelMe"),
        (counts.traced, "masks become polygons along their pixels"),
        (counts.holes, "masks lose their holes"),
    ]
    return counted(numbers) + lost(table, "LabelMe", ("difficult", "ignored"))


def _files(
    table: AnnotationTable, folder: Path, stems: list[str], images: str | None, counts: Counts
) -> Iterator[tuple[str, str]]:
    """The path and the text of each image's file."""
    for row, record in enumerate(documents(table, counts)):
        place = (folder / stems[row]).parent
        name = table.file_names[row]
        path = Path(name).name if images is None else os.path.relpath(f"{images}/{name}", place)
        record["imagePath"] = Path(path).as_posix()
        yield f"{stems[row]}.json", as_text(record)


def as_text(record: dict[str, Any]) -> str:
    """The text of a file."""
    return json.dumps(record, ensure_ascii=False, indent=1) + "\n"


def documents(table: AnnotationTable, counts: Counts) -> Iterator[dict[str, Any]]:
    """The file of each image, with an empty `imagePath`. Values `score` and `track_id` of the
    table's `extras` become the score of a shape, and its `group_id`."""
    boxes, rows = inside(table)
    for image, objects in enumerate(objects_of(table, rows)):
        height, width = table.sizes[image].tolist()
        side = np.array([width, height], np.float64)
        shapes: list[dict[str, Any]] = []
        for number, row in enumerate(objects.tolist(), 1):
            parts, is_traced, has_holes = outline_parts(table, row, side)
            counts.traced += is_traced
            counts.holes += has_holes
            kind, outline = "polygon", parts
            if not parts:
                kind, outline = "rectangle", [boxes[row].reshape(2, 2)]
            tracks = table.extras.get("track_id")
            group = None if tracks is None else int(tracks[row])
            if group is None and len(parts) > 1:
                group = number
            shapes += [_shape(table, row, kind, points, group) for points in outline]
        yield {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": "",
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }


def _shape(
    table: AnnotationTable, row: int, kind: str, points: NDArray[np.float64], group: int | None
) -> dict[str, Any]:
    scores = table.extras.get("score")
    return {
        "label": table.class_names[table.labels[row]],
        "points": points.round(DECIMALS).tolist(),
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        **({} if scores is None else {"score": round(float(scores[row]), 6)}),
    }
