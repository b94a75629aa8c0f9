"""Tables with one row per object.

    image,x1,y1,x2,y2,class                          with this header or another one
    filename,width,height,class,xmin,ymin,xmax,ymax  as TensorFlow's examples have it
    photos/a.jpg,,,,,                                an image without objects

Boxes are corners in pixels, the right and lower ones outside of the last pixel; or fractions of the
image if the columns are named so (`xmin_norm`, `rel_x1`), or are those of Open Images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.file_names import ImageFolder, sizes_of
from resdet.data.detection.outlines import box_outlines
from resdet.data.detection.readers.csv_columns import SIDES, Table, are_box, read_rows, read_table
from resdet.data.detection.readers.image_lists import ImageFiles
from resdet.data.detection.readers.shapes import NO_OBJECTS
from resdet.data.detection.readers.xml_files import LARGEST, Report, to_pixels
from resdet.data.detection.table import AnnotationTable, Source, join_extras
from resdet.data.names import pack_ids, pack_names
from resdet.errors import first_few
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.images import is_image

if TYPE_CHECKING:
    from resdet.data.detection.readers.recognize import Seen

SUFFIXES = (".csv", ".tsv")

CLASS_FILES = ("classes.csv", "_classes.csv", "class_list.csv", "class-descriptions-boxable.csv",
               "oidv7-class-descriptions-boxable.csv")  # fmt: skip
"""Tables beside the boxes that name the classes: name, number, or Open Images' code, name; with a
header or without."""

HEADER = ("id", "name", "class", "number", "index", "label", "code", "mid", "category", "class_id",
          "classid", "class_name", "classname", "label_id", "label_name", "labelname",
          "display_name", "displayname", "category_id", "category_name")  # fmt: skip
"""Words of such a header, in lower case."""

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Values of a column that splits the images, in lower case."""

YES, NO = ("1", "true", "yes"), ("", "0", "-1", "false", "no")
"""Flags in lower case; Open Images has -1 for unknown."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def looks_like(seen: Seen) -> bool:
    """Whether this is a table of boxes, or a folder with one."""
    if seen.is_folder:
        return one_table(seen.path) is not None
    head = seen.head()
    if seen.path.suffix.lower() in SUFFIXES:
        return not head.startswith(b"ImageId,Prediction")
    cells = head.splitlines()[0].decode(errors="replace").split(",") if head else []
    return len(cells) >= 6 and head[:1] not in (b"{", b"[", b"<") and are_box(cells[1:5])


def one_table(folder: Path) -> Path | None:
    """The only table in a folder but those of classes; None where there are several or none."""
    found = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES
        and file.name.lower() not in CLASS_FILES
        and file.name[0] != "."
    ]
    return found[0] if len(found) == 1 else None


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads a table of boxes; see `READERS`.

    Images are those of the rows, and their ids are the file names. Classes are those of a table
    beside it (`CLASS_FILES`), else the names in the rows, sorted, and `Source.classes`. Sizes are
    the table's, else they are read from the images. A column split, set or subset selects rows.

    Raises:
        DataError: it is not such a table.
    """

    def report(item: str, what: str, remedy: str) -> None:
        findings.append(Finding(source.path, item, what, remedy))

    path = Path(source.path)
    if path.is_dir():
        path = one_table(path) or path
    table = read_table(path)
    _keep_whole(table, report)
    _select_part(table, source, report)
    stated = table.column("image")
    row_of: dict[str, int] = {}
    image_of = np.array([row_of.setdefault(name, len(row_of)) for name in stated], np.int64)
    names = list(row_of)
    if "" in row_of:
        raise DataError(
            f"{path}: line {table.lines[stated.index('')]}: names no image; every row has one"
        )
    files = _find_files(names, path.parent, source.images)
    objects = _Objects(table, report)
    classes = _Classes(path.parent, table.column("class"), source, report)
    sizes, measured = _sizes(table, image_of, files, source, report)
    keep = objects.usable & (classes.labels >= 0)
    keep &= sizes[image_of].min(axis=1, initial=1) > 0 if table.is_relative else True
    rows = np.flatnonzero(keep)
    boxes = objects.boxes[rows]
    if table.is_relative:
        boxes = boxes * sizes[image_of[rows]][:, [1, 0, 1, 0]]
    return AnnotationTable(
        files=[source.path],
        class_names=classes.names,
        category_ids=classes.ids,
        image_ids=pack_ids(names),
        file_of_image=np.zeros(len(names), np.int32),
        file_names=pack_names(files),
        sizes=sizes,
        image_of=image_of[rows],
        boxes_xywh=boxes,
        labels=classes.labels[rows],
        areas=boxes[:, 2:].prod(axis=1),
        crowd=_flags(table, "crowd", report)[rows],
        difficult=_flags(table, "difficult", report)[rows],
        ignored=np.zeros(len(rows), bool),
        annotation_ids=np.arange(1, len(rows) + 1),
        outlines=box_outlines(len(rows)) if source.outlines else None,
        extras={key: _extra(table, key, source.path, report)[rows] for key in source.extras},
        measured=measured,
    )


