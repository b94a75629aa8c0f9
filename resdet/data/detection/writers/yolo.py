"""Ultralytics' layout of YOLO: data.yaml, a list of images, labels/NAME.txt, a link to images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    link_images,
    lost,
    objects_of,
    outline_parts,
    write_files,
)
from resdet.ops.outlines import Points

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
    check_sized(table, "YOLO's boxes are fractions")
    counts = Counts()
    texts = label_texts(table, counts)
    names = (f"labels/{stem}.txt" for stem in stems)
    write_files(folder, zip(names, texts, strict=True))
    listed = "".join(map(listed_image, table.file_names))
    yaml = description(table.class_names, part)
    write_files(folder, iter([(f"{part}.txt", listed), ("data.yaml", yaml)]))
    notes = link_images(folder / "images", images)
    numbers = [
        *left_out(table, *inside(table), "YOLO"),
        (counts.traced, "masks become polygons along their pixels"),
        (counts.joined, "outlines of several parts are joined by lines without width"),
        (counts.holes, "masks lose their holes"),
        (
            counts.moved,
            "boxes move by over half a pixel: they become the extent of their polygons",
        ),
    ]
    return notes + counted(numbers) + lost(table, "YOLO", ("difficult", "ignored"))


def description(class_names: Sequence[str], part: str) -> str:
    """The text of data.yaml."""
    names = "".join(f"  {k}: {_quoted(name)}\n" for k, name in enumerate(class_names))
    return f"{part}: {part}.txt\nnc: {len(class_names)}\nnames:\n{names}"


def listed_image(name: str) -> str:
    """The line of an image, whose path is below images/, in the list of a part."""
    return f"./images/{name}\n"


def label_texts(table: AnnotationTable, counts: Counts) -> Iterator[str]:
    """The text of each image's file, of objects that have an extent inside, without crowds."""
    boxes, rows = inside(table)
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
        yield "".join(lines)


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
    parts, is_traced, has_holes = outline_parts(table, row, side)
    counts.traced += is_traced
    counts.holes += has_holes
    if not parts:
        return None
    counts.joined += len(parts) > 1
    whole = parts[0]
    for part in parts[1:]:
        whole = _join(whole, part)
    return whole


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
