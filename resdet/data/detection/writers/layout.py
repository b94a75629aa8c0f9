"""What formats with one file per image share: names, the folder of images, and what gets lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.checks import clip_boxes
from resdet.data.detection.outlines import BOX, POLYGON
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.files.writing import WriteError, make_folder, reason_of
from resdet.ops.outlines import Points, trace_rings

CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that lists and XML files can't hold in names."""


NOTED = 0.01
"""Pixels; smaller changes of a box are those of decimals, and not worth a note."""


def image_stems(table: AnnotationTable) -> list[str]:
    """The names of all images without their suffixes, which name the files of annotations.

    Raises:
        UserError: two images have the same, or a name is not a path below a folder.
    """
    row_of: dict[str, int] = {}
    for row, name in enumerate(table.file_names):
        what = None
        if not name or name.startswith("/") or ".." in name.split("/") or CONTROLS.search(name):
            what = "has no file name below a folder that the format can hold; correct its file_name"
        stem = name.rpartition(".")[0] or name
        first = row_of.setdefault(stem, row)
        if what is None and first != row:
            other = table.image_name(first)
            what = f"would have the same annotation file as {other}; rename one of them"
        if what is not None:
            raise UserError(f"{table.file_of(row)}: {table.image_name(row)}: {what}")
    return list(row_of)


def check_classes(table: AnnotationTable) -> None:
    """UserError for names of classes that text files can't hold."""
    for name in table.class_names:
        if CONTROLS.search(name) or name != name.strip() or not name:
            raise UserError(
                f"{table.source}: class {name!r}: the format can't hold this name; rename the class"
            )


def check_sized(table: AnnotationTable, why: str) -> None:
    """UserError for images without a size, and why the format needs them."""
    unsized = np.flatnonzero(table.sizes.min(axis=1, initial=1) < 1)
    if len(unsized):
        row = int(unsized[0])
        raise UserError(
            f"{table.file_of(row)}: {table.image_name(row)}: {why}, and {len(unsized)} images have "
            "no width and height; give --images"
        )


def counted(numbers: Sequence[tuple[int, str]]) -> list[str]:
    """A line for each number that is not 0, and what it counts."""
    return [f"{number} {what}" for number, what in numbers if number]


def link_images(link: Path, images: str | None) -> list[str]:
    """A link to the folder of images where tools look for them; a note where it can't be made."""
    if images is None:
        return []
    make_folder(link.parent)
    try:
        link.symlink_to(os.path.relpath(images, link.parent), target_is_directory=True)
    except OSError as error:  # as on Windows without the right to
        reason = reason_of(error)
        return [f"{link} could not be linked to {images} ({reason}); copy the images there"]
    return []


def write_files(folder: Path, files: Iterator[tuple[str, str]]) -> None:
    """Many small text files, by their paths below a new folder. Raises WriteError."""
    made: set[Path] = set()
    for name, text in files:
        path = folder / name
        if path.parent not in made:
            make_folder(path.parent)
            made.add(path.parent)
        try:
            path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
        except OSError as error:
            raise WriteError(path, error) from error


def objects_of(table: AnnotationTable, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The objects among `rows` of each image, in their order."""
    order = rows[np.argsort(table.image_of[rows], kind="stable")]
    counts = np.bincount(table.image_of[rows], minlength=len(table.image_ids))
    return np.split(order, np.cumsum(counts)[:-1])


def inside(table: AnnotationTable) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(A, 4) boxes as xyxy clipped to their images, where the size is known, and the rows of the
    objects that are written: those with an extent there, without crowd regions."""
    sizes = table.sizes[table.image_of]
    known = sizes.min(axis=1, initial=1) > 0
    sizes = np.where(known[:, None], sizes, np.iinfo(np.int32).max)
    boxes = clip_boxes(table.boxes_xywh, sizes)
    has_extent = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > 0
    return boxes, np.flatnonzero(has_extent & ~table.crowd)


def left_out(
    table: AnnotationTable, boxes: NDArray[np.float64], rows: NDArray[np.int64], format: str
) -> list[tuple[int, str]]:
    """Numbers for `counted`, of what `inside` has left out and changed."""
    crowd = int(table.crowd.sum())
    whole = table.boxes_xywh.copy()
    whole[:, 2:] += whole[:, :2]
    clipped = int((np.abs(whole - boxes)[rows] > NOTED).any(axis=1).sum())
    return [
        (crowd, f"crowd regions are left out: {format} has none"),
        (len(boxes) - crowd - len(rows), "boxes without extent in the image are left out"),
        (clipped, "boxes are clipped to their image"),
    ]


def outline_parts(
    table: AnnotationTable, row: int, side: NDArray[np.float64]
) -> tuple[list[Points], bool, bool]:
    """The outline of an object as polygons (n, 2) clipped to its image of `side` (width, height);
    whether it was traced along the pixels of a mask, and whether it had holes, which are filled.

    Without polygons where the object has only its box, or nothing is left inside.
    """
    outlines = table.outlines
    if outlines is None or outlines.kinds[row] == BOX:
        return [], False, False
    is_traced, has_holes = outlines.kinds[row] != POLYGON, False
    if is_traced:
        parts, has_holes = trace(table, row)
    else:
        parts = [np.asarray(part, np.float64) for part in outlines.polygons(row)]
    clipped = [np.clip(part, 0, side) for part in parts]
    inner = [part for part in clipped if (part.max(axis=0) > part.min(axis=0)).all()]
    return inner, is_traced, has_holes


def trace(table: AnnotationTable, row: int) -> tuple[list[Points], bool]:
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


def lost(table: AnnotationTable, format: str, flags: Sequence[str]) -> list[str]:
    """Lines on flags and further values that a format does not have."""
    lines = []
    for name in flags:
        if count := int(getattr(table, name).sum()):
            lines.append(f"{count} objects lose their mark as {name}: {format} has none")
    for key in table.extras:
        lines.append(
            f"{key} of {len(table.labels)} objects is left out: {format} has no such values"
        )
    for key in table.image_extras:
        lines.append(f"{key} of the images is left out: {format} has no such lists")
    return lines