def _keep_whole(table: Table, report: Report) -> None:
    """Leaves out rows that lack cells, or have more than the table has columns."""
    most = 1 + max(table.columns.values())
    short = [
        place
        for place, row in enumerate(table.rows)
        if len(row) < most or (len(row) > table.width and any(row[table.width :]))
    ]
    for place in short:
        item, what = f"line {table.lines[place]}", f"has {len(table.rows[place])} cells"
        report(item, f"{what}, and the table {table.width} columns", DROPPED)
    if short:
        _select(table, set(range(len(table.rows))) - set(short))


def _select(table: Table, places: set[int]) -> None:
    table.rows = [row for place, row in enumerate(table.rows) if place in places]
    table.lines = [line for place, line in enumerate(table.lines) if place in places]


def _select_part(table: Table, source: Source, report: Report) -> None:
    """Leaves out rows of other parts, where a column has train, val and test."""
    if "split" not in table.columns or source.part is None:
        return
    values = [value.lower() for value in table.column("split")]
    known = {name: part for part, names in PARTS.items() for name in names}
    if not set(values) <= known.keys():
        return  # some other column
    parts = [known[value] for value in values]
    if source.part not in parts:
        raise DataError(
            f"{source.path}: no row of {source.part}, only of {', '.join(sorted(set(parts)))}; "
            "give another table, or remove the column"
        )
    _select(table, {place for place, part in enumerate(parts) if part == source.part})


def _find_files(names: Sequence[str], folder: Path, images: str | None) -> list[str]:
    """The names below the folder of images: as stated, from the folder of the table, or with the
    suffix that they lack."""
    if images is None:
        return list(names)
    places, by_stem = ImageFolder(images), ImageFiles(images)
    before, after = _between(folder, Path(images))
    found = []
    for stated in names:
        name = stated.replace("\\", "/").removeprefix("./")
        if not places.has(name):
            if places.has(beside := before + name.removeprefix(after)):
                name = beside
            elif not is_image(name):
                name = by_stem.find(name, [f"{name.rpartition('/')[2]}.jpg"])
        found.append(name)
    return found


def _between(folder: Path, images: Path) -> tuple[str, str]:
    """What a path from a folder needs in front, and what not, to be one from that of the images."""
    pair = folder.absolute(), images.absolute()
    up, down = (os.path.relpath(*one).replace(os.sep, "/") for one in (pair, pair[::-1]))
    before = "" if up.startswith(".") else f"{up}/"
    return before, "" if down.startswith(".") else f"{down}/"


class _Objects:
    """The boxes of the rows; those without are reported, unless all cells of the box are empty."""

    def __init__(self, table: Table, report: Report) -> None:
        cells = [table.column(key) for key in table.box]
        numbers = np.stack([_numbers(column) for column in cells], axis=1)
        first, last = numbers[:, :2], numbers[:, 2:]
        if table.box == SIDES:
            last = first + last
        empty = np.array([not any(own) for own in zip(*cells, strict=True)], bool)
        named = np.array(list(map(bool, table.column("class"))), bool)
        self.boxes = np.concatenate([first, last - first], axis=1)
        """(rows, 4) xywh."""
        self.usable = ~empty | named
        """(rows,) whether the row is an object."""

        def shown(row: int) -> str:
            pairs = zip(table.box, cells, strict=True)
            return ", ".join(f"{key} {column[row]!r:.20}" for key, column in pairs)

        checks: tuple[tuple[Any, Callable[[int], str]], ...] = (
            (empty, lambda _: "has a class and no box"),
            (np.isnan(numbers).any(axis=1), lambda row: f"has {shown(row)}, not four numbers"),
            ((last < first).any(axis=1), lambda row: f"has {shown(row)}, in the wrong order"),
            (~named, lambda _: "has a box and no class"),
        )
        for bad, what in checks:
            for row in np.flatnonzero(self.usable & bad).tolist():
                report(f"line {table.lines[row]}", what(row), DROPPED)
            self.usable &= ~bad


def _numbers(cells: Sequence[str]) -> Floats:
    """(n,) numbers; NaN for other texts, and for numbers that no pixel has."""
    try:
        values = np.array(cells, np.float64) if "" not in cells else None
    except ValueError:
        values = None
    if values is None or any("_" in cell for cell in cells):
        return np.array([to_pixels(cell) for cell in cells], np.float64)
    return np.where(np.abs(values) <= LARGEST, values, np.nan)


