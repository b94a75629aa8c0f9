"""Kaggle's tables of ImageNet's localization set, LOC_train_solution.csv and LOC_val_solution.csv.

    ImageId,PredictionString
    n02017213_7894,n02017213 115 49 448 294

One line per image, in no order: the image, and class, xmin, ymin, xmax and ymax of each object.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resdet.data.detection.readers.image_lists import ImageList
from resdet.data.detection.readers.xml_files import Report, XmlColumns, to_pixels
from resdet.data.detection.table import Source
from resdet.files.findings import DROPPED, DataError

HEADER = "ImageId,PredictionString"
CELLS = 5


def read_table(source: Source, report: Report) -> tuple[ImageList, XmlColumns]:
    """The images in the order of their names, and their objects; the table has no sizes.

    Raises:
        DataError: the file is no such table, or values are wanted that it does not have.
    """
    if source.extras:
        raise DataError(
            f"{source.path}: data.extras: {', '.join(source.extras)}: Kaggle's table has boxes "
            "alone; give the folder of XML files"
        )
    lines = _lines(Path(source.path), report)
    order = sorted(lines)
    position: dict[str, int] = {}
    corners: list[list[float]] = []
    name_of: list[int] = []
    counts = []
    for image in order:
        before = len(name_of)
        number, text = lines[image]
        _add_objects(f"line {number} ({image})", text.split(), corners, name_of, position, report)
        counts.append(len(name_of) - before)
    usable = np.array(counts) > 0
    return ImageList(order, [1] * len(order)), XmlColumns(
        usable=usable,
        missing=np.zeros(len(order), bool),
        unsized=np.ones(len(order), bool),
        sizes=np.zeros((len(order), 2), np.int32),
        file_names=[""] * len(order),
        image_of=np.repeat(np.arange(len(order)), counts),
        corners=np.array(corners, np.float64).reshape(-1, 4),
        name_of=np.array(name_of, np.int64),
        names=list(position),
        difficult=np.zeros(len(name_of), bool),
    )


def _lines(path: Path, report: Report) -> dict[str, tuple[int, str]]:
    """The line's number and the objects' text of each image."""
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    lines: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        image, comma, objects = line.partition(",")
        image = image.strip()
        if number == 1:
            if line.replace(" ", "") != HEADER:
                raise DataError(
                    f"{path}: line 1: is {line!r:.60}, not {HEADER!r}; give LOC_train_solution.csv "
                    "or LOC_val_solution.csv, or a folder of XML files"
                )
        elif image and not comma:
            report(f"line {number}", f"is {line!r:.60}, not an image and its objects", DROPPED)
        elif image in lines:
            report(f"line {number} ({image})", "is a second line of this image", DROPPED)
        elif image:
            lines[image] = (number, objects)
    if not lines:
        raise DataError(f"{path}: has no images; is it cut short?")
    return lines


def _add_objects(
    item: str,
    cells: list[str],
    corners: list[list[float]],
    name_of: list[int],
    position: dict[str, int],
    report: Report,
) -> None:
    if not cells or len(cells) % CELLS:
        what = f"has {len(cells)} values, not a class and four numbers for each object"
        report(item, what, "its last object is left out; correct the line" if cells else DROPPED)
    for start in range(0, len(cells) - CELLS + 1, CELLS):
        name, *numbers = cells[start : start + CELLS]
        x1, y1, x2, y2 = box = list(map(to_pixels, numbers))
        if not (x1 <= x2 and y1 <= y2):  # NaN is neither
            report(item, f"has box {' '.join(numbers):.60}, not xmin ymin xmax ymax", DROPPED)
            continue
        name_of.append(position.setdefault(name, len(position)))
        corners.append(box)
