"""Which image files, objects and outlines of a table can be used for training."""

import logging
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.file_names import ImageFolder
from resdet.data.detection.outlines import BOX, POLYGON
from resdet.data.detection.table import AnnotationTable
from resdet.data.fingerprint import hash_names
from resdet.data.looks import Looks, look_at, look_at_all, measure
from resdet.data.names import Names, pack_names
from resdet.errors import first_few
from resdet.files.findings import DROPPED, SHOWN, DataError, Finding
from resdet.files.image_header import read_header
from resdet.files.images import (
    image_problems,
    open_image,
    read_size,
    read_sizes,
    size_problem,
    unread,
)
from resdet.files.regular import open_regular
from resdet.files.windows import open_windows, overview

logger = logging.getLogger("resdet")

HEADERS_AT_START = 20_000
"""Larger sets are trusted until a file is read: 118,000 headers on a cold disk take minutes."""

RENAMED = "this file is taken; correct the file_name"
MISSING = "it is left out; add the file, correct its name or remove the image"
BAD_IMAGE = "it is left out; replace the file, or correct its width and height"
NOT_TRAINED = "it is left out of training; fix or remove it"
CLIPPED = "it is clipped to the image for training"
MASK_FROM_BOX = "training takes its box as its mask"

START_BYTES = 1 << 24
"""Of a file that is too large to be in memory, these stand for its content."""
SEEN_PIXELS = 1 << 22
"""Of the overview of such an image at which it is looked."""

CLIP_TOLERANCE = 1.0
"""Boxes that pass the image's border by no more pixels than this are clipped without a finding."""


def leave_out(table: AnnotationTable, names: NDArray[np.int64] | None) -> AnnotationTable:
    """The images but those that a run left out at its start, by `hash_names`: it continues without
    them where they have been repaired since."""
    if names is None or not len(names):
        return table
    out = np.isin(hash_names(table.file_names), names)
    if out.any():
        logger.info(
            "%s: %d image(s) were left out when this run started, and stay so (%s); a new run "
            "takes those that have been repaired",
            table.source,
            int(out.sum()),
            first_few([table.image_name(row) for row in np.flatnonzero(out).tolist()], SHOWN),
        )
    return table.select_images(~out)


def check_presence(
    table: AnnotationTable, folders: Sequence[str], findings: list[Finding]
) -> AnnotationTable:
    """The images that are in the folder of their file, by the names that they have there; sizes
    that a file lacks are read from them.

    `folders` has one folder per annotation file.
    """
    places = {folder: ImageFolder(folder) for folder in folders}
    of_file = [places[folder] for folder in folders]
    rows = enumerate(zip(table.file_of_image.tolist(), table.file_names, strict=True))
    absent = [row for row, (file, name) in rows if not of_file[file].has(name)]
    keep = np.ones(len(table.image_ids), bool)
    names, alone = _locate(table, absent, of_file) if absent else (table.file_names, set())
    for row in absent:
        file, name = int(table.file_of_image[row]), table.file_names[row]
        place = of_file[file]
        what, remedy = f"is {names[row]} in {place.folder}", RENAMED
        keep[row] = (file, names[row]) in alone
        if not name:
            what, remedy = "has no file_name that a file can have", DROPPED
        elif not keep[row]:
            near = names[row] or place.near(name)
            what = f"has no file in {place.folder}{f' (but {near})' if near else ''}"
            remedy = MISSING
        findings.append(Finding(table.file_of(row), table.image_name(row), what, remedy))
    table = replace(table, file_names=names).select_images(keep)
    unsized = np.flatnonzero((table.sizes == 0).any(axis=1))
    return _read_sizes(table, unsized, folders, findings) if len(unsized) else table


def _locate(
    table: AnnotationTable, absent: Sequence[int], of_file: Sequence[ImageFolder]
) -> tuple[Names, set[tuple[int, str]]]:
    """The names of all images, those of `absent` as they are in their folders or else empty; and
    those names, with their annotation file, that one image of it alone has."""
    names = list(table.file_names)
    for row in absent:
        place = of_file[int(table.file_of_image[row])]
        names[row] = place.locate(names[row]) or ""
    counts = Counter(zip(table.file_of_image.tolist(), names, strict=True))
    alone = {file for file, count in counts.items() if count == 1 and file[1]}
    return pack_names(names), alone


def _read_sizes(
    table: AnnotationTable,
    rows: NDArray[np.int64],
    folders: Sequence[str],
    findings: list[Finding],
) -> AnnotationTable:
    """The sizes of images `rows` from their files; without those whose files can't be read."""
    sizes, keep = table.sizes.copy(), np.ones(len(table.image_ids), bool)
    for file, folder in enumerate(folders):
        own = rows[table.file_of_image[rows] == file]
        sizes[own] = read_sizes(Path(folder), [table.file_names[row] for row in own.tolist()])
    for row in rows.tolist():
        what, remedy = "has no height and width", "they are read from the file"
        if not sizes[row].all():
            place = Path(folders[int(table.file_of_image[row])])
            what, remedy, keep[row] = _why_unread(place / table.file_names[row]), BAD_IMAGE, False
        findings.append(Finding(table.file_of(row), table.image_name(row), what, remedy))
    return replace(table, sizes=sizes).select_images(keep)


def _why_unread(path: Path) -> str:
    """What is wrong with an image file whose size can't be read."""
    try:
        read_size(path, sys.maxsize)
    except DataError as error:
        return unread(error, str(path))
    return "could not be read at first"


