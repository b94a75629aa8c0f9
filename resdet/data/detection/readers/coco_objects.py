"""The objects of a COCO file, by column: valid values are checked all at once."""

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.merge import unique_ids
from resdet.data.detection.outlines import BOX, Outlines
from resdet.data.detection.readers.coco_file import Chunk, CocoFile
from resdet.data.detection.readers.coco_segmentation import (
    NO_OUTLINE,
    box_of,
    is_missing,
    parse_outlines,
)
from resdet.data.detection.table import Column, OutlineColumns, Source, join_extras, outline_areas
from resdet.data.ids import IdRows
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.json import LARGEST_WHOLE, shown, to_numbers, whole_number

LARGEST = 1e9
"""Pixels; larger coordinates are mistakes, which float32 need not hold."""

KEYS = (
    *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult", "ignore"),
    "attributes",
)

OTHER_FORM = "ids that are equal as numbers are taken for the same"

NOTES = {
    "id": (
        "without a usable 'id'",
        "renumbered, as evaluators take a match with id 0 for none",
    ),
    "iscrowd": ("without a usable 'iscrowd'", "0 (not a crowd) is taken"),
    "area": (
        "without a usable 'area'",
        "the area of the outline, or else of the box (width × height), is taken",
    ),
    "impossible": (
        "with an 'area' that is negative, not finite or above its image's",
        "the area of the box (width × height) is taken",
    ),
    "segmentation": ("without a usable 'segmentation'", NO_OUTLINE),
    "rotation": (
        "with a 'rotation' in the 'attributes' (CVAT), which 'bbox' leaves out",
        "the box is used as it was before it was turned; export polygons, or upright boxes around "
        "the turned ones",
    ),
    "image_id": (
        "whose 'image_id' is an image's id as a number only, as \"1\" or 1.0 is 1",
        OTHER_FORM,
    ),
    "category_id": (
        "whose 'category_id' is a category's id as a number only, as \"1\" or 1.0 is 1",
        OTHER_FORM,
    ),
}
"""What one finding counts for a whole file, and what is done about it."""

BAD_BOX = "has bbox {}, not four finite numbers x, y, width, height, the sizes not negative"
NO_FLAG = "0 is taken"
FLAGS: dict[Any, int] = {0: 0, 1: 1, None: 0, "0": 0, "1": 1}
"""What stands for 0 and 1; true, false and 1.0 are equal to them."""