def _flags(table: Table, key: str, report: Report) -> Flags:
    """(rows,) a column of yes and no; all no without it."""
    if key not in table.columns:
        return np.zeros(len(table.rows), bool)
    values = [cell.lower() for cell in table.column(key)]
    for row, value in enumerate(values):
        if value not in YES and value not in NO:
            report(f"line {table.lines[row]}", f"has {key} {value!r:.40}, not 0 or 1", "0 is taken")
    return np.array([value in YES for value in values], bool)


def _extra(table: Table, key: str, path: str, report: Report) -> Floats:
    """(rows,) numbers of a further column, 0 where a row has none."""
    if key not in table.columns:
        return join_extras([np.zeros((len(table.rows), 0))], key, path)
    cells = table.column(key)
    values = _numbers(cells)
    for row in np.flatnonzero(np.isnan(values)).tolist():
        if cells[row]:
            what = f"has {key} {cells[row]!r:.40}, not a number"
            report(f"line {table.lines[row]}", what, "0 is taken")
    return np.nan_to_num(values)


def _sizes(
    table: Table, image_of: NDArray[np.int64], files: Sequence[str], source: Source, report: Report
) -> tuple[NDArray[np.int32], Flags]:
    """(N, 2) height, width and (N,) whether they were read from the images: the table's where it
    has them for all its rows, 0 where nothing has."""
    sizes = np.zeros((len(files), 2), np.int32)
    if {"width", "height"} <= table.columns.keys():
        stated = np.stack([_numbers(table.column(key)) for key in ("height", "width")], axis=1)
        fits = ((stated >= 1) & (stated == np.floor(stated)) & (stated < 2**31)).all(axis=1)
        rows = np.flatnonzero(fits)[::-1]  # the first row of an image counts
        sizes[image_of[rows]] = stated[rows]
        for row in np.flatnonzero(fits & (sizes[image_of] != stated).any(axis=1)).tolist():
            item = f"line {table.lines[row]} ({files[int(image_of[row])]})"
            report(item, "has another size than the image has before", "the first one is taken")
    unknown = np.flatnonzero((sizes == 0).any(axis=1))
    measured = np.zeros(len(files), bool)
    if source.images is not None and len(unknown) and not source.classes_only:
        sizes[unknown] = sizes_of(Path(source.images), [files[row] for row in unknown.tolist()])
        measured[unknown] = sizes[unknown].all(axis=1)
    return sizes, measured


@dataclass
class _Names:
    """Class names, their numbers, and the names by what the rows call them."""

    ids: dict[str, int]
    shown: dict[str, str]


class _Classes:
    """The classes, and the label of each row, -1 for one without a known class."""

    def __init__(self, folder: Path, stated: Sequence[str], source: Source, report: Report) -> None:
        found = {name for name in stated if name}
        given = _read_classes(folder, found)
        if given is None:
            for name in source.classes:
                if name not in found:
                    report(f"class {name!r}", "is in data.classes, but in no row", NO_OBJECTS)
            every = sorted(found | set(source.classes), key=_natural)
            if not every:
                raise DataError(f"{source.path}: no row has a class; fill in that column")
            given = _Names({name: k for k, name in enumerate(every, 1)}, {n: n for n in every})
        unknown = sorted(found - given.ids.keys())
        if unknown:
            item = f"classes {first_few(unknown, 3)}"
            report(item, "are not in the table of classes", "their objects are left out")
        order = sorted(given.ids, key=given.ids.__getitem__)
        label_of = {name: label for label, name in enumerate(order)}
        self.names = [given.shown[name] for name in order]
        self.ids = [given.ids[name] for name in order]
        self.labels = np.array([label_of.get(name, -1) for name in stated], np.int64)


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers in their order, before texts."""
    is_number = name.isascii() and name.isdigit() and len(name) < 10
    return (0, int(name), "") if is_number else (1, 0, name)


def _read_classes(folder: Path, found: set[str]) -> _Names | None:
    """The classes of a table beside the boxes that has some of those `found`; None without one."""
    for file in (folder / name for name in CLASS_FILES):
        if not file.is_file():
            continue
        rows = [row for row in read_rows(file)[0] if len(row) == 2]
        is_header = bool(rows) and rows[0][0] not in found
        if is_header and all(cell.lower().replace(" ", "_") in HEADER for cell in rows[0]):
            del rows[0]
        keys = [row[0] for row in rows]
        if not found & set(keys) or len(set(keys)) < len(keys):
            continue
        numbers = [row[1] for row in rows if row[1].isdecimal()]
        if len(numbers) == len(rows) == len(set(numbers)):
            return _Names({key: int(number) for key, number in rows}, {key: key for key in keys})
        names = dict(rows)
        if len(set(names.values())) == len(names):
            return _Names({key: k for k, key in enumerate(keys, 1)}, names)
    return None
