"""What formats with one file per image share: names, the folder of images, and what gets lost."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.checks import clip_boxes
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.files.writing import WriteError, make_folder, reason_of

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


def inside(table: AnnotationTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(A, 4) boxes as xyxy clipped to their images, where the size is known, and (A,) whether they
    have an extent there."""
    sizes = table.sizes[table.image_of]
    known = sizes.min(axis=1, initial=1) > 0
    sizes = np.where(known[:, None], sizes, np.iinfo(np.int32).max)
    boxes = clip_boxes(table.boxes_xywh, sizes)
    return boxes, (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > 0


def count_clipped(
    table: AnnotationTable, boxes: NDArray[np.float64], rows: NDArray[np.int64]
) -> int:
    """How many of the objects `rows` `inside` has changed."""
    whole = table.boxes_xywh.copy()
    whole[:, 2:] += whole[:, :2]
    return int((np.abs(whole - boxes)[rows] > NOTED).any(axis=1).sum())


def lost(table: AnnotationTable, format: str, flags: Sequence[str]) -> list[str]:
    """Lines on flags and further values that a format does not have."""
    lines = []
    for name in flags:
        if count := int(getattr(table, name).sum()):
            lines.append(f"{count} objects lose their mark as {name}: {format} has none")
    for key in table.extras:
        lines.append(f"{key} of {len(table.labels)} objects is left out: {format} has boxes only")
    for key in table.image_extras:
        lines.append(f"{key} of the images is left out: {format} has no such lists")
    return lines
