"""COCO files in chunks, so that the records of a large file are never in memory at once."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from resdet.files.findings import DataError
from resdet.files.json import read_json, shown

CHUNK = 8192
"""Records decoded at a time."""

LISTS = ("images", "categories", "annotations")

LAYOUT = "COCO needs lists of images, annotations and categories"

AGAIN = "it is read once; remove the other entry"
"""The remedy for an image or category that is listed twice."""

OTHER_TOOLS = (
    ("Label Studio's own JSON", {"data", "annotations"}),
    ("Label Studio's own JSON", {"data", "completions"}),
    ("Label Studio's own JSON", {"annotation_id", "annotator"}),
    ("CreateML's JSON", {"image", "annotations"}),
    ("VGG Image Annotator's JSON", {"_via_img_metadata"}),
    ("VGG Image Annotator's JSON", {"filename", "regions"}),
    ("Datumaro's JSON", {"items", "categories"}),
    ("Labelbox's JSON", {"data_row"}),
    ("Labelbox's JSON", {"Labeled Data"}),
    ("Supervisely's JSON of one image", {"objects", "size"}),
    ("GeoJSON", {"type", "features"}),
)
"""Formats of other tools, by keys of the file or of its first entry."""


@dataclass(frozen=True)
class Chunk:
    """Some records of a list."""

    path: str
    """The file."""
    name: str
    """What messages call a record."""
    positions: Sequence[int]
    """Places in the list."""
    records: list[dict[str, Any]]
    """With the keys asked for, and of content in memory all others."""
    texts: list[msgspec.Raw] | None
    """The records' JSON; None for content in memory."""

    def column(self, key: str) -> list[Any]:
        return [record.get(key) for record in self.records]

    def value(self, row: int, key: str) -> Any:
        """A value of a record, also of a key that was not asked for; None without it."""
        if self.texts is None or key in self.records[row]:
            return self.records[row].get(key)
        where = f"{self.path}: {self.name}s[{self.positions[row]}]"
        return _decode(self.texts[row], (key,), where).get(key)

    def item(self, row: int) -> str:
        """What messages call a record: its id, or its place without one."""
        key = self.records[row].get("id")
        if key is None:
            return f"{self.name}s[{self.positions[row]}]"
        return f"{self.name} {shown(key)}"

    def select(self, rows: Sequence[int]) -> Chunk:
        """The records `rows`."""
        texts = None if self.texts is None else [self.texts[row] for row in rows]
        positions = [self.positions[row] for row in rows]
        records = [self.records[row] for row in rows]
        return replace(self, positions=positions, records=records, texts=texts)


class CocoFile:
    """The lists of a COCO file, by path or from its content in memory.

    Raises:
        DataError: it is not JSON, or not in COCO's layout; the message names the line.
    """

    def __init__(self, path: str, content: dict[str, Any] | None = None) -> None:
        self.path = path
        self.lists = _split(path) if content is None else _lists(path, content)
        for key in LISTS[:2]:
            if key not in self.lists:
                tool = _tool(read_json(path, "COCO annotations") if content is None else content)
                if tool:
                    raise _foreign(path, tool)
                raise DataError(f"{path}: not a COCO annotation file: no list {key!r}; {LAYOUT}")

    def chunks(self, key: str, keys: Sequence[str]) -> Iterator[Chunk]:
        """The records of a list with their values of `keys`."""
        decode = msgspec.json.Decoder(_typed(keys)).decode
        for first in range(0, len(self.lists.get(key, ())), CHUNK):
            records = self.lists[key][first : first + CHUNK]
            places, texts = range(first, first + len(records)), None
            if isinstance(records[0], msgspec.Raw):
                texts = records
                try:
                    records = list(map(decode, texts))
                except (ValueError, RecursionError):
                    records = [
                        _decode(text, keys, f"{self.path}: {key}[{place}]")
                        for place, text in zip(places, texts, strict=True)
                    ]
            for place, record in zip(places, records, strict=True):
                if not isinstance(record, dict):
                    where = f"{self.path}: {key}[{place}]"
                    raise DataError(f"{where} is {shown(record)}, not an object")
            yield Chunk(self.path, key.removesuffix("s"), places, records, texts)


def _decode(text: msgspec.Raw, keys: Sequence[str], where: str) -> Any:
    """A record with its values of `keys`, or all where only the standard parser accepts it, as
    with numbers of hundreds of digits."""
    try:
        return msgspec.json.decode(text, type=_typed(keys))
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        pass
    try:
        return json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read ({error}); correct or remove it") from None


def _typed(keys: Sequence[str]) -> Any:
    """A type for records of which only these keys are wanted."""
    return TypedDict("wanted", dict.fromkeys(keys, Any), total=False)  # type: ignore[misc,operator]


def _split(path: str) -> dict[str, Any]:
    """The lists of a file, their entries still JSON; parsed where the fast parser fails."""
    try:
        with Path(path).open("rb") as file:
            # Mapped pages are the file's own: they take no memory that others need.
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        values = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {
            key: msgspec.json.decode(values[key], type=list[msgspec.Raw])
            for key in LISTS
            if key in values
        }
    except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return _lists(path)


def _lists(path: str, content: Any = None) -> dict[str, Any]:
    """The lists of a file, or of its content, parsed."""
    if content is None:
        content = read_json(path, "COCO annotations")
    if isinstance(content, (list, dict)) and LISTS[0] not in content and (tool := _tool(content)):
        raise _foreign(path, tool)
    if isinstance(content, list):
        raise DataError(
            f"{path}: this is a list, as detections are; ground truth is an object with images, "
            "annotations and categories. Were the two files swapped?"
        )
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO annotation file: {shown(content)}; {LAYOUT}")
    lists = {key: content[key] for key in LISTS if key in content}
    for key, entries in lists.items():
        if not isinstance(entries, list):
            raise DataError(f"{path}: {key} is {shown(entries)}, not a list; {LAYOUT}")
    return lists


def _tool(content: Any) -> str | None:
    """The tool whose own format this is, as far as its keys tell."""
    nested = content if isinstance(content, list) else list(content.values())
    for entry in (content, *nested[:1]):
        for tool, keys in OTHER_TOOLS:
            if isinstance(entry, dict) and keys <= entry.keys():
                return tool
    return None


def _foreign(path: str, tool: str) -> DataError:
    return DataError(
        f"{path}: this is {tool}, not COCO's; export the annotations as COCO, VOC or YOLO"
    )
