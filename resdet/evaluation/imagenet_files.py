"""Prediction files and blacklists of the ILSVRC devkits.

DET: lines `image_index label score x1 y1 x2 y2`. LOC: one line per image, in order, of up to five
guesses `label x1 y1 x2 y2`. Labels and images count from 1, pixels from 0 with the last included.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.image_numbers import image_numbers, rows_of_numbers
from resdet.evaluation.inclusive import Bools, Ints, PixelDetections, image_labels
from resdet.evaluation.text_files import (
    check_lengths,
    check_whole,
    note_negative,
    read_text,
    split_lines,
    to_numbers,
)
from resdet.files.findings import DataError
from resdet.files.json import some
from resdet.files.writing import write_text

DET_COLUMNS = "image_index label score x1 y1 x2 y2"
LOC_COLUMNS = "label x1 y1 x2 y2, up to five times"
GUESSES = 5
"""Guesses per image that count in LOC."""
NUM_CLASSES = 1000
NO_CLASS = -2
"""The label of a guess that nothing is: wrong, whatever the image."""
_WNID_FILES = ("meta.mat", "map_clsloc.txt")


def read_det_predictions(path: str | Path, truth: AnnotationTable) -> PixelDetections:
    """The detections of a DET prediction file, plain or packed; labels are category ids.

    Raises DataError for malformed lines, and for images and labels that the ground truth lacks.
    """
    source, lines = str(path), split_lines(read_text(path))
    check_lengths(lines, 7, source, DET_COLUMNS)
    values = to_numbers(lines, 0, source).reshape(-1, 7)
    numbers = [number for number, _ in lines]
    check_whole(values[:, 0], numbers, source, "image_index")
    check_whole(values[:, 1], numbers, source, "label")
    images = _look_up(values[:, 0], image_numbers(truth))
    for row in np.flatnonzero(images < 0)[:1].tolist():
        known = image_numbers(truth)
        raise DataError(
            f"{source}: line {numbers[row]}: image {values[row, 0]:g} is not in {truth.source}, "
            f"whose {len(known)} images have numbers from {known.min()} to {known.max()}; give the "
            "ground truth of this set, or drop the line"
        )
    labels = _look_up(values[:, 1], np.array(truth.category_ids, np.int64))
    for row in np.flatnonzero(labels < 0)[:1].tolist():
        raise DataError(
            f"{source}: line {numbers[row]}: label {values[row, 1]:g} is not one of the ground "
            f"truth's {len(truth.category_ids)} classes; labels count from 1"
        )
    notes = note_negative(values[:, 3:], numbers, source)
    return PixelDetections(images, labels, values[:, 2], values[:, 3:], 0, notes)


def _look_up(values: np.ndarray, known: Ints) -> Ints:
    """(N,) the place of each value in `known` (M,) distinct numbers; -1 where it is none."""
    if not len(known):
        return np.full(len(values), -1)
    order = np.argsort(known)
    place = np.searchsorted(known[order], values).clip(max=len(known) - 1)
    return np.where(known[order][place] == values, order[place], -1)


def write_det_predictions(path: Path, truth: AnnotationTable, detections: PixelDetections) -> Path:
    """Write a DET prediction file, images in ascending order; returns its path."""
    numbers = image_numbers(truth)[detections.images]
    corners = (detections.corners - detections.base).round(3).tolist()
    ids, labels = truth.category_ids, detections.labels.tolist()
    lines = []
    for row in np.argsort(numbers, kind="stable").tolist():
        box = " ".join(f"{value:.3f}" for value in corners[row])
        score = detections.scores[row]
        lines.append(f"{numbers[row]} {ids[labels[row]]} {score:.9g} {box}\n")
    return write_text(path, "".join(lines))


def read_loc_predictions(
    path: str | Path, truth: AnnotationTable, class_numbers: Mapping[int, int] | None = None
) -> PixelDetections:
    """The guesses of a LOC prediction file, plain or packed, best first.

    `class_numbers` maps the file's numbers to labels; None takes category ids. Line i is the image
    with the i-th number. A label of 0 stands for no guess. Raises DataError for malformed lines and
    another number of lines than images.
    """
    source, text = str(path), read_text(path)
    lines = split_lines(text)
    if class_numbers is None:
        class_numbers = {number: label for label, number in enumerate(truth.category_ids)}
    _check_guesses(lines, source, len(truth.image_ids), truth)
    notes = []
    if any(len(row) > 5 * GUESSES for _, row in lines):
        notes.append(f"{source}: guesses after the fifth of an image are ignored")
        lines = [(number, row[: 5 * GUESSES]) for number, row in lines]
    values = to_numbers(lines, 0, source).reshape(-1, 5)
    counts = [len(row) // 5 for _, row in lines]
    numbers = np.repeat([number for number, _ in lines], counts)
    check_whole(values[:, 0], numbers.tolist(), source, "label")
    is_guess = values[:, 0] != 0
    notes += note_negative(values[is_guess, 1:], numbers[is_guess].tolist(), source)
    keys = np.array(list(class_numbers), np.int64)
    place = _look_up(values[:, 0], keys)
    for row in np.flatnonzero((place < 0) & is_guess)[:1].tolist():
        raise DataError(
            f"{source}: line {numbers[row]}: label {values[row, 0]:g} is not one of the "
            f"{len(keys)} classes ({keys.min()} to {keys.max()}); write one, or 0 for no guess"
        )
    labels = np.where(is_guess, np.array([*class_numbers.values()], np.int64)[place], NO_CLASS)
    images = np.repeat(np.argsort(image_numbers(truth), kind="stable"), counts)
    scores = np.zeros(len(images))
    return PixelDetections(images, labels, scores, values[:, 1:], 0, notes)


def _check_guesses(
    lines: list[tuple[int, list[str]]], source: str, num_images: int, truth: AnnotationTable
) -> None:
    """DataError unless there is a line per image, without gaps, of whole guesses."""
    for place, (number, row) in enumerate(lines, 1):
        if number != place:
            raise DataError(
                f"{source}: line {place}: it is empty; write `0 0 0 0 0` for an image without "
                "a guess"
            )
        if len(row) % 5:
            raise DataError(
                f"{source}: line {number}: {len(row)} values, not a multiple of 5; write "
                f"`{LOC_COLUMNS}`"
            )
    if len(lines) != num_images:
        raise DataError(
            f"{source}: {len(lines)} lines for the {num_images} images of {truth.source}; write "
            "one line per image, in their order"
        )


def write_loc_predictions(
    path: Path,
    truth: AnnotationTable,
    guesses: PixelDetections,
    class_numbers: Mapping[int, int] | None = None,
) -> Path:
    """Write a LOC prediction file: one line per image in the order of their numbers.

    `class_numbers` maps labels to the file's numbers; None writes category ids.
    """
    ids: Any = truth.category_ids if class_numbers is None else class_numbers
    lines: list[list[str]] = [[] for _ in truth.image_ids]
    corners = (guesses.corners - guesses.base).round(3).tolist()
    columns = zip(guesses.images.tolist(), guesses.labels.tolist(), corners, strict=True)
    for image, label, box in columns:
        if len(lines[image]) < GUESSES:
            words = [str(ids[label] if label >= 0 else 0), *(f"{value:.3f}" for value in box)]
            lines[image].append(" ".join(words))
    order = np.argsort(image_numbers(truth), kind="stable").tolist()
    return write_text(path, "".join(" ".join(lines[row] or ["0 0 0 0 0"]) + "\n" for row in order))


def write_kaggle_guesses(path: Path, truth: AnnotationTable, guesses: PixelDetections) -> Path:
    """Write LOC_sample_submission.csv's format of Kaggle's localization challenge, whose classes
    are wnids: `ImageId,PredictionString` with `wnid x1 y1 x2 y2` per guess, in whole pixels."""
    rows: list[list[str]] = [[] for _ in truth.image_ids]
    corners = np.rint(guesses.corners - guesses.base).astype(np.int64).tolist()
    columns = zip(guesses.images.tolist(), guesses.labels.tolist(), corners, strict=True)
    for image, label, box in columns:
        if label >= 0 and len(rows[image]) < GUESSES:
            rows[image].append(" ".join([truth.class_names[label], *map(str, box)]))
    order = np.argsort(image_numbers(truth), kind="stable").tolist()
    lines = [f"{truth.image_ids[row]},{' '.join(rows[row])}\n" for row in order]
    return write_text(path, "ImageId,PredictionString\n" + "".join(lines))


def read_det_blacklist(path: str | Path, truth: AnnotationTable) -> Ints:
    """(B, 2) rows of images and labels from lines `image class`.

    An image is given by its number or its id, a class by its wnid, its name or its number. Lines
    with images or classes that the ground truth lacks are ignored, because the list is that of the
    whole validation set.
    """
    source, lines = str(path), split_lines(read_text(path))
    check_lengths(lines, 2, source, "image_index wnid")
    rows = {str(number): row for number, row in rows_of_numbers(truth).items()}
    rows = {str(image): row for row, image in enumerate(truth.image_ids)} | rows
    labels = {str(number): label for label, number in enumerate(truth.category_ids)}
    for names in (truth.class_names, truth.class_extras.get("wnid", [])):
        labels |= {str(name): label for label, name in enumerate(names)}
    pairs = [(rows[i], labels[c]) for _, (i, c) in lines if i in rows and c in labels]
    if lines and not any(c in labels for _, (_, c) in lines):
        raise DataError(
            f"{source}: no line has a class of {truth.source}, such as "
            f"{some([*labels][-1:])}; give the blacklist of this benchmark"
        )
    return np.array(pairs, np.int64).reshape(-1, 2)


def read_loc_blacklist(path: str | Path, truth: AnnotationTable) -> Bools:
    """(N,) the images listed, by number or by id, one per line."""
    source, lines = str(path), split_lines(read_text(path))
    check_lengths(lines, 1, source, "image_index")
    rows = {str(number): row for number, row in rows_of_numbers(truth).items()}
    rows = {str(image): row for row, image in enumerate(truth.image_ids)} | rows
    for number, (word,) in lines:
        if word not in rows and not word.isdecimal():
            raise DataError(
                f"{source}: line {number}: {word!r:.60} is not the number of an image; give the "
                "blacklist of the localization task"
            )
    listed = np.zeros(len(truth.image_ids), bool)
    listed[[rows[word] for _, (word,) in lines if word in rows]] = True
    return listed


def class_numbers(path: str | Path, truth: AnnotationTable) -> dict[int, int]:
    """Labels by the devkit's class numbers, which are in an order of its own.

    `path` is its meta.mat or map_clsloc.txt, for annotations whose classes are wnids; or its
    ILSVRC2012_validation_ground_truth.txt, whose line i is the class number of image i: the label
    that the annotations give that image is the one of this number. Numbers up
    to 1,000 of classes that the annotations lack get the label `NO_CLASS`. Raises DataError where
    file and annotations do not belong together.
    """
    if Path(path).name in _WNID_FILES:
        labels = _numbers_of_wnids(Path(path), truth)
    else:
        labels = _numbers_of_images(str(path), truth)
    return dict.fromkeys(range(1, NUM_CLASSES + 1), NO_CLASS) | labels


def _numbers_of_wnids(path: Path, truth: AnnotationTable) -> dict[int, int]:
    from resdet.data.classification.imagenet import read_wnids  # with torch

    label_of = {name: label for label, name in enumerate(truth.class_names)}
    try:
        wnids = read_wnids(path)
    except ValueError as error:
        raise DataError(f"{path}: no lines `wnid number name` ({error}); unpack it again") from None
    labels = {number: label_of[wnid] for number, wnid in wnids.items() if wnid in label_of}
    if len(labels) < len(label_of):
        missing = [name for name in label_of if label_of[name] not in labels.values()]
        raise DataError(
            f"{path}: it has no number for {some(missing)} of {truth.source}; give annotations "
            "whose classes are wnids"
        )
    return labels


def _numbers_of_images(source: str, truth: AnnotationTable) -> dict[int, int]:
    lines = split_lines(read_text(source))
    check_lengths(lines, 1, source, "label")
    values = to_numbers(lines, 0, source)
    check_whole(values, [number for number, _ in lines], source, "label")
    images = image_numbers(truth)
    own = image_labels(truth)
    labels: dict[int, int] = {}
    for row in np.argsort(images, kind="stable").tolist():
        if own[row] < 0:
            continue
        if not 1 <= images[row] <= len(values):
            raise DataError(
                f"{source}: {len(values)} lines, and {truth.source} has an image {images[row]}; "
                "give the ground truth of this set"
            )
        number = int(values[images[row] - 1])
        if labels.setdefault(number, int(own[row])) != own[row]:
            names = [truth.class_names[label] for label in (labels[number], own[row])]
            raise DataError(
                f"{source}: line {images[row]}: class {number} is {names[1]} in {truth.source}, "
                f"and {names[0]} in an earlier line; give files that belong together"
            )
    if len(set(labels.values())) < len(labels):
        raise DataError(
            f"{source}: several class numbers stand for one class of {truth.source}; give files "
            "that belong together"
        )
    return labels