class Objects:
    """The objects of a file as columns.

    Args:
        rows: of the images, by id; sizes: (N, 2) height, width of the images, 0 where unknown,
            which run-length codes fill in.
        labels: by category id.
        findings: gets what is left out or repaired.
    """

    def __init__(
        self,
        source: Source,
        rows: IdRows,
        sizes: NDArray[np.int32],
        labels: IdRows,
        findings: list[Finding],
    ) -> None:
        self.source, self.findings = source, findings
        self.rows, self.sizes, self.labels = rows, sizes, labels
        self.columns = {
            "image_of": Column(np.int64),
            "boxes_xywh": Column(np.float64, 4),
            "labels": Column(np.int64),
            "areas": Column(np.float64),
            "annotation_ids": Column(np.int64),
            **{key: Column(np.bool_) for key in ("crowd", "difficult", "ignored")},
        }
        self.outlines = OutlineColumns()
        self.extras: dict[str, list[NDArray[Any]]] = {key: [] for key in source.extras}
        self.noted: dict[str, tuple[str, int]] = {}
        """By key of `NOTES`: the first object, and how many there are."""
        self.count = 0
        self.unknown_categories: set[int | None] = set()

    def read(self, file: CocoFile) -> dict[str, Any]:
        """The fields of `AnnotationTable` that hold objects."""
        keys = [*KEYS, *self.source.extras, *(["segmentation"] if self.source.outlines else [])]
        for chunk in file.chunks("annotations", keys):
            self._add(chunk)
        if self.noted.get("id") == ("annotation 0", 1):  # ids that count from 0, as Roboflow's
            del self.noted["id"]
        for key, (first, count) in self.noted.items():
            # Files of boxes have no segmentation, and LVIS has no crowds.
            if key not in ("iscrowd", "segmentation") or count < self.count:
                item = first if count == 1 else f"{first} and {count - 1} more"
                self._find(item, *NOTES[key])
        fields = {key: column.array() for key, column in self.columns.items()}
        self._check_shift(set(np.unique(fields["labels"]).tolist()))
        ids = np.sort(fields["annotation_ids"])
        for key in np.unique(ids[1:][(ids[1:] == ids[:-1]) & (ids[1:] > 0)]).tolist():
            self._find(f"annotation {key}", "has the id of another annotation", "it is renumbered")
        fields["annotation_ids"] = unique_ids(fields["annotation_ids"])
        outlines = self.outlines.outlines() if self.source.outlines else None
        extras = {k: join_extras(v, k, self.source.path) for k, v in self.extras.items()}
        return {**fields, "outlines": outlines, "extras": extras}

    def _check_shift(self, used: set[int]) -> None:
        """A finding where objects look as if they counted the categories from one less, or more;
        `used` are the labels that objects have."""
        ids = sorted(self.labels.row_of)
        for unknown, unused in ((ids[0] - 1, ids[-1]), (ids[-1] + 1, ids[0])):
            is_shifted = self.unknown_categories == {unknown} and len(ids) > 1
            if is_shifted and self.labels.row_of[unused] not in used:
                what = f"is none, and no object has {unused}: the ids of objects look shifted by 1"
                remedy = "objects may be of the class beside their own; make the ids agree"
                self._find(f"category_id {unknown}", what, remedy)

    def _find(self, item: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(self.source.path, item, what, remedy))

    def _note(self, key: str, chunk: Chunk, marked: NDArray[np.bool_]) -> None:
        """Counts the objects of a chunk where `marked` is true."""
        if marked.any():
            first, count = self.noted.get(key, (chunk.item(int(marked.argmax())), 0))
            self.noted[key] = (first, count + int(marked.sum()))

    def _add(self, chunk: Chunk) -> None:
        """Adds the usable objects of a chunk."""
        chunk, fields = self._usable(chunk)
        images, boxes, crowd = fields["image_of"], fields["boxes_xywh"], chunk.column("iscrowd")
        ids, areas = _ids(chunk.column("id")), self._areas(chunk, images, boxes)
        unknown, bare = np.isnan(areas), np.zeros(len(areas), bool)
        areas[unknown] = boxes[unknown, 2:].prod(axis=1)
        if self.source.outlines:
            segmentations = chunk.column("segmentation")
            bare = np.array(list(map(is_missing, segmentations)), bool)
            outlines = self._outlines(chunk, segmentations, images)
            self.outlines.extend(outlines)
            sizes = self.sizes[images]
            drawn = np.flatnonzero(unknown & (outlines.kinds != BOX) & (sizes.min(axis=1) > 0))
            areas[drawn] = outline_areas(outlines.select(drawn), sizes[drawn])
        fields |= {
            "areas": areas,
            "annotation_ids": ids,
            "crowd": np.array(list(map(FLAGS.__getitem__, crowd)), bool),
            "difficult": self._flags(chunk, "difficult"),
            "ignored": self._flags(chunk, "ignore"),
        }
        for name, values in fields.items():
            self.columns[name].extend(values)
        for key, arrays in self.extras.items():
            arrays.append(self._numbers(key, chunk.column(key)))
        for key, absent in (
            ("id", ids == 0),
            ("iscrowd", [value is None for value in crowd]),
            ("area", unknown),
            ("segmentation", bare),
            ("rotation", list(map(_is_turned, chunk.column("attributes")))),
        ):
            self._note(key, chunk, np.array(absent, bool))
        self.count += len(ids)

    def _usable(self, chunk: Chunk) -> tuple[Chunk, dict[str, NDArray[Any]]]:
        """The objects with a known image and category and a box, and these; reports the others."""
        images, labels = (
            self._look_up(rows, chunk, key)
            for rows, key in ((self.rows, "image_id"), (self.labels, "category_id"))
        )
        boxes = self._boxes(chunk, images)
        odd = ~_are_flags(chunk.column("iscrowd"))
        keep = np.ones(len(odd), bool)
        for bad, key, what in (
            (images < 0, "image_id", "belongs to image {}, which is not in the file"),
            (labels < 0, "category_id", "has category_id {}, which is not among the categories"),
            (np.isnan(boxes[:, 0]), "bbox", BAD_BOX),
            (odd, "iscrowd", "has iscrowd {}, not 0 or 1"),
        ):
            for row in np.flatnonzero(keep & bad).tolist():
                value = chunk.records[row].get(key)
                if key == "category_id":
                    self.unknown_categories.add(whole_number(value))
                self._find(chunk.item(row), what.format(shown(value)), DROPPED)
            keep &= ~bad
        rows = np.flatnonzero(keep)
        fields = {"image_of": images[rows], "labels": labels[rows], "boxes_xywh": boxes[rows]}
        return chunk if keep.all() else chunk.select(rows.tolist()), fields

    def _look_up(self, rows: IdRows, chunk: Chunk, key: str) -> NDArray[np.int64]:
        """(n,) the row of each object's id; -1 for those that are not there."""
        found, other = rows.find(chunk.column(key))
        self._note(key, chunk, other)
        return found

    def _areas(
        self, chunk: Chunk, images: NDArray[np.int64], boxes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n,) areas; NaN for those that the file does not have. An area that no object has becomes
        the box's, since evaluation would leave the object out by it."""
        given = chunk.column("area")
        areas, of_box = _floats(given), boxes[:, 2:].prod(axis=1)
        pixels = self.sizes[images].prod(axis=1, dtype=np.float64)
        limit = np.where(pixels > 0, pixels, LARGEST**2)
        impossible = ~((areas >= 0) & (areas <= limit)) & (areas != of_box)
        if impossible.any():
            impossible &= [type(value) in (int, float) for value in given]
            areas[impossible] = of_box[impossible]
            self._note("impossible", chunk, impossible)
        return areas

    def _flags(self, chunk: Chunk, key: str) -> NDArray[np.bool_]:
        """(n,) a key that is 0 or 1."""
        given = chunk.column(key)
        if set(map(type, given)) == {type(None)}:
            return np.zeros(len(given), bool)
        usable = _are_flags(given)
        for row in np.flatnonzero(~usable).tolist():
            self._find(chunk.item(row), f"has {key} {shown(given[row])}, not 0 or 1", NO_FLAG)
        pairs = zip(given, usable.tolist(), strict=True)
        return np.array([FLAGS[value] if is_flag else 0 for value, is_flag in pairs], bool)

    def _boxes(self, chunk: Chunk, images: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 4) xywh, NaN for those that are unusable; missing ones are those of the outline."""
        given = chunk.column("bbox")
        boxes = np.full((len(given), 4), np.nan)
        whole = [row for row, box in enumerate(given) if type(box) is list and len(box) == 4]
        values = list(chain.from_iterable(given[row] for row in whole))
        if set(map(type, values)) <= {int, float}:
            boxes[whole] = _floats(values).reshape(-1, 4)
        for row in np.flatnonzero(np.isnan(boxes).any(axis=1) & (images >= 0)).tolist():
            box = given[row]
            if is_missing(box):
                box = box_of(chunk.value(row, "segmentation"), self.sizes[images[row]])
                if box is not None:
                    remedy = "the box of its segmentation is taken"
                    self._find(chunk.item(row), "has no bbox", remedy)
            numbers = to_numbers(box)
            boxes[row] = numbers if len(numbers) == 4 else np.nan
        bad = ~(np.abs(boxes) <= LARGEST).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
        boxes[bad] = np.nan
        return boxes

    def _outlines(
        self, chunk: Chunk, segmentations: Sequence[Any], images: NDArray[np.int64]
    ) -> Outlines:
        """The outlines; sizes of images that only a run-length code gives are kept."""

        def report(row: int, what: str, remedy: str) -> None:
            self._find(chunk.item(row), what, remedy)

        sizes = self.sizes[images]
        outlines = parse_outlines(segmentations, sizes, report)
        known = sizes.min(axis=1, initial=1) > 0
        self.sizes[images[known]] = sizes[known]
        return outlines

    def _numbers(self, key: str, values: list[Any]) -> NDArray[Any]:
        """(n, …) values of an extra key, 0 where an object has none; (n, 0) where none has it."""
        first = next((value for value in values if value is not None), None)
        if first is None:
            return np.zeros((len(values), 0), bool)
        try:
            empty = np.zeros_like(np.array(first))
            array = np.array([empty if value is None else value for value in values])
        except ValueError:
            array = np.array(None)
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{self.source.path}: data.extras: {key}: its values are not numbers, or not "
                "equally many per object; correct them or remove the key"
            )
        return array


def _ids(values: Sequence[Any]) -> NDArray[np.int64]:
    """(n,) ids; 0 for those that are not positive whole numbers."""
    if set(map(type, values)) <= {int} and max(values, default=0) <= LARGEST_WHOLE:
        return np.maximum(np.array([max(value, 0) for value in values], np.int64), 0)
    return np.array([max(whole_number(value) or 0, 0) for value in values], np.int64)


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    """(n,) numbers; infinite for those that no float holds, NaN for what is no number."""
    if set(map(type, values)) <= {int, float}:
        with suppress(OverflowError):
            return np.array(values, np.float64)
    return np.array([_float(value) for value in values], np.float64)


def _float(value: Any) -> float:
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.inf


def _are_flags(values: Sequence[Any]) -> NDArray[np.bool_]:
    """(n,) whether each is one of `FLAGS`."""
    if set(map(type, values)) <= {int, type(None)}:
        return np.array(list(map(FLAGS.__contains__, values)), bool)
    plain = (int, float, str, np.generic, type(None))
    return np.array([isinstance(value, plain) and value in FLAGS for value in values], bool)


def _is_turned(attributes: Any) -> bool:
    """Whether CVAT's attributes of an object have a rotation, in degrees."""
    angle = attributes.get("rotation") if type(attributes) is dict else None
    return isinstance(angle, (int, float)) and angle % 360 != 0
