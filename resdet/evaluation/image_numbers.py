"""The devkits' numbers of images: what their prediction files and blacklists call an image."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.inclusive import Ints

_LISTED = re.compile(r"(\S+)[ \t]+(\d{1,9})")
_CLS_LOC = re.compile(r"ILSVRC2012_(?:val|test)_(\d{8})")


def image_numbers(truth: AnnotationTable) -> Ints:
    """(N,) the number of each image, from 1.

    Ids that are numbers are their own. Else the annotations' list of images gives them, or the
    `val.txt` or `test.txt` beside it, in its second column, as the lists of ImageNet DET do; else
    the name, as ILSVRC2012_val_00000042 of the localization set; else the rank of the name.
    """
    ids = truth.image_ids.tolist()
    if all(isinstance(image, int) for image in ids):
        return np.array(ids, np.int64)
    names = [str(image) for image in ids]
    for path in map(Path, truth.files):
        for listed in (path, path.with_name("val.txt"), path.with_name("test.txt")):
            numbers = read_image_list(listed) if listed.suffix == ".txt" else {}
            if numbers.keys() >= set(names):
                return np.array([numbers[name] for name in names], np.int64)
    matches = [_CLS_LOC.fullmatch(name) for name in names]
    if all(matches):
        return np.array([int(match[1]) for match in matches if match], np.int64)
    rank = {name: number for number, name in enumerate(sorted(names), 1)}
    return np.array([rank[name] for name in names], np.int64)


def read_image_list(path: Path) -> Mapping[str, int]:
    """Image names and their numbers from lines `NAME NUMBER`; empty for any other file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return {}
    matches = [_LISTED.fullmatch(line.strip()) for line in lines if line.strip()]
    if not matches or not all(matches):
        return {}
    numbers = {match[1].rsplit("/", 1)[-1]: int(match[2]) for match in matches if match}
    is_numbered = len(set(numbers.values())) == len(matches) and min(numbers.values()) > 0
    return numbers if is_numbered else {}


def rows_of_numbers(truth: AnnotationTable) -> dict[int, int]:
    """The row of each image number; UserError where two images have the same."""
    numbers = image_numbers(truth).tolist()
    rows = {number: row for row, number in enumerate(numbers)}
    if len(rows) < len(numbers):
        raise UserError(f"{truth.source}: several images have one number; list each image once")
    return rows
