"""The columns of tables of boxes, by the names that tools give them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resdet.errors import first_few
from resdet.files.findings import DataError
from resdet.files.regular import open_regular
from resdet.files.separators import find_separator

PLAIN = ("image", "x1", "y1", "x2", "y2", "class")
"""The order of the columns of a table without a header [keras-retinanet]."""

ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("image", "filename", "file", "imagename", "imagefile", "imagepath", "filepath",
              "path", "img", "imgname", "imgpath", "imageid", "imgid"),
    "x1": ("x1", "xmin", "x0", "left", "bboxx1", "bboxxmin"),
    "y1": ("y1", "ymin", "y0", "top", "bboxy1", "bboxymin"),
    "x2": ("x2", "xmax", "right", "bboxx2", "bboxxmax"),
    "y2": ("y2", "ymax", "bottom", "bboxy2", "bboxymax"),
    "x": ("bboxx", "bboxleft", "x", *("x1", "xmin", "left")),
    "y": ("bboxy", "bboxtop", "y", *("y1", "ymin", "top")),
    "w": ("bboxwidth", "bboxw", "boxwidth", "w"),
    "h": ("bboxheight", "bboxh", "boxheight", "h"),
    "class": ("classname", "labelname", "categoryname", "class", "label", "category", "object"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "split": ("split", "set", "subset", "usage"),
    "crowd": ("iscrowd", "crowd", "isgroupof"),
    "difficult": ("difficult", "isdifficult"),
}  # fmt: skip
"""Names of columns, the likelier ones first, in lower case and without `_`, spaces and such."""

CORNERS, SIDES = ("x1", "y1", "x2", "y2"), ("x", "y", "w", "h")

FRACTIONS = re.compile(r"^(?:norm|normalized|rel|relative)|(?:norm|normalized|rel|relative)$")
"""What the name of a column has in front or behind if its numbers are fractions of the image."""

OPEN_IMAGES = {"imageid", "labelname", "xmin", "xmax", "ymin", "ymax"}
"""Columns of Open Images, whose boxes are fractions."""

MOST_TRIED = 64
"""Cells of a first row that are looked at; wider tables are other things."""


@dataclass
class Table:
    """A table of boxes as text."""

    columns: dict[str, int]
    """Positions by key of `ALIASES`, and all others by their own names."""
    box: tuple[str, str, str, str]
    """`CORNERS` or `SIDES`."""
    is_relative: bool
    """Whether boxes are fractions of the image."""
    rows: list[list[str]]
    lines: list[int]
    """The line of each row, from 1."""
    width: int
    """Cells of a row."""

    def column(self, key: str) -> list[str]:
        place = self.columns[key]
        return [row[place] for row in self.rows]


def read_rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """The rows of a table that are not blank, cells without spaces around, and their lines.

    Raises:
        DataError: it is not such a text.
    """
    with open_regular(path, "table", "the path") as file:
        content = file.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    elif b"\0" in content:
        raise DataError(f"{path}: is not text; give a table with commas between its columns")
    else:
        text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    delimiter, text = find_separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    rows, lines = [], []
    try:
        for row in reader:
            if any(map(str.strip, row)):
                rows.append(list(map(str.strip, row)))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: can't be read ({error})") from None
    if not rows:
        raise DataError(f"{path}: is empty; write one row per object: {', '.join(PLAIN)}")
    return rows, lines


def read_table(path: Path) -> Table:
    """A table of boxes.

    Raises:
        DataError: it is not one, or it lacks a column.
    """
    rows, lines = read_rows(path)
    first = rows[0][:MOST_TRIED]
    if len(first) >= len(PLAIN) and are_box(first[1:5]):
        columns = {key: place for place, key in enumerate(PLAIN)}
        return Table(columns, CORNERS, False, rows, lines, len(first))
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in first]
    short = [FRACTIONS.sub("", name) for name in plain]
    columns = {name: place for place, name in reversed(list(enumerate(first)))}
    for key, names in ALIASES.items():
        place = next((short.index(name) for name in names if name in short), None)
        if place is not None:
            columns[key] = place
        else:
            columns.pop(key, None)
    corners, sides = (all(key in columns for key in keys) for keys in (CORNERS, SIDES))
    lacks = [key for key in ("image", "class") if key not in columns]
    if not corners and not sides:
        lacks += [key for key in CORNERS if key not in columns]
    if lacks:
        raise DataError(
            f"{path}: no column {' and no '.join(lacks)} (there are {first_few(first)}); name the "
            f"columns {', '.join(PLAIN)}, or leave out the header and keep this order"
        )
    box = CORNERS if corners else SIDES
    marked = [short[columns[key]] != plain[columns[key]] for key in box]
    if any(marked) and not all(marked):
        raise DataError(f"{path}: some columns of the box are named as fractions; make them agree")
    is_relative = all(marked) or set(plain) >= OPEN_IMAGES
    return Table(columns, box, is_relative, rows[1:], lines[1:], len(first))


def are_box(cells: Sequence[str]) -> bool:
    """Whether four cells are numbers, or all empty."""
    if not any(cells):
        return True
    try:
        return len([float(cell) for cell in cells]) == 4
    except ValueError:
        return False
