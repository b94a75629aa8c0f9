"""The objects of a COCO file, by column: what is plainly right is checked all at once."""

from __future__ import annotations

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
    Unusable,
    are_numbers,
    box_of,
    parse_outlines,
)
from resdet.data.detection.readers.columns import Column, OutlineColumns
from resdet.data.detection.readers.source import Source
from resdet.data.detection.table import outline_areas
from resdet.files.findings import DROPPED, DataError, Finding

LARGEST_ID = 2**53
"""Beyond it floats skip whole numbers."""

KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult", "ignore")

ABSENT = {
    "area": "the area of the outline or else of the box (width × height) is taken",
    "iscrowd": "0 (not a crowd) is taken",
    "id": "numbers are given",
    "segmentation": NO_OUTLINE,
}
"""What is done for objects that lack a key; one finding counts them."""


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
        self.image_of, self.boxes = Column(np.int64), Column(np.float64, 4)
        self.labels, self.areas, self.ids = Column(np.int64), Column(np.float64), Column(np.int64)
        self.crowd, self.difficult, self.ignored = (Column(np.bool_) for _ in range(3))
        self.outlines = OutlineColumns()
        self.extras: dict[str, list[NDArray[Any] | int]] = {key: [] for key in source.extras}
        self.absent: dict[str, tuple[str, int]] = {}
        """By key: the first object without it, and how many there are."""

    def read(self, file: CocoFile) -> None:
        keys = [*KEYS, *self.source.extras, *(["segmentation"] if self.source.outlines else [])]
        for chunk in file.chunks("annotations", keys):
            self._add(chunk)
        if not any(self.outlines.kinds.bytes):
            self.absent.pop("segmentation", None)  # a file of boxes
        for key, (first, count) in self.absent.items():
            item = first if count == 1 else f"{first} and {count - 1} more"
            self._find(item, f"without {'a usable ' * (key == 'area')}{key!r}", ABSENT[key])

    def columns(self) -> dict[str, Any]:
        """The fields of `AnnotationTable` that hold objects."""
        ids = self.ids.array()
        order = np.argsort(ids, kind="stable")
        again = order[1:][(ids[order][1:] == ids[order][:-1]) & (ids[order][1:] > 0)]
        for key in ids[np.sort(again)].tolist():
            self._find(f"annotation {key}", "has the id of another annotation", "it is renumbered")
        return {
            "image_of": self.image_of.array(),
            "boxes_xywh": self.boxes.array(),
            "labels": self.labels.array(),
            "areas": self.areas.array(),
            "crowd": self.crowd.array(),
            "difficult": self.difficult.array(),
            "ignored": self.ignored.array(),
            "annotation_ids": unique_ids(ids),
            "outlines": self.outlines.outlines() if self.source.outlines else None,
            "extras": {key: self._joined(key, arrays) for key, arrays in self.extras.items()},
        }

    def _find(self, item: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(self.source.path, item, what, remedy))

    def _report(self, chunk: Chunk, row: int, what: str, remedy: str) -> None:
        self._find(_item(chunk, row), what, remedy)

    def _count_absent(self, chunk: Chunk, key: str, rows: Sequence[int]) -> None:
        if rows:
            first, count = self.absent.get(key, (_item(chunk, rows[0]), 0))
            self.absent[key] = (first, count + len(rows))

    def _add(self, chunk: Chunk) -> None:
        """Checks the columns of a chunk in turn; each check drops objects from the next ones."""
        for key in ("iscrowd", "id"):
            given = chunk.column(key)
            self._count_absent(chunk, key, [i for i, v in enumerate(given) if v is None])
        images = _look_up(self.row_of, chunk.column("image_id"))
        labels = _look_up(self.label_of, chunk.column("category_id"))
        keep = self._drop(
            chunk, images < 0, "image_id", "belongs to image {}, which is not in the file"
        )
        keep &= self._drop(
            chunk,
            keep & (labels < 0),
            "category_id",
            "has category_id {}, which is not among the categories",
        )
        boxes = self._boxes(chunk, keep)
        crowd = chunk.column("iscrowd")
        odd = np.array([value not in (0, 1, None) for value in crowd], bool)
        keep &= self._drop(chunk, keep & odd, "iscrowd", "has iscrowd {}, not 0 or 1")
        rows = np.flatnonzero(keep)
        self.image_of.extend(images[rows])
        self.labels.extend(labels[rows])
        self.boxes.extend(boxes[rows])
        self.ids.extend(self._ids(chunk, rows.tolist()))
        for column, key in (
            (self.crowd, "iscrowd"),
            (self.difficult, "difficult"),
            (self.ignored, "ignore"),
        ):
            column.extend([bool(chunk.records[row].get(key)) for row in rows.tolist()])
        outlines = None
        if self.source.outlines:
            outlines = self._outlines(chunk, rows, images[rows])
            self.outlines.extend(outlines)
        self.areas.extend(self._areas(chunk, rows, images[rows], boxes[rows], outlines))
        for key, arrays in self.extras.items():
            arrays.append(self._extra(key, [chunk.records[row].get(key) for row in rows.tolist()]))

    def _areas(
        self,
        chunk: Chunk,
        rows: NDArray[np.int64],
        images: NDArray[np.int64],
        boxes: NDArray[np.float64],
        outlines: Outlines | None,
    ) -> NDArray[np.float64]:
        """(n,) areas; of the outline, or else the box, where the file has none that is usable."""
        given = [chunk.records[row].get("area") for row in rows.tolist()]
        usable = [isinstance(value, (int, float)) and 0 <= value <= 1e300 for value in given]
        areas = np.array([v if ok else 0 for v, ok in zip(given, usable, strict=True)], np.float64)
        unknown = np.flatnonzero(~np.array(usable, bool))
        if len(unknown):
            self._count_absent(chunk, "area", rows[unknown].tolist())
            if outlines is not None:
                chosen = outlines.select(unknown)
            else:
                chosen = self._outlines(chunk, rows[unknown], images[unknown], silent=True)
            areas[unknown] = boxes[unknown, 2:].prod(axis=1)
            sizes = self.sizes[images[unknown]]
            coded = np.flatnonzero((chosen.kinds != BOX) & (sizes.min(axis=1) > 0))
            areas[unknown[coded]] = outline_areas(chosen.select(coded), sizes[coded])
        return areas

    def _drop(self, chunk: Chunk, bad: NDArray[np.bool_], key: str, what: str) -> NDArray[np.bool_]:
        """Reports the `bad` rows, with their value of `key`; returns the others."""
        for row in np.flatnonzero(bad).tolist():
            value = f"{chunk.records[row].get(key)!r:.60}"
            self._report(chunk, row, what.format(value), DROPPED)
        return ~bad

    def _boxes(self, chunk: Chunk, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(n, 4) xywh; clears `keep` of objects without a usable box, and reports them."""
        given = chunk.column("bbox")
        boxes = np.full((len(given), 4), np.nan)
        whole = [row for row, box in enumerate(given) if type(box) is list and len(box) == 4]
        values = list(chain.from_iterable(given[row] for row in whole))
        if set(map(type, values)) <= {int, float}:
            with suppress(OverflowError):
                boxes[whole] = np.array(values, np.float64).reshape(-1, 4)
        good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
        for row in np.flatnonzero(keep & ~good).tolist():
            try:
                boxes[row] = self._box(chunk, row)
            except Unusable as error:
                self._report(chunk, row, str(error), DROPPED)
                keep[row] = False
        return boxes

    def _box(self, chunk: Chunk, row: int) -> list[float]:
        """One box that needs a closer look.

        Raises:
            Unusable: there is none.
        """
        given = chunk.records[row].get("bbox")
        if given is None:
            size = self.sizes[self.row_of[chunk.records[row]["image_id"]]].tolist()
            box = box_of(chunk.whole(row).get("segmentation"), tuple(size) if min(size) else None)
            if box is None:
                raise Unusable("has no bbox")
            self._report(chunk, row, "has no bbox", "the box of its segmentation is taken")
            return box
        if not are_numbers(given) or len(given) != 4:
            raise Unusable(f"has bbox {given!r:.80}, not four finite numbers x, y, width, height")
        if min(given[2:]) < 0:
            raise Unusable(f"has bbox {given} of negative {'width' if given[2] < 0 else 'height'}")
        return [float(value) for value in given]

    def _ids(self, chunk: Chunk, rows: Sequence[int]) -> list[int]:
        """The objects' ids; 0 for those to be numbered."""
        ids: list[Any] = [chunk.records[row].get("id") for row in rows]
        if set(map(type, ids)) <= {int} and all(0 < key <= LARGEST_ID for key in ids):
            return ids
        return [
            0 if key is None else self._id(chunk, row, key)
            for row, key in zip(rows, ids, strict=True)
        ]

    def _id(self, chunk: Chunk, row: int, key: Any) -> int:
        whole = isinstance(key, (int, float)) and abs(key) <= LARGEST_ID and int(key) == key
        if whole and key > 0:
            return int(key)
        what = "has an id that is not a whole number, or beyond 2^53"
        if whole:
            what = f"has id {key}, not positive: evaluators take a match with it for none"
        self._report(chunk, row, what, "it is renumbered")
        return 0

    def _outlines(
        self,
        chunk: Chunk,
        rows: NDArray[np.int64],
        images: NDArray[np.int64],
        silent: bool = False,
    ) -> Outlines:
        """The outlines of some objects; sizes that only a run-length code gives are kept."""

        def report(index: int, what: str, remedy: str) -> None:
            if not silent:
                self._report(chunk, int(rows[index]), what, remedy)

        whole = chunk.whole if silent else chunk.records.__getitem__
        segmentations = [whole(row).get("segmentation") for row in rows.tolist()]
        if not silent:
            bare = [row for row, each in zip(rows.tolist(), segmentations, strict=True) if not each]
            self._count_absent(chunk, "segmentation", bare)
        outlines, sizes = parse_outlines(segmentations, self.sizes[images], report)
        filled = sizes.min(axis=1, initial=1) > 0
        self.sizes[images[filled]] = sizes[filled]
        return outlines

    def _extra(self, key: str, values: list[Any]) -> NDArray[Any] | int:
        """(n, …) values of one key, 0 where an object has none; n where no object has the key."""
        first = next((value for value in values if value is not None), None)
        if first is None:
            return len(values)
        try:
            empty = np.zeros_like(np.array(first))
            array = np.array([empty if value is None else value for value in values])
        except ValueError:
            array = np.array(None)
        return array

    def _joined(self, key: str, arrays: list[NDArray[Any] | int]) -> NDArray[Any]:
        """The values of all chunks.

        Raises:
            DataError: there are none, or they are not numbers of one shape.
        """
        where = f"{self.source.path}: data.extras"
        shapes = {array.shape[1:]: array.dtype for array in arrays if not isinstance(array, int)}
        if not shapes and any(arrays):
            raise DataError(
                f"{where}: no annotation has the key {key!r}; correct its name or remove it"
            )
        if len(shapes) > 1 or any(dtype.kind not in "biuf" for dtype in shapes.values()):
            raise DataError(
                f"{where}: {key}: its values are not numbers, or not equally many per object; "
                "correct them or remove the key"
            )
        shape = next(iter(shapes), ())
        whole = [np.zeros((a, *shape), np.bool_) if isinstance(a, int) else a for a in arrays]
        return np.concatenate(whole) if whole else np.zeros(0)


def _item(chunk: Chunk, row: int) -> str:
    key = chunk.records[row].get("id")
    return f"annotations[{chunk.first + row}]" if key is None else f"annotation {key!r}"


def _look_up(rows: Mapping[Any, int], keys: Sequence[Any]) -> NDArray[np.int64]:
    """(n,) the value of each key; -1 for those that are not there."""
    try:
        return np.array([rows.get(key, -1) for key in keys], np.int64)
    except TypeError:  # some are lists or objects
        known = [rows.get(key, -1) if isinstance(key, (int, float, str)) else -1 for key in keys]
        return np.array(known, np.int64)
