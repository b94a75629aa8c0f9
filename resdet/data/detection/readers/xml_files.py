"""Annotations of one XML file per image, as VOC and ImageNet have them, read into columns.

    <annotation><filename/><size><width/><height/></size>
      <object><name/><difficult/><bndbox><xmin/><ymin/><xmax/><ymax/></bndbox></object> …

Only direct children of an object count: VOC's `part` elements have names and boxes of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import Column
from resdet.files.findings import DROPPED
from resdet.files.read_ahead import CHUNK, read_ahead

LARGEST = 1e9
"""Pixels; larger sizes and coordinates are mistakes."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")

BROKEN = "its image is left out; correct the file, or remove the image from the list"
NO_FLAG = "0 (not difficult) is taken"
NO_NUMBER = "0 is taken"
NO_SIZE = "the size is read from the image"

ENCODING = re.compile(rb"\s*<\?xml[^>]*?\sencoding=[\"']([\w.:-]+)")
"""The encoding that a file states."""

Report = Callable[[str, str, str], None]
"""Takes the item, what is wrong with it, and the remedy."""


@dataclass
class XmlColumns:
    """What the XML files of N images hold: A objects, in the order of the images."""

    usable: NDArray[np.bool_]
    """(N,) false where the file is missing or broken; such images have no objects here."""
    missing: NDArray[np.bool_]
    """(N,) true where there is no such file."""
    unsized: NDArray[np.bool_]
    """(N,) true where nothing states a size, because there is no file for it."""
    sizes: NDArray[np.int32]
    """(N, 2) height, width in pixels; 0 where the file has none."""
    file_names: list[str]
    """N names that the files give their images; empty where they give none."""
    image_of: NDArray[np.int64]
    """(A,) rows of the images."""
    corners: NDArray[np.float64]
    """(A, 4) xmin, ymin, xmax, ymax as annotated: finite, in order, the last pixel inside."""
    name_of: NDArray[np.int64]
    """(A,) positions in `names`."""
    names: list[str]
    """Class names of the objects, in the order of their first appearance."""
    difficult: NDArray[np.bool_]
    """(A,)."""
    extras: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """(A,) numbers of further elements of the objects; (A, 0) of one that no object has."""

    def select(self, rows: NDArray[np.int64]) -> XmlColumns:
        """All images, and the objects `rows`."""
        return replace(
            self,
            image_of=self.image_of[rows],
            corners=self.corners[rows],
            name_of=self.name_of[rows],
            difficult=self.difficult[rows],
            extras={key: values[rows] for key, values in self.extras.items()},
        )

    def without_objects(self) -> XmlColumns:
        """The images alone."""
        return self.select(np.zeros(0, np.int64))


class BrokenXml(ValueError):
    """A file without usable annotations; the text says why."""


