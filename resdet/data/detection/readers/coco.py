"""COCO files as a table: every image and object is checked once, for all who use the table."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from resdet.data.detection.readers.coco_file import CocoFile
from resdet.data.detection.readers.coco_objects import Objects
from resdet.data.detection.readers.columns import Column, RaggedColumn
from resdet.data.detection.readers.source import Source
from resdet.data.detection.table import AnnotationTable, Ragged
from resdet.data.names import pack_ids, pack_names
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.json import collector_paused, some

LARGEST_SIDE = 2**31 - 1
"""Pixels that an int32 holds."""

IMAGE_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""LVIS: classes that were looked for and are absent; those of which not every object is marked."""

IMAGE_KEYS = ("id", "file_name", "coco_url", "height", "width", *IMAGE_LISTS)
CATEGORY_KEYS = ("id", "name", "frequency")


@collector_paused()
def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads a COCO file, or COCO's dict; see `resdet.data.detection.readers.READERS`.

    Raises:
        DataError: it is not COCO's layout, or its categories are broken.
    """
    file = CocoFile(source.path, source.data)
    categories = _Categories(file)
    images = _Images(file.path, categories.label_of, findings)
    if not source.classes_only:
        images.read(file)
    sizes = images.sizes.array()
    objects = Objects(source, images.row_of, sizes, categories.label_of, findings)
    if not source.classes_only:
        objects.read(file)
    return AnnotationTable(
        files=[source.path],
        class_names=categories.names,
        category_ids=categories.ids,
        image_ids=pack_ids(list(images.row_of)),
        file_of_image=np.zeros(len(images.row_of), np.int32),
        file_names=pack_names(images.names),
        sizes=sizes,
        image_extras=images.extras(),
        class_extras=categories.extras,
        has_annotations="annotations" in file,
        **objects.columns(),
    )


class _Categories:
    """Classes by category id; label k is the k-th id in ascending order."""

    def __init__(self, file: CocoFile) -> None:
        entries = [e for chunk in file.chunks("categories", CATEGORY_KEYS) for e in chunk.records]
        for position, entry in enumerate(entries):
            if type(entry.get("id")) is not int:
                raise DataError(
                    f"{file.path}: categories[{position}] needs an id (whole number) and a name, "
                    f"has {entry}"
                )
        if not entries:
            raise DataError(f"{file.path}: has no categories; add {{id, name}} for each class")
        entries.sort(key=lambda entry: entry["id"])
        self.ids: list[int] = [entry["id"] for entry in entries]
        self.names: list[str] = []
        for key, entry in zip(self.ids, entries, strict=True):
            name = str(entry.get("name", key))
            self.names.append(f"{name} ({key})" if name in self.names else name)
        repeated = [key for key, after in zip(self.ids, self.ids[1:], strict=False) if key == after]
        if repeated:
            raise DataError(
                f"{file.path}: category ids given more than once: {some(repeated)}; give each "
                "class an id of its own"
            )
        self.label_of = {key: label for label, key in enumerate(self.ids)}
        in_all = all("frequency" in entry for entry in entries)
        self.extras = {"frequency": [e["frequency"] for e in entries]} if in_all else {}


class _Images:
    """The images of a file, those left out for a fault of their own reported."""

    def __init__(self, path: str, label_of: dict[Any, int], findings: list[Finding]) -> None:
        self.path, self.findings, self.label_of = path, findings, label_of
        self.row_of: dict[int | str, int] = {}
        """Row by id; ids in the order of rows."""
        self.names: list[str] = []
        self.sizes = Column(np.int32, 2)
        self.lists = {key: RaggedColumn(np.int64) for key in IMAGE_LISTS}
        self.listed: set[str] = set()

    def read(self, file: CocoFile) -> None:
        for chunk in file.chunks("images", IMAGE_KEYS):
            sizes = [
                (_side(record.get("height")), _side(record.get("width")))
                for position, record in enumerate(chunk.records, chunk.first)
                if self._add(position, record)
            ]
            self.sizes.extend(sizes)

    def _add(self, position: int, record: dict[str, Any]) -> bool:
        key = record.get("id")
        if type(key) is float and key.is_integer():
            key = int(key)
        name = _file_name(record)
        what = None
        if type(key) is not int and type(key) is not str:
            what = "has no id (whole number or text)"
        elif key in self.row_of:
            what = "has the id of another image"
        if what is not None:
            item = f"image {key!r}" if key is not None else f"images[{position}]"
            item += f" ({name})" if name else ""
            self.findings.append(Finding(self.path, item, what, DROPPED))
            return False
        self.row_of[key] = len(self.row_of)  # type: ignore[index]
        self.names.append(name)
        for list_key, column in self.lists.items():
            ids = record.get(list_key)
            if isinstance(ids, list):
                self.listed.add(list_key)
            labels = [self.label_of[i] for i in ids if i in self.label_of] if ids else []
            column.extend(labels, [len(labels)])
        return True

    def extras(self) -> dict[str, Ragged]:
        return {key: self.lists[key].ragged() for key in IMAGE_LISTS if key in self.listed}


def _file_name(record: dict[str, Any]) -> str:
    """The file's name; LVIS gives a URL, whose last folder and name it is. Empty without one."""
    name, url = record.get("file_name"), record.get("coco_url")
    if not isinstance(name, str) and isinstance(url, str):
        name = "/".join(url.split("/")[-2:])
    try:
        os.fsencode(name or "")
    except (TypeError, UnicodeEncodeError):
        return ""
    return name or ""


def _side(value: Any) -> int:
    usable = isinstance(value, (int, float)) and 1 <= value <= LARGEST_SIDE
    return int(value) if usable else 0