def check_images(
    table: AnnotationTable,
    folders: Sequence[str],
    findings: list[Finding],
    *,
    decode_all: bool,
    max_pixels: int,
    by_windows: bool = False,
) -> tuple[AnnotationTable, Looks | None]:
    """The images that can be read, have at most `max_pixels` and the size that is annotated; and
    their looks, if they were decoded.

    Reads the headers, of sets of at most `HEADERS_AT_START` images and unless their reader did;
    every pixel with `decode_all`. `by_windows`: files that can be read window by window may have
    any number of pixels.
    """
    count = len(table.image_ids)
    if not decode_all and count > HEADERS_AT_START:
        return table, None
    rows = np.arange(count)
    if table.measured is not None and not decode_all:
        is_large = table.sizes.prod(axis=1, dtype=np.int64) > max_pixels // 8
        rows = np.flatnonzero(~table.measured | is_large)
    paths = [
        Path(folders[int(table.file_of_image[row])]) / table.file_names[row]
        for row in rows.tolist()
    ]
    sizes = [(height, width) for height, width in table.sizes[rows].tolist()]
    looks = None
    if decode_all:
        looks, bad = _look_at_files(paths, sizes, max_pixels, table.source, by_windows=by_windows)
    else:
        bad = image_problems(paths, sizes, max_pixels, by_windows=by_windows)
    keep = np.ones(count, bool)
    for place, what in bad.items():
        row = int(rows[place])
        item = f"image {table.image_ids[row]!r} ({paths[place]})"
        findings.append(Finding(table.file_of(row), item, what, BAD_IMAGE))
        keep[row] = False
    return table.select_images(keep), None if looks is None else looks[keep]


def _look_at_files(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    max_pixels: int,
    where: str,
    *,
    by_windows: bool,
) -> tuple[Looks, dict[int, str]]:
    """Looks of image files, and what is wrong with each bad one, as `image_problems`."""

    def look(row: int) -> tuple[Any, str | None]:
        try:
            if by_windows and math.prod(sizes[row]) > max_pixels:
                with open_regular(paths[row]) as file:
                    header = read_header(file, max_pixels, by_windows=True)
                    file.seek(0)
                    start = file.read(START_BYTES)
                found = measure(overview(open_windows(paths[row], max_pixels), SEEN_PIXELS), start)
                found["height"], found["width"] = header.size
                return found, size_problem(header, sizes[row])
            image = open_image(paths[row], max_pixels)
            found = look_at(image)
        except DataError as error:
            return None, unread(error, str(paths[row]))
        return found, size_problem(image.header, sizes[row])

    return look_at_all(len(paths), look, where)


def find_targets(
    table: AnnotationTable, findings: list[Finding], *, masks: bool, keep_difficult: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """All objects but crowd regions and those without a box inside their image; and without
    `keep_difficult` not those that are marked as difficult.

    Returns:
        Their T rows in the table, ordered by image and then as in the file, and (A,) kinds of the
        table's outlines, BOX where an outline has no part in its box.
    """
    boxes = clip_boxes(table.boxes_xywh, table.sizes[table.image_of])
    objects = ~table.crowd if keep_difficult else ~(table.crowd | table.difficult)
    sides = table.boxes_xywh[:, 2:]
    flat = objects & (sides <= 0).any(axis=1)
    outside = objects & ~flat & (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    whole = table.boxes_xywh.copy()
    whole[:, 2:] += whole[:, :2]
    past = objects & ~flat & ~outside & (np.abs(whole - boxes) > CLIP_TOLERANCE).any(axis=1)
    for row in np.flatnonzero(flat | outside | past).tolist():
        height, width = table.sizes[table.image_of[row]].tolist()
        box = [int(v) if v.is_integer() else round(v, 3) for v in table.boxes_xywh[row].tolist()]
        what = f"has bbox {box} without {'width' if box[2] <= 0 else 'height'}"
        if not flat[row]:
            place = "outside" if outside[row] else "past"
            what = f"has bbox {box} {place} its image of {width}×{height}"
        _find(table, findings, row, what, CLIPPED if past[row] else NOT_TRAINED)
    rows = np.flatnonzero(objects & ~flat & ~outside)
    rows = rows[np.argsort(table.image_of[rows], kind="stable")]
    kinds = np.zeros(len(boxes), np.uint8)
    if masks and table.outlines is not None:
        kinds = table.outlines.kinds.copy()
        for row in np.intersect1d(_polygons_off_box(table, boxes), rows).tolist():
            kinds[row] = BOX
            _find(table, findings, row, "has polygons that do not touch its bbox", MASK_FROM_BOX)
    return rows, kinds


def clip_boxes(boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n, 4) boxes as xyxy inside images of (n, 2) or (1, 2) sizes."""
    first, last = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    return np.concatenate([np.maximum(first, 0.0), np.minimum(last, sizes[:, ::-1])], axis=1)


def _find(
    table: AnnotationTable, findings: list[Finding], row: int, what: str, remedy: str
) -> None:
    file = table.file_of(int(table.image_of[row]))
    findings.append(Finding(file, f"annotation {table.annotation_ids[row]}", what, remedy))


def _polygons_off_box(table: AnnotationTable, boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of polygons whose extent does not overlap their box (A, 4) xyxy, in float32."""
    outlines = table.outlines
    assert outlines is not None
    rows = np.flatnonzero(outlines.kinds == POLYGON)
    if not len(rows):
        return rows
    starts = outlines.point_offsets[outlines.part_offsets[rows]]
    low = np.minimum.reduceat(outlines.points, starts, axis=0).astype(np.float32)
    high = np.maximum.reduceat(outlines.points, starts, axis=0).astype(np.float32)
    near = boxes[rows].astype(np.float32)
    return rows[((low >= near[:, 2:]) | (high <= near[:, :2])).any(axis=1)]
