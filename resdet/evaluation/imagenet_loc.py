"""ImageNet's localization error, as eval_clsloc.m of the devkits computes it.

Each image has one class and up to five guesses, a label and a box each. A guess is right if its
label is the image's and its box overlaps any object by at least .5, in inclusive pixels. Numbers
are percent of the images. eval_localization_flat.m of 2012 is the same without a blacklist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.imagenet_files import GUESSES, read_loc_blacklist
from resdet.evaluation.inclusive import (
    Bools,
    Ints,
    PixelDetections,
    image_labels,
    overlaps,
    pair_up,
    truth_corners,
)
from resdet.evaluation.pixel_evaluator import PixelEvaluator
from resdet.evaluation.result import EvalSettings, Result, no_metrics
from resdet.files.json import some

if TYPE_CHECKING:
    from resdet.structures import Detections


@dataclass
class Localization:
    """What the guesses about N images are worth."""

    classified: Bools
    """(N, 5) whether one of the first 1, 2 … 5 guesses has the image's label."""
    localized: Bools
    """(N, 5) whether one of them is right."""
    labels: Ints
    """(N,) the image's label; -1 for an image without objects, which does not count."""
    blacklisted: Bools
    """(N,) which the localization error does not count."""

    def class_error(self, guesses: int = GUESSES, rows: Any = slice(None)) -> float:
        """Fraction of the images, those on the blacklist included."""
        counted = self.labels[rows] >= 0
        wrong = ~self.classified[rows, guesses - 1] & counted
        return float(np.float64(wrong.sum()) / max(counted.sum(), 1))

    def error(self, guesses: int = GUESSES, rows: Any = slice(None)) -> float:
        """Fraction of the images that are not on the blacklist."""
        counted = (self.labels[rows] >= 0) & ~self.blacklisted[rows]
        wrong = ~self.localized[rows, guesses - 1] & counted
        return float(np.float64(wrong.sum()) / max(counted.sum(), 1))


def localize(
    truth: AnnotationTable, guesses: PixelDetections, blacklisted: Bools | None = None
) -> Localization:
    """Judges guesses, of which each image's come best first; those after the fifth do not count."""
    count = len(truth.image_ids)
    labels = image_labels(truth)
    rank = _ranks(guesses.images)
    kept = guesses.rows(rank < GUESSES)
    rank = rank[rank < GUESSES]
    has_label = kept.labels == labels[kept.images]
    rows, objects = pair_up(np.where(has_label, kept.images, -1), truth.image_of)
    corners = truth_corners(truth, guesses.base)
    is_enough = overlaps(kept.corners[rows], corners[objects]) >= 0.5
    classified, localized = np.zeros((count, GUESSES), bool), np.zeros((count, GUESSES), bool)
    classified[kept.images[has_label], rank[has_label]] = True
    localized[kept.images[rows[is_enough]], rank[rows[is_enough]]] = True
    return Localization(
        np.logical_or.accumulate(classified, axis=1),
        np.logical_or.accumulate(localized, axis=1),
        labels,
        np.zeros(count, bool) if blacklisted is None else blacklisted,
    )


def _ranks(images: Ints) -> Ints:
    """(G,) the place of each guess among those of its image, from 0."""
    order = np.argsort(images, kind="stable")
    starts = np.flatnonzero(np.diff(images[order], prepend=-1))
    sizes = np.diff(starts, append=len(images))
    ranks = np.empty(len(images), np.int64)
    ranks[order] = np.arange(len(images)) - np.repeat(starts, sizes)
    return ranks


def evaluate_loc(
    truth: AnnotationTable, guesses: PixelDetections, blacklisted: Bools | None = None
) -> Result:
    """Localization and classification errors of up to five guesses, and of the first alone."""
    if not truth.has_annotations:
        return no_metrics(truth, guesses)
    judged = localize(truth, guesses, blacklisted)
    counted = judged.labels >= 0
    if not counted.any():
        note = f"{truth.source}: no image has an object, so there is nothing to localize"
        return Result(
            {"num_images": 0},
            None,
            "no image with an object",
            notes=[note],
            truth=truth,
            detections=guesses,
        )
    error, class_error = 100 * judged.error(), 100 * judged.class_error()
    summary: dict[str, Any] = {
        "loc_percent": 100 - error,
        "cls_percent": 100 - class_error,
        "loc_error_percent": error,
        "cls_error_percent": class_error,
        "loc_top1_error_percent": 100 * judged.error(1),
        "cls_top1_error_percent": 100 * judged.class_error(1),
        "num_images": int(counted.sum()),
        "num_blacklisted": int((judged.blacklisted & counted).sum()),
    }
    words = f"localization error {error:.2f} %, classification error {class_error:.2f} %"
    return Result(
        summary,
        ("localization %", 100 - error),
        words,
        per_class=_class_rows(truth, judged),
        notes=[*guesses.notes, *_notes(truth, guesses, judged)],
        truth=truth,
        detections=guesses,
    )


def _class_rows(truth: AnnotationTable, judged: Localization) -> list[dict[str, Any]]:
    rows = []
    for label in np.argsort(truth.category_ids, kind="stable").tolist():
        own = np.flatnonzero(judged.labels == label)
        counted = bool((~judged.blacklisted[own]).any())
        class_error = 100 * judged.class_error(rows=own) if len(own) else float("nan")
        rows.append(
            {
                "category_id": truth.category_ids[label],
                "name": truth.class_names[label],
                "num_images": len(own),
                "loc_error_percent": 100 * judged.error(rows=own) if counted else float("nan"),
                "cls_error_percent": class_error,
            }
        )
    return rows


def _notes(truth: AnnotationTable, guesses: PixelDetections, judged: Localization) -> list[str]:
    notes = []
    ids = truth.image_ids
    bare = np.flatnonzero(judged.labels < 0)
    if len(bare):
        names = some([ids[row] for row in bare.tolist()[:6]], 5)
        notes.append(f"{len(bare)} images have no object and do not count: {names}")
    silent = np.setdiff1d(np.flatnonzero(judged.labels >= 0), guesses.images)
    if len(silent):
        names = some([ids[row] for row in silent.tolist()[:6]], 5)
        notes.append(f"{len(silent)} images have no guess and count as wrong: {names}")
    if judged.blacklisted.any():
        notes.append(f"{int(judged.blacklisted.sum())} images are on the blacklist")
    return notes


class LocEvaluator(PixelEvaluator):
    """ImageNet's localization error as an `Evaluator`: `Detections` are guesses, best first."""

    keeps_unknown = True
    """A guess of a class that no image has is wrong and counts among the five."""

    def __init__(self, truth: AnnotationTable, settings: EvalSettings | None = None) -> None:
        super().__init__(truth, settings)
        image_labels(truth)  # one class per image, before anything is computed
        path = self.settings.blacklist
        self.blacklisted = None if path is None else read_loc_blacklist(path, truth)

    def update(self, image_ids: Sequence[int | str], predictions: Sequence[Detections]) -> None:
        """As of the other metrics; the sixth and later guesses of an image are ignored."""
        super().update(image_ids, [guesses[:GUESSES] for guesses in predictions])

    def compute(self) -> Result:
        """Evaluate everything added so far."""
        return evaluate_loc(self.truth, self.gathered(0), self.blacklisted).log_notes()
