"""The objects of a COCO file, by column: valid values are checked all at once."""

from collections.abc import Mapping, Sequence
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
    are_numbers,
    box_of,
    parse_outlines,
)
from resdet.data.detection.table import Column, OutlineColumns, Source, join_extras, outline_areas
from resdet.files.findings import DROPPED, DataError, Finding

LARGEST_ID = 2**53
"""Beyond it floats skip whole numbers."""

KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult", "ignore")

ABSENT = {
    "id": "renumbered, as evaluators take a match with id 0 for none",
    "iscrowd": "0 (not a crowd) is taken",
    "area": "the area of the outline, or else of the box (width × height), is taken",
    "segmentation": NO_OUTLINE,
}
"""What is done for objects without a usable value of a key; one finding counts them."""

BAD_BOX = "has bbox {}, not four finite numbers x, y, width, height, the sizes not negative"


class Objects:
    """The objects of a file as columns.

    Args:
        row_of: image row by id; sizes: (N, 2) height, width of the images, 0 where unknown, which
            run-length codes fill in.
        label_of: label by category id.
        findings: gets what is left out or repaired.
    """

    def __init__(
        self,
        source: Source,
        row_of: Mapping[Any, int],
        sizes: NDArray[np.int32],
        label_of: Mapping[Any, int],
        findings: list[Finding],
    ) -> None:
        self.source, self.findings = source, findings
        self.row_of, self.sizes, self.label_of = row_of, sizes, label_of
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
        self.absent: dict[str, tuple[str, int]] = {}
        """By key: the first object without it, and how many there are."""
        self.count = 0

    def read(self, file: CocoFile) -> dict[str, Any]:
        """The fields of `AnnotationTable` that hold objects."""
        keys = [*KEYS, *self.source.extras, *(["segmentation"] if self.source.outlines else [])]
        for chunk in file.chunks("annotations", keys):
            self._add(chunk)
        for key, (first, count) in self.absent.items():
            # Files of boxes have no segmentation, and LVIS has no crowds.
            if key in ("id", "area") or count < self.count:
                item = first if count == 1 else f"{first} and {count - 1} more"
                self._find(item, f"without a usable {key!r}", ABSENT[key])
        fields = {key: column.array() for key, column in self.columns.items()}
        ids = np.sort(fields["annotation_ids"])
        for key in np.unique(ids[1:][(ids[1:] == ids[:-1]) & (ids[1:] > 0)]).tolist():
            self._find(f"annotation {key}", "has the id of another annotation", "it is renumbered")
        fields["annotation_ids"] = unique_ids(fields["annotation_ids"])
        outlines = self.outlines.outlines() if self.source.outlines else None
        extras = {k: join_extras(v, k, self.source.path) for k, v in self.extras.items()}
        return {**fields, "outlines": outlines, "extras": extras}

    def _find(self, item: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(self.source.path, item, what, remedy))

    def _add(self, chunk: Chunk) -> None:
        """Adds the usable objects of a chunk."""
        chunk, fields = self._usable(chunk)
        images, crowd = fields["image_of"], chunk.column("iscrowd")
        ids, areas = _ids(chunk.column("id")), _areas(chunk.column("area"))
        unknown, bare = np.isnan(areas), np.zeros(len(areas), bool)
        areas[unknown] = fields["boxes_xywh"][unknown, 2:].prod(axis=1)
        if self.source.outlines:
            segmentations = chunk.column("segmentation")
            bare = np.array([not each for each in segmentations], bool)
            outlines = self._outlines(chunk, segmentations, images)
            self.outlines.extend(outlines)
            sizes = self.sizes[images]
            drawn = np.flatnonzero(unknown & (outlines.kinds != BOX) & (sizes.min(axis=1) > 0))
            areas[drawn] = outline_areas(outlines.select(drawn), sizes[drawn])
        fields |= {
            "areas": areas,
            "annotation_ids": ids,
            "crowd": np.array(list(map(bool, crowd)), bool),
            "difficult": np.array(list(map(bool, chunk.column("difficult"))), bool),
            "ignored": np.array(list(map(bool, chunk.column("ignore"))), bool),
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
        ):
            rows = np.flatnonzero(absent)
            if len(rows):
                first, count = self.absent.get(key, (chunk.item(int(rows[0])), 0))
                self.absent[key] = (first, count + len(rows))
        self.count += len(ids)

    def _usable(self, chunk: Chunk) -> tuple[Chunk, dict[str, NDArray[Any]]]:
        """The objects with a known image and category and a box, and these; reports the others."""
        images = _look_up(self.row_of, chunk.column("image_id"))
        labels = _look_up(self.label_of, chunk.column("category_id"))
        boxes = self._boxes(chunk, images)
        odd = np.array([value not in (0, 1, None) for value in chunk.column("iscrowd")], bool)
        keep = np.ones(len(odd), bool)
        for bad, key, what in (
            (images < 0, "image_id", "belongs to image {}, which is not in the file"),
            (labels < 0, "category_id", "has category_id {}, which is not among the categories"),
            (np.isnan(boxes[:, 0]), "bbox", BAD_BOX),
            (odd, "iscrowd", "has iscrowd {}, not 0 or 1"),
        ):
            for row in np.flatnonzero(keep & bad).tolist():
                value = f"{chunk.records[row].get(key)!r:.60}"
                self._find(chunk.item(row), what.format(value), DROPPED)
            keep &= ~bad
        rows = np.flatnonzero(keep)
        fields = {"image_of": images[rows], "labels": labels[rows], "boxes_xywh": boxes[rows]}
        return chunk if keep.all() else chunk.select(rows.tolist()), fields

    def _boxes(self, chunk: Chunk, images: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 4) xywh, NaN for those that are unusable; missing ones are those of the outline."""
        given = chunk.column("bbox")
        boxes = np.full((len(given), 4), np.nan)
        whole = [row for row, box in enumerate(given) if type(box) is list and len(box) == 4]
        values = list(chain.from_iterable(given[row] for row in whole))
        if set(map(type, values)) <= {int, float}:
            with suppress(OverflowError):
                boxes[whole] = np.array(values, np.float64).reshape(-1, 4)
        for row in np.flatnonzero(np.isnan(boxes).any(axis=1) & (images >= 0)).tolist():
            box = given[row]
            if not box:  # null, or an empty list
                box = box_of(chunk.whole(row).get("segmentation"), self.sizes[images[row]])
                if box is not None:
                    remedy = "the box of its segmentation is taken"
                    self._find(chunk.item(row), "has no bbox", remedy)
            boxes[row] = box if are_numbers(box) and len(box) == 4 else np.nan
        boxes[~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)] = np.nan
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
    usable = (type(v) in (int, float) and 0 < v <= LARGEST_ID and v == int(v) for v in values)
    return np.array([v if ok else 0 for v, ok in zip(values, usable, strict=True)], np.int64)


def _areas(values: Sequence[Any]) -> NDArray[np.float64]:
    """(n,) areas; NaN for those that are unusable."""
    return np.array(
        [v if isinstance(v, (int, float)) and 0 <= v <= 1e300 else np.nan for v in values],
        np.float64,
    )


def _look_up(rows: Mapping[Any, int], keys: Sequence[Any]) -> NDArray[np.int64]:
    """(n,) the value of each key; -1 for those that are not there."""
    try:
        return np.array([rows.get(key, -1) for key in keys], np.int64)
    except TypeError:  # some are lists or objects
        known = [rows.get(key, -1) if isinstance(key, (int, float, str)) else -1 for key in keys]
        return np.array(known, np.int64)
