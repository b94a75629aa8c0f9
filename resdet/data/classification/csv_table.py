"""Images to classify by a table: CSV with the columns image and class.

    image,class            a header is recognised by its words; without one, the columns are these
    cats/tom.jpg,cat       paths below the folder of the images

Hugging Face's parquet files are read by `parquet.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from resdet.data.classification.folder import FileImages, label_order
from resdet.data.detection.file_names import ImageFolder
from resdet.data.names import pack_names
from resdet.errors import first_few
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.images import is_image
from resdet.files.regular import is_file
from resdet.files.separators import find_separator

IMAGE_COLUMNS = (
    *(
        "image",
        "image_path",
        "image_name",
        "filename",
        "file_name",
        "file",
        "filepath",
        "file_path",
    ),
    *("path", "img", "img_path", "name", "imageid", "image_id"),
)
CLASS_COLUMNS = (
    *("class", "class_name", "classname", "label", "label_name", "category", "target", "species"),
    *("fine_label", "y"),
)
"""Words of a header, in lower case, the likeliest first."""

MOST_LISTED = 8
"""Columns that a message names."""

Row = tuple[str, str, str]
"""What messages call the row, the image, and its class."""


def read_csv(
    path: str | Path,
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
) -> FileImages:
    """The images of a CSV file, in its order; see `label_order` for the classes.

    Args:
        root: the folder that paths start at; full paths are taken as they are.
    Raises:
        DataError: the file is not such a table, or has no image that is there.
    """
    path, findings = Path(path), list[Finding]()
    rows = list(_rows(path, findings))
    names = sorted_names({name for _, _, name in rows})
    return file_images(path, Path(root), rows, names, findings, classes, train_classes)


def file_images(
    path: Path,
    root: Path,
    rows: Iterable[Row],
    names: Sequence[str],
    findings: list[Finding],
    classes: Sequence[str] | None,
    train_classes: Sequence[str] | None,
) -> FileImages:
    """The image files that the rows of a table name; rows without a file, and images with several
    rows, are findings.

    Raises:
        DataError: no row has a file.
    """
    folder = ImageFolder(root)
    first: dict[str, Row] = {}
    torn: set[str] = set()
    for row in rows:
        item, given, name = row
        file = _locate(folder, given)
        if file is None:
            near = folder.near(given)
            what = f"has no file {given!r} in {root}{f' (but {near})' if near else ''}"
            findings.append(Finding(str(path), item, what, DROPPED))
        elif file not in first:
            first[file] = (item, given, name)
        elif first[file][2] == name:
            what = f"names {given!r} again"
            findings.append(Finding(str(path), item, what, "it is read once; remove a row"))
        else:
            torn.add(file)
            what = f"gives {given!r} the class {name!r}, and {first[file][0]} {first[file][2]!r}"
            remedy = "the image is left out; keep one row per image"
            findings.append(Finding(str(path), item, what, remedy))
    order = label_order(str(path), names, classes=classes, train_classes=train_classes)
    label_of = {name: label for label, name in enumerate(order)}
    kept = {
        file: label_of[row[2]]
        for file, row in first.items()
        if row[2] in label_of and file not in torn
    }
    if not kept:
        reason = f": {findings[0]}" if findings else ""
        raise DataError(
            f"{path}: none of its images is in {root}{reason}; set data.train.root, or "
            "data.val.root, to the folder that the paths of the table start at"
        )
    labels = np.array(list(kept.values()), np.int64)
    return FileImages(root, pack_names(kept), labels, order, findings)


def _locate(folder: ImageFolder, given: str) -> str | None:
    """The file of a row below the folder, or by its full path."""
    if folder.has(given):
        return given
    if given.startswith("/") and is_file(Path(given)):
        return given
    return folder.locate(given)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: by number if all are whole numbers."""
    listed = sorted(names)
    return sorted(listed, key=int) if all(name.isdecimal() for name in listed) else listed


def _rows(path: Path, findings: list[Finding]) -> Iterable[Row]:
    """The usable rows of a CSV file."""
    lines = _cells(path)
    image, label, first = _columns(path, lines[0][1])
    for number, cells in lines[first:]:
        item = f"line {number}"
        if len(cells) != len(lines[0][1]):
            what = f"has {len(cells)} cell(s), and the first line {len(lines[0][1])}"
            findings.append(Finding(str(path), item, what, DROPPED))
        elif not cells[image] or not cells[label] or "\0" in cells[image]:
            empty = "image" if not cells[image] or "\0" in cells[image] else "class"
            findings.append(Finding(str(path), item, f"has no {empty}", DROPPED))
        else:
            yield item, cells[image].replace("\\", "/"), cells[label]


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of each line that is not empty.

    Raises:
        DataError: the file can't be read as text, or is empty.
    """
    try:
        content = path.read_bytes()
        text = content.decode(
            "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read as CSV ({error}); write it in UTF-8") from None
    separator, text = find_separator(text)
    try:
        reader = csv.reader(text.splitlines(), delimiter=separator, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{path}: is not valid CSV ({error}); correct it") from None
    if not lines:
        raise DataError(f"{path}: is empty; write a line image,class for each image")
    return lines


def _columns(path: Path, head: Sequence[str]) -> tuple[int, int, int]:
    """The columns of the image and of the class, and the first line of data.

    Raises:
        DataError: the header has none, or there is none and not two columns.
    """
    words = [cell.lower() for cell in head]
    image, label = (find_column(words, names) for names in (IMAGE_COLUMNS, CLASS_COLUMNS))
    if image is not None and label is not None:
        return image, label, 1
    if len(head) == 2 and (is_image(head[0]) or image is label is None):
        return 0, 1, 0
    raise DataError(
        f"{path}: its first line ({first_few(head, MOST_LISTED)}) has no column of images and of "
        "classes; call the columns image and class"
    )


def find_column(words: Sequence[str], names: Sequence[str]) -> int | None:
    """The position of the first of `names` that is there."""
    return next((words.index(name) for name in names if name in words), None)
