"""COCO annotations as flat arrays, which workers share; what is wrong is named on the way."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import BOX, POLYGON, RLE, Outlines
from resdet.data.detection.readers.coco_json import Categories, ImageFolder
from resdet.data.detection.readers.segmentation import (
    DROPPED,
    MASK_FROM_BOX,
    Problem,
    Segmentation,
    Unusable,
    parse_box,
    parse_segmentation,
)
from resdet.files.findings import Finding
from resdet.files.rle import CODES_AT_ONCE, has_wrong_total

BOX_REPAIRED, OUTLINE_REPAIRED = 1, 2
"""Bits of `CocoTables.repairs`."""

MISSING = "it is left out; add the file, correct its name or remove the image"

LARGEST_ID = 2**53
"""Beyond it floats skip whole numbers."""

LARGEST_SIDE = 2**31 - 1
"""Pixels that an int32 holds."""

"""Run-length codes checked in one go, which bounds the memory of the check."""


@dataclass
class CocoTables:
    """Every image and annotation that can be used."""

    file_of_image: NDArray[np.int32]
    """(N,) which of the annotation files."""
    image_ids: list[int | str]
    """(N,) unique over the files."""
    image_keys: list[int | str]
    """(N,) the ids that the files give."""
    names: list[str]
    """(N,) file_name of each."""
    sizes: NDArray[np.int32]
    """(N, 2) height, width in pixels."""
    image_of: NDArray[np.int64]
    """(A,) row of the image."""
    boxes: NDArray[np.float32]
    """(A, 4) xyxy pixels, inside the image."""
    labels: NDArray[np.int64]
    """(A,) 0..K-1."""
    crowd: NDArray[np.bool_]
    """(A,)"""
    annotation_ids: NDArray[np.int64]
    """(A,) positive, unique."""
    positions: NDArray[np.int64]
    """(A,) place in the list of its file."""
    repairs: NDArray[np.uint8]
    """(A,) bits: what differs from the file."""
    outlines: Outlines | None
    """Of the A annotations; None where masks are not wanted."""

    def keep_annotations(self, rows: NDArray[np.integer]) -> None:
        """Keeps the annotations `rows`, in that order."""
        self.image_of = self.image_of[rows]
        self.boxes = self.boxes[rows]
        self.labels = self.labels[rows]
        self.crowd = self.crowd[rows]
        self.annotation_ids = self.annotation_ids[rows]
        self.positions = self.positions[rows]
        self.repairs = self.repairs[rows]
        if self.outlines is not None:
            self.outlines = self.outlines.select(rows)

    def keep_images(self, keep: NDArray[np.bool_]) -> None:
        """Keeps the images where `keep` (N,) is true, and their annotations."""
        self.keep_annotations(np.flatnonzero(keep[self.image_of]))
        self.image_of = (np.cumsum(keep) - 1)[self.image_of]
        rows = np.flatnonzero(keep)
        self.file_of_image, self.sizes = self.file_of_image[rows], self.sizes[rows]
        self.image_ids = [self.image_ids[row] for row in rows]
        self.image_keys = [self.image_keys[row] for row in rows]
        self.names = [self.names[row] for row in rows]


class TableBuilder:
    """Collects files one after the other (`add_file`); `finish` gives the tables.

    Args:
        categories: filled with each file's categories before the file is added.
        want_masks: keep outlines too; keep_crowd: of crowd regions as well.
    """

    def __init__(self, categories: Categories, *, want_masks: bool, keep_crowd: bool) -> None:
        self.categories = categories
        self.want_masks = want_masks
        self.keep_crowd = keep_crowd
        self.findings: list[Finding] = []
        self.paths: list[str] = []
        self.other_classes = 0
        self.file_of_image = array("i")
        self.image_ids: list[int | str] = []
        self.image_keys: list[int | str] = []
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.image_of = array("q")
        self.boxes = array("f")
        self.labels = array("q")
        self.crowd = array("b")
        self.annotation_ids = array("q")
        self.positions = array("q")
        self.repairs = array("B")
        self.kinds = array("B")
        self.part_counts = array("q")
        self.point_counts = array("q")
        self.points = array("f")
        self.rle_counts = array("q")
        self.rle = bytearray()
        self._used_ids: set[int] = set()

    def add_file(self, path: str, data: dict[str, Any], folder: ImageFolder) -> None:
        """Adds the images and annotations of one file; what is wrong goes to `findings`."""
        self.paths.append(path)
        images = self._add_images(data["images"], folder)
        labels = self.categories.label_of[len(self.paths) - 1]
        own_ids: set[int] = set()
        missing = {"area": 0, "iscrowd": 0, "id": 0}
        for position, raw in enumerate(data["annotations"]):
            for key in missing:
                if raw.get(key) is None:
                    missing[key] += 1
            try:
                self._add_annotation(position, raw, images, labels, own_ids)
            except Unusable as error:
                self._find(_annotation(position, raw), Problem(str(error), DROPPED))
        remedies = {
            "area": "the area of the outline or of the box is taken for evaluation",
            "iscrowd": "0 is taken",
            "id": "they are numbered for evaluation",
        }
        for key, count in missing.items():
            if count:
                self._find(f"{count} annotation(s)", Problem(f"without {key!r}", remedies[key]))

    def _find(self, item: str, problem: Problem) -> None:
        self.findings.append(Finding(self.paths[-1], item, problem.what, problem.remedy))

    def _add_images(self, entries: list[dict[str, Any]], folder: ImageFolder) -> dict[Any, int]:
        """Adds a file's images; returns rows by the ids of the file, -1 for those left out."""
        taken = set(self.image_ids)
        keys = [entry.get("id") for entry in entries]
        largest = max((k for k in [*taken, *keys] if isinstance(k, int)), default=0)
        rows: dict[Any, int] = {}
        for position, (key, entry) in enumerate(zip(keys, entries, strict=True)):
            size, problem = _check_image(key, entry, folder, rows)
            if problem is not None:
                item = f"image {key!r}" if key is not None else f"images[{position}]"
                name = entry.get("file_name")
                self._find(f"{item} ({name})" if name else item, problem)
            if not isinstance(key, (int, str)):
                continue
            if size is None:
                rows.setdefault(key, -1)
                continue
            rows[key] = len(self.image_ids)
            unique = key
            if key in taken:
                largest += 1
                unique = largest if isinstance(key, int) else f"{self.paths[-1]}:{key}"
            self.image_ids.append(unique)
            self.image_keys.append(key)
            self.file_of_image.append(len(self.paths) - 1)
            self.names.append(entry["file_name"])
            self.sizes.append(size)
        return rows

    def _add_annotation(
        self,
        position: int,
        raw: dict[str, Any],
        images: dict[Any, int],
        labels: dict[int, int],
        own_ids: set[int],
    ) -> None:
        image_id, category = raw.get("image_id"), raw.get("category_id")
        image = images.get(image_id) if isinstance(image_id, (int, float, str)) else None
        if image is None:
            raise Unusable(f"belongs to image {image_id!r}, which is not in the file")
        label = labels.get(category) if isinstance(category, (int, float)) else None  # type: ignore[arg-type]
        if label is None:
            raise Unusable(f"has category_id {category!r}, which is not among the categories")
        if image < 0:
            return
        if label < 0:
            self.other_classes += 1
            return
        height, width = self.sizes[image]
        box, problem = parse_box(raw, height, width)
        repairs = 0
        if problem is not None:
            repairs |= BOX_REPAIRED
            self._find(_annotation(position, raw), problem)
        if raw.get("iscrowd") not in (0, 1, None):
            raise Unusable(f"has iscrowd {raw['iscrowd']!r:.60}, not 0 or 1")
        crowd = bool(raw.get("iscrowd"))
        segmentation = Segmentation()
        if self.want_masks and (self.keep_crowd or not crowd):
            segmentation, problem = parse_segmentation(raw.get("segmentation"), height, width)
            if problem is not None:
                repairs |= OUTLINE_REPAIRED
                self._find(_annotation(position, raw), problem)
        self.image_of.append(image)
        self.boxes.extend(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.annotation_ids.append(self._unique_id(position, raw, own_ids))
        self.positions.append(position)
        self.repairs.append(repairs)
        if self.want_masks:
            self._add_segmentation(segmentation)

    def _add_segmentation(self, segmentation: Segmentation) -> None:
        self.kinds.append(segmentation.kind)
        self.part_counts.append(len(segmentation.polygons))
        for polygon in segmentation.polygons:
            self.point_counts.append(len(polygon) // 2)
            self.points.extend(polygon)
        self.rle_counts.append(len(segmentation.code))
        self.rle += segmentation.code

    def _unique_id(self, position: int, raw: dict[str, Any], own_ids: set[int]) -> int:
        """The annotation's id where evaluators can use it; else 0, to be numbered at the end."""
        given = raw.get("id")
        if given is None:
            return 0
        what = None
        whole = isinstance(given, (int, float)) and abs(given) <= LARGEST_ID
        if not whole or int(given) != given:
            what = "has an id that is not a whole number, or beyond 2^53"
        elif given <= 0:
            what = "has an id that is not positive, which evaluators count as unmatched"
        elif given in own_ids:
            what = "has the id of another annotation"
        if what is not None:
            problem = Problem(what, "it is renumbered for evaluation")
            self._find(_annotation(position, raw), problem)
            return 0
        own_ids.add(int(given))
        if given in self._used_ids:  # another file's: no mistake
            return 0
        self._used_ids.add(int(given))
        return int(given)

    def finish(self) -> CocoTables:
        """The arrays of all files, after the checks that are quicker over all at once."""
        ids = np.array(self.annotation_ids, np.int64)
        unnumbered = np.flatnonzero(ids == 0)
        ids[unnumbered] = np.arange(len(unnumbered)) + max(self._used_ids, default=0) + 1
        tables = CocoTables(
            np.array(self.file_of_image, np.int32),
            self.image_ids,
            self.image_keys,
            self.names,
            np.array(self.sizes, np.int32).reshape(-1, 2),
            np.array(self.image_of, np.int64),
            np.array(self.boxes, np.float32).reshape(-1, 4),
            np.array(self.labels, np.int64),
            np.array(self.crowd, np.bool_),
            ids,
            np.array(self.positions, np.int64),
            np.array(self.repairs, np.uint8),
            self._outlines() if self.want_masks else None,
        )
        if tables.outlines is not None:
            self._check_outlines(tables, tables.outlines)
        return tables

    def _outlines(self) -> Outlines:
        return Outlines(
            np.array(self.kinds, np.uint8),
            _offsets(self.part_counts),
            _offsets(self.point_counts),
            np.array(self.points, np.float32).reshape(-1, 2),
            _offsets(self.rle_counts),
            np.frombuffer(bytes(self.rle), np.uint8),
        )

    def _check_outlines(self, tables: CocoTables, outlines: Outlines) -> None:
        """Run lengths must add up to the image, and polygons must touch their box."""
        size = tables.sizes[tables.image_of].astype(np.int64).prod(axis=1)
        broken = [
            (row, "has an RLE that does not add up to its image's pixels")
            for row in _rows_with_wrong_total(outlines, size).tolist()
        ]
        broken += [
            (row, "has polygons that do not touch its bbox")
            for row in _polygons_off_box(outlines, tables.boxes).tolist()
        ]
        for row, what in broken:
            outlines.kinds[row] = BOX
            tables.repairs[row] |= OUTLINE_REPAIRED
            path = self.paths[tables.file_of_image[tables.image_of[row]]]
            item = f"annotation {tables.annotation_ids[row]}"
            self.findings.append(Finding(path, item, what, MASK_FROM_BOX))


def _check_image(
    key: Any, entry: dict[str, Any], folder: ImageFolder, rows: dict[Any, int]
) -> tuple[tuple[int, int] | None, Problem | None]:
    """The image's (height, width), None where it can't be used, and what is wrong with it."""
    name = entry.get("file_name")
    if not isinstance(key, (int, str)):
        return None, Problem("has no id (whole number or text)", DROPPED)
    if not isinstance(name, str) or not name:
        return None, Problem("has no file_name", DROPPED)
    if key in rows:
        return None, Problem("has the id of another image", DROPPED)
    if not folder.has(name):
        near = folder.near(name)
        other = f" (but {near})" if near else ""
        return None, Problem(f"has no file in {folder.root}{other}", MISSING)
    size = (_side(entry.get("height")), _side(entry.get("width")))
    if min(size) > 0:
        return size, None
    size = folder.size(name)
    if min(size) > 0:
        return size, Problem("has no height and width", "they are read from the file")
    return None, Problem("has no height and width, and its file can't be read", DROPPED)


def _annotation(position: int, raw: dict[str, Any]) -> str:
    key = raw.get("id")
    return f"annotations[{position}]" if key is None else f"annotation {key!r}"


def _side(value: Any) -> int:
    usable = isinstance(value, (int, float)) and 1 <= value <= LARGEST_SIDE
    return int(value) if usable else 0


def _offsets(counts: array[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(np.array(counts, np.int64), out=offsets[1:])
    return offsets


def _rows_with_wrong_total(outlines: Outlines, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of run-length codes whose lengths do not add up to `pixels` (A,), or are negative."""
    coded = np.flatnonzero(outlines.kinds == RLE)
    wrong = [np.zeros(0, np.int64)]
    for first in range(0, len(coded), CODES_AT_ONCE):
        rows = coded[first : first + CODES_AT_ONCE]
        chosen = outlines.select(rows)
        wrong.append(rows[has_wrong_total(chosen.rle, chosen.rle_offsets, pixels[rows])])
    return np.concatenate(wrong)


def _polygons_off_box(outlines: Outlines, boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows of polygons whose extent does not overlap their box; boxes (A, 4) xyxy."""
    rows = np.flatnonzero(outlines.kinds == POLYGON)
    if not len(rows):
        return rows
    starts = outlines.point_offsets[outlines.part_offsets[rows]]
    low = np.minimum.reduceat(outlines.points, starts, axis=0)
    high = np.maximum.reduceat(outlines.points, starts, axis=0)
    apart = (low >= boxes[rows, 2:]) | (high <= boxes[rows, :2])
    return rows[apart.any(axis=1)]
