"""COCO files as a table: every image and object is checked once, for all users of the table."""

import json
import os
from itertools import chain
from typing import Any

import numpy as np

from resdet.data.detection.readers.coco_categories import Categories
from resdet.data.detection.readers.coco_file import AGAIN, Chunk, CocoFile
from resdet.data.detection.readers.coco_objects import Objects
from resdet.data.detection.table import AnnotationTable, Column, RaggedColumn, Source
from resdet.data.ids import IdRows, as_id
from resdet.data.names import pack_ids, pack_names
from resdet.files.findings import DROPPED, Finding
from resdet.files.json import collector_paused, shown, some, whole_number
from resdet.files.rle import MAX_PIXELS, MAX_SIDE

IMAGE_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""LVIS: classes that were looked for and are absent; those of which not every object is marked."""

IMAGE_KEYS = ("id", "file_name", "coco_url", "height", "width", *IMAGE_LISTS)

SHARED = "all of them are left out, with their objects; give each image an id of its own"


@collector_paused()
def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads a COCO file, or COCO's dict; see `resdet.data.detection.readers.READERS`.

    Raises:
        DataError: it is not COCO's layout, or its categories are broken.
    """
    file = CocoFile(source.path, source.data)
    categories = Categories(file, findings)
    if source.classes_only:
        file.lists |= {"images": [], "annotations": []}
    images = _Images(file, categories.rows, findings, source.group_key)
    sizes = images.sizes.array()
    objects = Objects(source, IdRows(images.row_of), sizes, categories.rows, findings).read(file)
    table = AnnotationTable(
        files=[source.path],
        class_names=categories.names,
        category_ids=categories.ids,
        image_ids=pack_ids(images.ids),
        file_of_image=np.zeros(len(sizes), np.int32),
        file_names=pack_names(images.names),
        sizes=sizes,
        groups=None if source.group_key is None else pack_names(images.groups),
        image_extras={key: lists.ragged() for key, lists in images.lists.items()},
        class_extras=categories.extras,
        has_annotations="annotations" in file.lists,
        **objects,
    )
    shared = list(chain.from_iterable(images.shared.values()))
    return table.select_images(~np.isin(np.arange(len(sizes)), shared))


class _Images:
    """The images of a file; those left out for a fault of their own are reported."""

    def __init__(
        self, file: CocoFile, labels: IdRows, findings: list[Finding], group_key: str | None
    ) -> None:
        self.group_key = group_key
        self.groups: list[str] = []
        """By row, as JSON."""
        self.path, self.labels, self.findings = file.path, labels, findings
        self.ids: list[int | str] = []
        """By row; those of `shared` may be repeated."""
        self.row_of: dict[int | str, int] = {}
        """The first row by id."""
        self.shared: dict[int | str, list[int]] = {}
        """The rows of each id that several images have."""
        self.names: list[str] = []
        self.sizes = Column(np.int32, 2)
        self.lists: dict[str, RaggedColumn] = {}
        keys = IMAGE_KEYS if group_key is None else (*IMAGE_KEYS, group_key)
        for chunk in file.chunks("images", keys):
            self._add(chunk)
        for key, rows in self.shared.items():
            files = some([self.names[row] for row in rows], 3)
            self._find(f"image {shown(key)}", f"is the id of {len(rows)} images ({files})", SHARED)

    def _find(self, item: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(self.path, item, what, remedy))

    def _add(self, chunk: Chunk) -> None:
        """Adds the usable images of a chunk."""
        rows, sizes = [], []
        for row, record in enumerate(chunk.records):
            key, name = as_id(record.get("id")), _file_name(record)
            if key is None:
                item = f"{chunk.item(row)} ({name})" if name else chunk.item(row)
                self._find(item, "has no id (whole number or text)", DROPPED)
                continue
            if key in self.row_of and self._repeats(key, name):
                self._find(chunk.item(row), "is listed again", AGAIN)
                continue
            self.row_of.setdefault(key, len(self.ids))
            self.ids.append(key)
            self.names.append(name)
            if self.group_key is not None:
                self.groups.append(json.dumps(record.get(self.group_key), sort_keys=True))
            sizes.append(self._size(chunk, row))
            rows.append(row)
        self.sizes.extend(sizes)
        for key in IMAGE_LISTS:
            if key not in self.lists and any(key in chunk.records[row] for row in rows):
                self.lists[key] = RaggedColumn(np.int64)
                before = len(self.ids) - len(rows)
                self.lists[key].extend([], [0] * before)
            if key in self.lists:
                self._add_lists(key, chunk, rows)

    def _repeats(self, key: int | str, name: str) -> bool:
        """Whether this is the image of that id once more; another one makes the id shared."""
        first = self.row_of[key]
        if name and name == self.names[first]:
            return True
        self.shared.setdefault(key, [first]).append(len(self.ids))
        return False

    def _size(self, chunk: Chunk, row: int) -> tuple[int, int]:
        """(height, width); 0 where there is none that an image can have."""
        record = chunk.records[row]
        given = record.get("height"), record.get("width")
        height, width = map(_side, given)
        if height and width and height * width <= MAX_PIXELS:
            return height, width
        if any(side is not None and side != 0 for side in given):
            what = f"has height {shown(given[0])} and width {shown(given[1])}"
            self._find(chunk.item(row), what, "its size is taken from the image or a mask")
        return 0, 0

    def _add_lists(self, key: str, chunk: Chunk, rows: list[int]) -> None:
        """The labels that images list under a key."""
        lists: list[list[Any]] = []
        for row in rows:
            given = chunk.records[row].get(key) or []
            if not isinstance(given, list):
                what = f"has {key} {shown(given)}, not a list"
                self._find(chunk.item(row), what, "none are taken")
                given = []
            lists.append(given)
        labels, _ = self.labels.find(list(chain.from_iterable(lists)))
        known = np.concatenate([[0], np.cumsum(labels >= 0)])
        bounds = known[np.cumsum([0, *map(len, lists)])]
        self.lists[key].extend(labels[labels >= 0], np.diff(bounds))


def _file_name(record: dict[str, Any]) -> str:
    """The file's name; LVIS gives a URL, whose last folder and name it is. Empty for what no file
    is called."""
    name, url = record.get("file_name"), record.get("coco_url")
    if not isinstance(name, str) and isinstance(url, str):
        name = "/".join(url.split("/")[-2:])
    try:
        return name if isinstance(name, str) and b"\0" not in os.fsencode(name) else ""
    except UnicodeEncodeError:
        return ""


def _side(value: Any) -> int:
    """A side in pixels; 0 for what is none. Fractions are cut off."""
    side = int(value) if isinstance(value, float) and abs(value) < MAX_SIDE else whole_number(value)
    return side if side is not None and 1 <= side <= MAX_SIDE else 0
