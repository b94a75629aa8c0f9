"""COCO files as a table: every image and object is checked once, for all users of the table."""

import os
from typing import Any

import numpy as np

from resdet.data.detection.readers.coco_file import CocoFile
from resdet.data.detection.readers.coco_objects import Objects
from resdet.data.detection.table import AnnotationTable, Column, RaggedColumn, Source
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
    if source.classes_only:
        file.lists |= {"images": [], "annotations": []}
    images = _Images(file, categories.label_of, findings)
    sizes = images.sizes.array()
    objects = Objects(source, images.row_of, sizes, categories.label_of, findings).read(file)
    return AnnotationTable(
        files=[source.path],
        class_names=categories.names,
        category_ids=categories.ids,
        image_ids=pack_ids(list(images.row_of)),
        file_of_image=np.zeros(len(sizes), np.int32),
        file_names=pack_names(images.names),
        sizes=sizes,
        image_extras={key: lists.ragged() for key, lists in images.lists.items()},
        class_extras=categories.extras,
        has_annotations="annotations" in file.lists,
        **objects,
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
            # JSON can hold halves of surrogate pairs, which no file is written with
            name = str(entry.get("name") or key).encode("utf-8", "replace").decode()
            self.names.append(f"{name} ({key})" if name in self.names else name)
        repeated = [key for key, after in zip(self.ids, self.ids[1:], strict=False) if key == after]
        if repeated:
            raise DataError(
                f"{file.path}: category ids given more than once: {some(repeated)}; give each "
                "class an id of its own"
            )
        self.label_of = {key: label for label, key in enumerate(self.ids)}
        in_all = all(entry.get("frequency") in ("r", "c", "f") for entry in entries)
        self.extras = {"frequency": [e["frequency"] for e in entries]} if in_all else {}


class _Images:
    """The images of a file; those left out for a fault of their own are reported."""

    def __init__(self, file: CocoFile, label_of: dict[Any, int], findings: list[Finding]) -> None:
        self.row_of: dict[int | str, int] = {}
        """Row by id; ids in the order of rows."""
        self.names: list[str] = []
        self.sizes = Column(np.int32, 2)
        self.lists: dict[str, RaggedColumn] = {}
        for chunk in file.chunks("images", IMAGE_KEYS):
            for row, record in enumerate(chunk.records):
                name, what = _file_name(record), self._fault(record)
                for key in IMAGE_LISTS:
                    if not isinstance(record.get(key) or [], list):
                        odd = f"has {key} {record[key]!r:.60}, not a list"
                        findings.append(Finding(file.path, chunk.item(row), odd, "none are taken"))
                        record = {**record, key: None}
                if what is None:
                    self._add(record, name, label_of)
                else:
                    item = f"{chunk.item(row)} ({name})" if name else chunk.item(row)
                    findings.append(Finding(file.path, item, what, DROPPED))

    def _fault(self, record: dict[str, Any]) -> str | None:
        key = record.get("id")
        if not isinstance(key, (int, str)) and not (isinstance(key, float) and key.is_integer()):
            return "has no id (whole number or text)"
        return "has the id of another image" if key in self.row_of else None

    def _add(self, record: dict[str, Any], name: str, label_of: dict[Any, int]) -> None:
        key, row = record["id"], len(self.row_of)
        self.row_of[key if type(key) is str else int(key)] = row
        self.names.append(name)
        self.sizes.extend([_side(record.get("height")), _side(record.get("width"))])
        for list_key in IMAGE_LISTS:
            if not row and list_key in record:
                self.lists[list_key] = RaggedColumn(np.int64)
            if list_key in self.lists:
                given = [i for i in record.get(list_key) or [] if type(i) is int]
                labels = [label_of[i] for i in given if i in label_of]
                self.lists[list_key].extend(labels, [len(labels)])


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
