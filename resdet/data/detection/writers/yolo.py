"""Ultralytics' layout of YOLO: data.yaml, a list of images, labels/NAME.txt, a link to images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import BOX, POLYGON
from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.writers.layout import (
    check_classes,
    count_clipped,
    image_stems,
    inside,
    link_images,
    lost,
    objects_of,
    write_files,
)
from resdet.errors import UserError
from resdet.ops.outlines import Points, trace_rings

DECIMALS = 8
"""Of fractions: 0.0001 pixels in an image of 10,000."""

MOVED = 0.5
"""Pixels by which a box may differ from the extent of its polygon without a note."""

MOST_PAIRS = 1 << 20
"""Pairs of points that are compared at a time."""


@dataclass
class Counts:
    """Objects that changed."""

    joined: int = 0
    holes: int = 0
    traced: int = 0
    moved: int = 0


def write(
    table: AnnotationTable, folder: Path, images: str | None = None, part: str = "train"
) -> list[str]:
    """Writes data.yaml, PART.txt and one label file per image; outlines become polygons.

    Several parts of an outline are joined by lines without width, as Ultralytics does; run-length
    codes are traced along their pixels. All is clipped to the image. Returns what was left out or
    changed. Raises UserError for an image without a size and names that no file can have.
    """
    stems = image_stems(table)
    check_classes(table)
    unsized = np.flatnonzero(table.sizes.min(axis=1, initial=1) < 1)
    if len(unsized):
        row = int(unsized[0])
        raise UserError(
            f"{table.file_of(row)}: {table.image_name(row)}: YOLO's boxes are fractions, and "
            f"{len(unsized)} images have no width and height; give --images"
        )
    boxes, has_extent = inside(table)
    rows, counts = np.flatnonzero(has_extent & ~table.crowd), Counts()
    write_files(folder, _files(table, stems, boxes, rows, counts))
    listed = "".join(f"./images/{name}\n" for name in table.file_names)
    names = "".join(f"  {k}: {_quoted(n)}\n" for k, n in enumerate(table.class_names))
    yaml = f"{part}: {part}.txt\nnc: {len(table.class_names)}\nnames:\n{names}"
    write_files(folder, iter([(f"{part}.txt", listed), ("data.yaml", yaml)]))
    notes = link_images(folder / "images", images)
    for count, what in (
        (int(table.crowd.sum()), "crowd regions are left out: YOLO has none"),
        (
            int((~has_extent & ~table.crowd).sum()),
            "boxes without extent in the image are left out",
        ),
        (count_clipped(table, boxes, rows), "boxes are clipped to their image"),
        (counts.traced, "masks become polygons along their pixels"),
        (counts.joined, "outlines of several parts are joined by lines without width"),
        (counts.holes, "masks lose their holes"),
        (
            counts.moved,
            "boxes move by over half a pixel: they become the extent of their polygons",
        ),
    ):
        notes += [f"{count} {what}"] if count else []
    return notes + lost(table, "YOLO", ("difficult", "ignored"))


def _files(
    table: AnnotationTable,
    stems: list[str],
    boxes: NDArray[np.float64],
    rows: NDArray[np.int64],
    counts: Counts,
) -> Iterator[tuple[str, str]]:
    """The path and the text of each image's file."""
    for image, objects in enumerate(objects_of(table, rows)):
        height, width = table.sizes[image].tolist()
        side = np.array([width, height], np.float64)
        lines = []
        for row in objects.tolist():
            polygon = _polygon(table, row, side, counts)
            if polygon is None:
                first, last = boxes[row, :2] / side, boxes[row, 2:] / side
                numbers = np.concatenate([(first + last) / 2, last - first])
            else:
                extent = np.concatenate([polygon.min(axis=0), polygon.max(axis=0)])
                counts.moved += bool(np.abs(extent - boxes[row]).max() > MOVED)
                numbers = (polygon / side).reshape(-1)
            lines.append(f"{table.labels[row]} {' '.join(map(_text, numbers.tolist()))}\n")
        yield f"labels/{stems[image]}.txt", "".join(lines)


def _quoted(name: str) -> str:
    """A name as YAML; JSON's escapes of characters beyond 16 bits are others than YAML's."""
    text = json.dumps(name, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)


def _text(number: float) -> str:
    return f"{number:.{DECIMALS}f}".rstrip("0").rstrip(".")


def _polygon(
    table: AnnotationTable, row: int, side: NDArray[np.float64], counts: Counts
) -> Points | None:
    """The outline of an object as one polygon (n, 2) inside its image; None where it has only its
    box, or nothing is left inside."""
    outlines = table.outlines
    if outlines is None or outlines.kinds[row] == BOX:
        return None
    if outlines.kinds[row] == POLYGON:
        parts = [np.asarray(part, np.float64) for part in outlines.polygons(row)]
    else:
        parts, holes = _trace(table, row)
        counts.traced += 1
        counts.holes += holes
    clipped = [np.clip(part, 0, side) for part in parts]
    parts = [part for part in clipped if (part.max(axis=0) > part.min(axis=0)).all()]
    if not parts:
        return None
    counts.joined += len(parts) > 1
    whole = parts[0]
    for part in parts[1:]:
        whole = _join(whole, part)
    return whole


def _trace(table: AnnotationTable, row: int) -> tuple[list[Points], bool]:
    """The outer borders (n, 2) of a run-length code along its pixels, and whether it has holes."""
    outlines = table.outlines
    assert outlines is not None
    code = outlines.rle[outlines.rle_offsets[row] : outlines.rle_offsets[row + 1]].tobytes()
    size = table.sizes[table.image_of[row]].tolist()
    run = {"size": size, "counts": code}
    left, top, width, height = (int(value) for value in coco_mask.toBbox(run))
    mask = coco_mask.decode(run)[top : top + height, left : left + width]
    outer, holes = trace_rings(mask)
    return [np.add(ring, (left, top)) for ring in outer], bool(holes)


def _join(whole: Points, part: Points) -> Points:
    """Two polygons as one, with a line there and back between their closest points."""
    best, here, there = np.inf, 0, 0
    step = max(1, MOST_PAIRS // len(part))
    for first in range(0, len(whole), step):
        distances = ((whole[first : first + step, None] - part[None]) ** 2).sum(axis=2)
        row, column = divmod(int(distances.argmin()), len(part))
        if distances[row, column] < best:
            best, here, there = float(distances[row, column]), first + row, column
    turned = np.roll(part, -there, axis=0)
    return np.concatenate([whole[: here + 1], turned, turned[:1], whole[here:]])