def continuous_xywh(corners: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """(A, 4) boxes as left, top, width, height, from (A, 4) inclusive corners.

    Pixel `first` (1 in VOC, 0 in ImageNet) covers 0..1, so that the pixels xmin to xmax cover
    xmin - first to xmax - first + 1.
    """
    boxes = corners.copy()
    boxes[:, :2] -= first
    boxes[:, 2:] += 1 - corners[:, :2]
    return boxes


def read_xml_files(
    folder: Path, files: Sequence[str], report: Report, *, extras: Sequence[str] = ()
) -> XmlColumns:
    """The annotations of N images.

    Args:
        folder, files: paths below it; an empty one is an image without annotations.
        report: gets what is left out or repaired, except missing files; its item is the file, and
            the object in it.
        extras: elements of an object that hold a number.
    """
    rows, columns = _Rows(report, extras), _Columns(extras)
    capitals = _Capitals(folder)
    for file, content in read_ahead(folder, files):
        if isinstance(content, FileNotFoundError):
            content = capitals.read(file, content)
        rows.add(file, content)
        if len(rows.usable) == CHUNK:
            columns.take(rows)
    columns.take(rows)
    return columns.finish(list(rows.position))


class _Capitals:
    """Files called a.XML, read in place of a.xml; each directory is listed at most once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed: dict[str, dict[str, str]] = {}

    def read(self, file: str, error: FileNotFoundError) -> bytes | OSError:
        """The bytes of a file that differs from `file` in the case of its suffix; else `error`."""
        place, _, name = file.rpartition("/")
        if place not in self.listed:
            self.listed[place] = self._list(place)
        found = self.listed[place].get(name)
        try:
            return error if found is None else (self.folder / place / found).read_bytes()
        except OSError as other:
            return other

    def _list(self, place: str) -> dict[str, str]:
        try:
            names = [entry.name for entry in (self.folder / place).iterdir()]
        except OSError:
            return {}
        return {
            f"{name[:-4]}.xml": name
            for name in names
            if name[-4:].lower() == ".xml" and not name.endswith(".xml")
        }


class _Rows:
    """A chunk's values as Python lists, checked."""

    def __init__(self, report: Report, extras: Sequence[str]) -> None:
        self.report, self.keys = report, tuple(extras)
        self.position: dict[str, int] = {}
        """Of each class name, over all chunks."""
        self.clear()

    def clear(self) -> None:
        self.usable: list[bool] = []
        self.missing: list[bool] = []
        self.sizes: list[tuple[int, int]] = []
        self.file_names: list[str] = []
        self.counts: list[int] = []
        self.corners: list[list[float]] = []
        self.name_of: list[int] = []
        self.difficult: list[bool] = []
        self.extras: dict[str, list[float]] = {key: [] for key in self.keys}

    def add(self, file: str, content: bytes | OSError) -> None:
        """The image of one file."""
        size, name, usable, before = (0, 0), "", True, len(self.name_of)
        is_missing = isinstance(content, FileNotFoundError)
        if is_missing:
            usable = False
        elif file:
            try:
                top, objects = parse_xml(content)
            except BrokenXml as error:
                self.report(file, str(error), BROKEN)
                usable = False
            else:
                size, name = self._size(file, top), _text(top.get("filename"))
                for number, elements in enumerate(objects, start=1):
                    self._add_object(file, number, elements)
        self.usable.append(usable)
        self.missing.append(is_missing)
        self.sizes.append(size)
        self.file_names.append(name)
        self.counts.append(len(self.name_of) - before)

    def _size(self, file: str, top: Elements) -> tuple[int, int]:
        """(height, width); (0, 0) where the file has none, which is reported if it is not 0."""
        size = top.get("size")
        texts = {} if size is None else {child.tag: child.text for child in size}
        given = (texts.get("height"), texts.get("width"))
        height, width = map(to_pixels, given)
        if height >= 1 and width >= 1:
            return int(height), int(width)
        if not (height == width == 0 or given == (None, None)):
            self.report(file, f"has height {given[0]!s:.40} and width {given[1]!s:.40}", NO_SIZE)
        return 0, 0

    def _add_object(self, file: str, number: int, elements: Elements) -> None:
        name, box = _text(elements.get("name")), elements.get("bndbox")
        texts = {} if box is None else {child.tag: child.text for child in box}
        corners = [to_pixels(texts.get(key)) for key in CORNERS]
        x1, y1, x2, y2 = corners
        what = None
        if not name:
            what = "has no name"
        elif not texts:
            what = "has no bndbox"
        elif not math.isfinite(x1 + y1 + x2 + y2):
            given = ", ".join(f"{key} {texts.get(key)!s:.40}" for key in CORNERS)
            what = f"has {given}, not four finite numbers below {LARGEST:.0e}"
        elif x2 < x1 or y2 < y1:
            side = "x" if x2 < x1 else "y"
            low, high = (x1, x2) if x2 < x1 else (y1, y2)
            what = f"has {side}min {low:g} above {side}max {high:g}"
        item = f"{file}: object {number}" + (f" ({name:.60})" if name else "")
        if what is not None:
            self.report(item, what, DROPPED)
            return
        self.name_of.append(self.position.setdefault(name, len(self.position)))
        self.corners.append(corners)
        self.difficult.append(self._flag(item, elements))
        for key, values in self.extras.items():
            values.append(self._extra(item, key, elements))

    def _flag(self, item: str, elements: Elements) -> bool:
        text = _text(elements.get("difficult"))
        if text not in ("", "0", "1"):
            self.report(item, f"has difficult {text!r:.60}, not 0 or 1", NO_FLAG)
        return text == "1"

    def _extra(self, item: str, key: str, elements: Elements) -> float:
        """The number of an element; NaN where the object lacks it."""
        if key not in elements:
            return math.nan
        value = to_pixels(elements[key].text)
        if math.isnan(value):
            self.report(item, f"has {key} {elements[key].text!r:.60}, not a number", NO_NUMBER)
            return 0.0
        return value


class _Columns:
    """The values of all chunks so far."""

    COLUMNS = ("usable", "missing", "sizes", "counts", "corners", "name_of", "difficult")

    def __init__(self, extras: Sequence[str]) -> None:
        self.usable, self.missing = Column(np.bool_), Column(np.bool_)
        self.sizes = Column(np.int32, 2)
        self.counts, self.corners = Column(np.int64), Column(np.float64, 4)
        self.name_of, self.difficult = Column(np.int64), Column(np.bool_)
        self.extras = {key: Column(np.float64) for key in extras}
        self.file_names: list[str] = []

    def take(self, rows: _Rows) -> None:
        """Adds a chunk, and empties it."""
        for key in self.COLUMNS:
            getattr(self, key).extend(getattr(rows, key))
        for key, column in self.extras.items():
            column.extend(rows.extras[key])
        self.file_names += rows.file_names
        rows.clear()

    def finish(self, names: list[str]) -> XmlColumns:
        counts = self.counts.array()
        return XmlColumns(
            usable=self.usable.array(),
            missing=self.missing.array(),
            unsized=self.missing.array(),
            sizes=self.sizes.array(),
            file_names=self.file_names,
            image_of=np.repeat(np.arange(len(counts)), counts),
            corners=self.corners.array(),
            name_of=self.name_of.array(),
            names=names,
            difficult=self.difficult.array(),
            extras={key: _filled(column.array()) for key, column in self.extras.items()},
        )


def _filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A,) with 0 for NaN; (A, 0), which stands for none, where all are NaN."""
    absent = np.isnan(values)
    return np.zeros((len(values), 0)) if absent.all() else np.where(absent, 0.0, values)


Elements = dict[str, ElementTree.Element]
"""Child elements by tag; of several the last."""


def parse_xml(content: bytes | OSError) -> tuple[Elements, list[Elements]]:
    """The elements of an annotation, and those of each of its objects.

    Raises:
        BrokenXml: it is not such a file.
    """
    root = parse_root(content)
    if root.tag != "annotation":
        raise BrokenXml(f"has the root element <{root.tag:.40}>, not <annotation>")
    top: Elements = {}
    objects = []
    for child in root:
        if child.tag == "object":
            objects.append({element.tag: element for element in child})
        else:
            top[child.tag] = child
    return top, objects


def parse_root(content: bytes | OSError) -> ElementTree.Element:
    """The root element of an XML file.

    Entities are refused rather than expanded, and nothing outside the file is ever read.

    Raises:
        BrokenXml: it can't be read, or is not XML.
    """
    if isinstance(content, OSError):
        raise BrokenXml(f"can't be read ({content.strerror or content})")
    try:
        text = _as_text(content)
        if text is not None:
            has_entities = "<!ENTITY" in text
            root = None if has_entities else ElementTree.fromstring(text.lstrip("\ufeff \r\n\t"))
        else:
            has_entities = b"<!ENTITY" in content
            root = None if has_entities else ElementTree.fromstring(content.lstrip())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        what = "is empty" if not content.strip() else f"is not valid XML ({error})"
        raise BrokenXml(what) from None
    if root is None:
        raise BrokenXml("defines entities, which annotations do not need")
    return root


def _as_text(content: bytes) -> str | None:
    """The text of a file in UTF-16, or another encoding of several bytes per character, which the
    parser does not read (GB2312, Shift-JIS); else None."""
    if b"\0" in content:
        return content.decode("utf-16")
    stated = ENCODING.match(content)
    if stated is None or stated[1].lower() in (b"utf-8", b"us-ascii", b"ascii"):
        return None
    return content.decode(stated[1].decode())


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()


def to_pixels(text: str | None) -> float:
    """A number of pixels; NaN for what is not a number, or one that no pixel has."""
    try:
        value = float("nan" if not text or "_" in text else text)  # Python reads 1_0 as 10
    except ValueError:
        return math.nan
    return value if abs(value) <= LARGEST else math.nan
