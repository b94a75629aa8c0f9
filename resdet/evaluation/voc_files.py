"""VOC's result files, comp4_det_SET_CLASS.txt: lines `image_id confidence x1 y1 x2 y2`.

Boxes are in inclusive pixels counted from 1 (VOC2012 devkit, section 8.2 of its documentation).
"""

import io
import re
import tarfile
from pathlib import Path

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.inclusive import Floats, Ints, PixelDetections
from resdet.evaluation.text_files import (
    check_lengths,
    is_archive,
    note_negative,
    read_archive,
    read_text,
    split_lines,
    to_numbers,
)
from resdet.files.findings import DataError
from resdet.files.json import some
from resdet.files.walk import walk
from resdet.files.writing import open_atomic

COLUMNS = "image_id confidence x1 y1 x2 y2"
_NAME = re.compile(r"comp[34].*?_det_([A-Za-z0-9]+)_(.+)\.txt")
PATTERN = "comp4_det_test_CLASS.txt"


def read_voc_results(path: str | Path, truth: AnnotationTable) -> PixelDetections:
    """The detections of a folder, an archive or one file of VOC's result files.

    A class without a file has no detections, and a file of a class that the ground truth lacks is
    left out: both are noted. Raises DataError for malformed lines, unknown images, two files of one
    class, and where there is no file of a known class.
    """
    label_of = {name: label for label, name in enumerate(truth.class_names)}
    rows = image_rows(truth)
    texts = _texts(Path(path))
    unknown = [name for name in texts if name not in label_of]
    if len(unknown) == len(texts):
        raise DataError(
            f"{path}: files of the classes {some(unknown)}, and the ground truth {truth.source} "
            f"has {some(truth.class_names)}; give the results that belong to it"
        )
    columns: list[tuple[Ints, Ints, Floats, Floats]] = []
    notes: list[str] = []
    for name, (source, text) in texts.items():
        if name in label_of:
            columns.append(_read_class(text, source, label_of[name], rows, truth, notes))
    if unknown:
        notes.append(f"{path}: classes that {truth.source} lacks are left out: {some(unknown)}")
    silent = [name for name in truth.class_names if name not in texts]
    if silent:
        notes.append(
            f"{path}: no file for {len(silent)} classes, which count as without detections: "
            f"{some(silent)}"
        )
    images, labels, scores, corners = (np.concatenate(each) for each in zip(*columns, strict=True))
    return PixelDetections(images, labels, scores, corners, 1, notes)


def image_rows(truth: AnnotationTable) -> dict[str, int]:
    """The row of each image by its id as text and, where no id is so called, by its file name
    without suffix."""
    stems = {Path(name).stem: row for row, name in enumerate(truth.file_names) if name}
    return stems | {str(image): row for row, image in enumerate(truth.image_ids)}


def _texts(path: Path) -> dict[str, tuple[str, str]]:
    """(name for messages, text) by class."""
    if path.is_dir():
        named = [(str(file), file.name) for file in walk(path, (".txt",))]
        matches = [(source, match) for source, name in named if (match := _NAME.fullmatch(name))]
        found = [(match, source, read_text(source)) for source, match in matches]
    elif is_archive(path):
        found = [
            (match, f"{path}: {name}", text)
            for name, text in sorted(read_archive(path, ".txt"))
            if (match := _NAME.fullmatch(name.rsplit("/", 1)[-1]))
        ]
    else:
        name = re.sub(r"\.(gz|xz|bz2)$", "", path.name)
        match = _NAME.fullmatch(name)
        found = [(match, str(path), read_text(path))] if match else []
    if not found:
        what = "no such file or folder" if not path.exists() else f"no file {PATTERN} in it"
        raise DataError(f"{path}: {what}; give VOC's result files, one per class")
    texts: dict[str, tuple[str, str]] = {}
    for match, source, text in found:
        if match[2] in texts:
            raise DataError(
                f"{source}: {texts[match[2]][0]} is of the same class; give the files of one set"
            )
        texts[match[2]] = (source, text)
    return texts


def _read_class(
    text: str,
    source: str,
    label: int,
    rows: dict[str, int],
    truth: AnnotationTable,
    notes: list[str],
) -> tuple[Ints, Ints, Floats, Floats]:
    """images, labels, scores, corners of one file."""
    lines = split_lines(text)
    check_lengths(lines, 6, source, COLUMNS)
    values = to_numbers(lines, 1, source).reshape(-1, 5)
    numbers = [number for number, _ in lines]
    notes += note_negative(values[:, 1:], numbers, source)
    images = np.array([rows.get(row[0], -1) for _, row in lines], np.int64)
    for row in np.flatnonzero(images < 0)[:1].tolist():
        number, words = lines[row]
        raise DataError(
            f"{source}: line {number}: image {words[0]!r:.60} is not in {truth.source} (it has "
            f"{some(truth.image_ids, 2)}); give the ground truth of this set, or drop the line"
        )
    return images, np.full(len(images), label), values[:, 0], values[:, 1:]


def write_voc_results(
    archive: Path, truth: AnnotationTable, detections: PixelDetections, *, year: int, subset: str
) -> Path:
    """Write results/VOC<year>/Main/comp4_det_<subset>_CLASS.txt of all classes as a tar.gz, which
    is what the evaluation server takes; returns its path.

    Scores keep their 9 digits, boxes 3 decimals: what is read again gives the same AP.
    """
    for name in truth.class_names:
        if re.search(r"[\s/\\]", name) or not name:
            raise UserError(f"class {name!r}: VOC's files are named by class; rename it")
    ids = [str(image) for image in truth.image_ids]
    spaced = next((image for image in ids if image.split() != [image]), None)
    if spaced is not None:
        raise UserError(f"image {spaced!r}: VOC's files cannot hold an id with a space; rename it")
    corners = (detections.corners + 1 - detections.base).round(3).tolist()
    scores, images = detections.scores.tolist(), detections.images.tolist()
    with open_atomic(archive, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for label, name in enumerate(truth.class_names):
            lines = []
            for row in np.flatnonzero(detections.labels == label).tolist():
                box = " ".join(f"{value:.3f}" for value in corners[row])
                lines.append(f"{ids[images[row]]} {scores[row]:.9g} {box}\n")
            content = "".join(lines).encode()
            member = tarfile.TarInfo(f"results/VOC{year}/Main/comp4_det_{subset}_{name}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive
