"""ImageNet's validation images as published: in one folder, with their classes in a file.

The development kit numbers the classes in its own order (ILSVRC2012_ID), which differs from that of
the sorted wnids; its meta.mat or map_clsloc.txt maps numbers to wnids.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resdet.data.classification.folder import (
    FileImages,
    has_folders,
    label_order,
    loose_images,
)
from resdet.data.names import pack_names
from resdet.files.findings import DataError, Finding
from resdet.files.images import SUFFIXES

NUMBERS = "ILSVRC2012_validation_ground_truth.txt"

TRUTH_FILES = (
    NUMBERS,
    f"ILSVRC2012_devkit_t12/data/{NUMBERS}",
    f"data/{NUMBERS}",
    "LOC_val_solution.csv",
    "ground_truth.txt",
    "ground_truth.csv",
    "val.txt",
    "val.csv",
)
"""Ground-truth files, searched for in the folder of the images and the two above it."""

WNID_FILES = ("meta.mat", "map_clsloc.txt")
"""Files with the wnid of each number, searched for next to the file of numbers."""

IMAGE_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")

HOW = (
    f"give data.val.ground_truth={NUMBERS} (of ILSVRC2012_devkit_t12, with meta.mat beside it), or "
    "a table of lines `file wnid`; or sort the images into one folder per class"
)


def read_flat_images(
    root: str | Path,
    *,
    ground_truth: str | Path | None = None,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
) -> FileImages:
    """The images of one folder, with their classes from a file.

    Args:
        ground_truth: the development kit's file of numbers, or a table of file and class name; None
            searches for `TRUTH_FILES`.
        classes, train_classes: see `label_order`.
    Raises:
        DataError: there is no such file, it can't be read, or it names none of the images.
    """
    root = Path(root)
    files = loose_images(root)
    truth = _find_truth(root, len(files)) if ground_truth is None else Path(ground_truth)
    if not truth.is_file():
        raise DataError(f"{truth}: no such ground-truth file; {HOW}")
    class_of, present = _read_truth(truth, files)
    names = label_order(str(truth), present, classes=classes, train_classes=train_classes)
    label_of = {name: label for label, name in enumerate(names)}
    unknown = [file for file in files if file not in class_of]
    kept = [file for file in files if class_of.get(file) in label_of]
    if not kept:
        raise DataError(f"{truth}: names none of the {len(files)} images in {root}; {HOW}")
    findings = [
        Finding(str(truth), file, "is not listed", "the image is left out; add it to the file")
        for file in unknown
    ]
    labels = np.array([label_of[class_of[file]] for file in kept], np.int64)
    return FileImages(root, pack_names(kept), labels, names, findings)


def _find_truth(root: Path, count: int) -> Path:
    absolute = root.absolute()
    for folder in (root, absolute.parent, absolute.parent.parent):
        for name in TRUTH_FILES:
            if (folder / name).is_file():
                return folder / name
    above = absolute.parent
    is_class = has_folders(above) and not loose_images(above)
    hint = f"if it is the folder of one class, give {above}; else {HOW}" if is_class else HOW
    raise DataError(
        f"{root}: {count} images without class folders, and no ground truth with them; {hint}"
    )


def _read_truth(truth: Path, files: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The class of each file that the ground truth knows, and the sorted names of all classes."""
    try:
        lines = [line.strip() for line in truth.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{truth}: not a text file; {HOW}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{truth}: empty; {HOW}")
    if all(line.isdecimal() for line in lines):
        return _by_number(truth, [int(line) for line in lines], files)
    table = dict(_rows(truth, lines))
    class_of = {file: table[_stem(file)] for file in files if _stem(file) in table}
    return class_of, sorted(set(table.values()))


def _rows(truth: Path, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(file without suffix, class) of each line of a table."""
    for number, line in enumerate(lines, 1):
        separator = r"," if "," in line else r"\s+"
        cells = [cell.strip() for cell in re.split(separator, line, maxsplit=1)]
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise DataError(f"{truth}: line {number} {line!r} is not `file class`; {HOW}")
        if number == 1 and cells[0].lower() in ("imageid", "image", "file", "filename", "name"):
            continue
        # Kaggle's table has boxes after the wnid.
        wnid = WNID.match(cells[1])
        if cells[1].isdecimal():
            raise DataError(
                f"{truth}: line {number} gives {cells[0]} the class {cells[1]}; give its name "
                "(wnid), because numbers count from 0 or 1 and in different orders"
            )
        yield _stem(cells[0].replace("\\", "/").rsplit("/", 1)[-1]), wnid[0] if wnid else cells[1]


def _stem(file: str) -> str:
    stem, dot, suffix = file.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in SUFFIXES else file


def _by_number(
    truth: Path, numbers: list[int], files: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """As `_read_truth`, for the kit's numbers: line i belongs to ILSVRC2012_val_{i:08d}.JPEG."""
    wnid_of = read_wnids(truth)
    class_of = {}
    for file in files:
        match = IMAGE_NUMBER.fullmatch(file)
        if match is None or not 1 <= int(match[1]) <= len(numbers):
            continue
        number = numbers[int(match[1]) - 1]
        if number not in wnid_of:
            raise DataError(
                f"{truth}: line {int(match[1])} is class {number}, not one of {len(wnid_of)} in "
                f"{' or '.join(WNID_FILES)} beside it; unpack the kit again"
            )
        class_of[file] = wnid_of[number]
    return class_of, sorted({wnid_of[number] for number in numbers if number in wnid_of})


def read_wnids(truth: Path) -> dict[int, str]:
    """The wnid of each ILSVRC2012_ID, from meta.mat or map_clsloc.txt beside the kit's `truth`.

    Raises:
        DataError: neither file is there, or meta.mat can't be read.
    """
    meta, text = (truth.parent / name for name in WNID_FILES)
    if text.is_file():
        lines = (line.split() for line in text.read_text().splitlines())
        return {int(cells[1]): cells[0] for cells in lines if len(cells) > 1}
    if not meta.is_file():
        raise DataError(
            f"{truth}: its numbers are in the development kit's own order, and neither "
            f"{' nor '.join(WNID_FILES)} is in {truth.parent}; put one there, or give a table of "
            "lines `file wnid`"
        )
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise DataError(
            f"{meta}: scipy reads it; pip install scipy, or put {text.name} there"
        ) from error
    try:
        synsets = np.atleast_1d(loadmat(meta, squeeze_me=True)["synsets"])
        return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except (MatReadError, ValueError, KeyError, TypeError, NotImplementedError, OSError) as error:
        raise DataError(f"{meta}: not ILSVRC's meta.mat ({error}); unpack the kit again") from error
