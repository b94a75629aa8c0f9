"""Files beside masks that give the class of a value or colour.

classes.csv: image,value,class | value,class | class,r,g,b | class,#rrggbb
labelmap.txt of CVAT: class:r,g,b::
_classes.csv of Roboflow: Pixel Value, Class
class_dict.csv, label_colors.txt of CamVid: name,r,g,b | r g b name
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from resdet.files.findings import DataError

CLASSES_FILE = "classes.csv"
"""What the file is called in messages."""

FILES = (
    CLASSES_FILE, "_classes.csv", "classes.txt", "labelmap.txt", "class_dict.csv",
    "label_colors.txt", "legend.csv", "legend.txt", "colors.csv", "colors.txt",
)  # fmt: skip
"""Names under which such a file is looked for, in the folder of the masks and the one above."""

COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
NUMBER = re.compile(r"\d{1,9}")

BACKGROUND = ("background", "_background_", "__background__", "unlabeled", "void")
"""Names of what is not a class."""


def find_legend(folder: Path) -> Path | None:
    """The file beside the masks of a folder; None without one."""
    places = (place / name for place in (folder, folder.parent) for name in FILES)
    return next((path for path in places if path.is_file()), None)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, words) of each line but empty ones and comments."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        text = content.decode("utf-16" if b"\0" in content else "utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as text ({error}); write it in UTF-8") from None
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or (stripped[0] == "#" and not COLOUR.match(stripped)):
            continue
        if path.name == "labelmap.txt":
            name, _, rest = stripped.partition(":")
            words = [name, *rest.partition(":")[0].split(",")]
        else:
            separator = next((mark for mark in ",;\t" if mark in stripped), None)
            words = stripped.split(separator) if separator else stripped.split()
        rows.append((number, [word.strip().strip('"') for word in words]))
    return rows


def read_value_classes(folder: Path) -> dict[tuple[str, int], str] | None:
    """Classes by (image, value); the image is empty where a value has one class in all. None
    without such a file.

    Raises:
        DataError: a line is malformed, or contradicts another.
    """
    path = find_legend(folder)
    if path is None:
        return None
    classes: dict[tuple[str, int], str] = {}
    for number, words in _rows(path):
        image, value, name = [""] * (3 - len(words)) + words[:3]
        if len(words) not in (2, 3) or not NUMBER.fullmatch(value) or not name:
            if number == 1:  # names of the columns
                continue
            raise DataError(
                f"{path}: line {number}: {', '.join(words)!r:.60} is not image, value and class; "
                "correct it"
            )
        if name.lower() in BACKGROUND:
            name = ""
        before = classes.setdefault((image, int(value)), name)
        if before != name:
            raise DataError(
                f"{path}: line {number}: {image or 'value'} {value} is {name!r}, and {before!r} "
                "above; keep one of the lines"
            )
    return {key: name for key, name in classes.items() if name}


@dataclass(frozen=True)
class Legend:
    """What the pixels of class masks mean."""

    path: Path
    """The file that says so."""
    names: dict[int, str]
    """The class of each value, or of each colour as red · 65536 + green · 256 + blue; empty for
    background."""
    coloured: bool
    """Whether masks have colours; else they have values."""

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the file."""
        return list(dict.fromkeys(name for name in self.names.values() if name))


def read_legend(folder: Path) -> Legend | None:
    """The legend of a folder's masks; None without a file.

    Raises:
        DataError: a line is malformed, or two classes have the same colour.
    """
    path = find_legend(folder)
    if path is None:
        return None
    names: dict[int, str] = {}
    kinds = set()
    for number, words in _rows(path):
        parsed = _entry(words)
        if parsed is None:
            if number == 1:  # names of the columns
                continue
            raise DataError(
                f"{path}: line {number}: {', '.join(words)!r:.60} is not a class and its colour; "
                "write class,r,g,b with numbers from 0 to 255"
            )
        name, value, coloured = parsed
        kinds.add(coloured)
        name = "" if name.lower() in BACKGROUND else name
        before = names.setdefault(value, name)
        if before != name:
            raise DataError(
                f"{path}: line {number}: {name!r} has the colour of {before!r}; give each class a "
                "colour of its own"
            )
    legend = Legend(path, names, kinds == {True})
    if not legend.classes:
        raise DataError(f"{path}: names no class; write a line class,r,g,b for each")
    if len(kinds) > 1:
        raise DataError(f"{path}: gives some classes a colour and others a number; give one kind")
    return legend


def pack(red: int, green: int, blue: int) -> int:
    """A colour as one number."""
    return red << 16 | green << 8 | blue


def _entry(words: list[str]) -> tuple[str, int, bool] | None:
    """The class of a line, its colour or value, in either order, and whether it is a colour; None
    for what is neither."""
    words = [word for word in words if word]
    if len(words) == 2:
        for name, value in (words, words[::-1]):
            if COLOUR.fullmatch(value):
                return name, int(value[1:], 16), True
            if NUMBER.fullmatch(value):
                return name, int(value), False
    if len(words) == 4:
        for name, values in ((words[0], words[1:]), (words[3], words[:3])):
            if all(NUMBER.fullmatch(value) and int(value) <= 255 for value in values):
                return name, pack(*map(int, values)), True
    return None
