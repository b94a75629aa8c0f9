"""The report of a localizer: its table of errors and the images that it gets wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation import EvalSettings, build_evaluator
from resdet.evaluation.imagenet_loc import localize
from resdet.evaluation.inclusive import PixelDetections, overlaps, truth_corners
from resdet.evaluation.result import Result
from resdet.report.analysis import as_detections, pixel_state, read_summary
from resdet.report.data import GalleryGroup, GalleryItem, Mark, RunReport
from resdet.report.facts import detection_statistics
from resdet.report.matching import Floats, Ints
from resdet.report.numbers import class_tables, metrics_table
from resdet.report.pictures import Album, Marks, Path, scaled_box
from resdet.report.source import RunSource, TruthImages, check_images

WORST = 60
ENOUGH = 0.5
"""Overlap from which a box is right."""


@dataclass(frozen=True)
class Guesses:
    """The guesses about one image, best first, and how they overlap its objects."""

    rows: Ints
    """(G,) rows of the guesses."""
    objects: Ints
    """(T,) rows of the objects."""
    ious: Floats
    """(G, T) in inclusive pixels; 0 where they do not meet."""


def describe(base: RunReport, source: RunSource, album: Album, run: int) -> RunReport:
    """The report of a localizer; `base` has what all tasks have."""
    statistics = []
    if source.train is not None:
        statistics.append(detection_statistics("data.train", source.train))  # type: ignore[arg-type]
    if source.val is not None:
        statistics.append(detection_statistics("data.val", source.val.table))
    base = replace(base, statistics=statistics)
    guesses = None if source.stored is None else source.stored.predictions
    if source.stored is None or source.val is None or not isinstance(guesses, PixelDetections):
        summary = read_summary(source.folder)
        return replace(base, metrics=metrics_table(Result(summary, None, "")) if summary else None)
    truth = source.stored.truth(source.val.table)
    check_images(truth, source.val)
    config: Any = source.evaluated
    settings = EvalSettings(("bbox",), blacklist=config.eval.blacklist)
    evaluator: Any = build_evaluator(config.eval.metric, truth, settings)
    evaluator.merge(pixel_state(guesses))
    result = evaluator.compute()
    return replace(
        base,
        notes=[*base.notes, *result.notes],
        metrics=metrics_table(result),
        per_class=class_tables(result),
        gallery=[_worst(truth, guesses, TruthImages(truth, source.val), album, run)],
        threshold=0.0,
    )


def _worst(
    truth: AnnotationTable, guesses: PixelDetections, images: TruthImages, album: Album, run: int
) -> GalleryGroup:
    """Images without a right guess, the surest wrong guess first."""
    judged = localize(truth, guesses)
    wrong = np.flatnonzero((judged.labels >= 0) & ~judged.localized[:, -1])
    best = np.full(len(truth.image_ids), -np.inf)
    np.maximum.at(best, guesses.images, guesses.scores)
    items = []
    for image in wrong[np.argsort(-best[wrong], kind="stable")][:WORST].tolist():
        one = _guesses(truth, guesses, image)
        key = images.key(image)
        row = album.row(key, partial(images.entry, image))
        if row is None:
            break
        make = partial(_marks, truth, guesses, one, run)
        album.entries[key].marks.append(Marks(make, partial(_counts, guesses, one)))
        label = int(judged.labels[image])
        name = truth.class_names[label]
        own = one.ious[guesses.labels[one.rows] == label]
        if not len(one.rows):
            reason, error = f"{name}: no guess", "missed"
        elif not own.size:
            reason, error = f"{name}: none of the guesses is of this class", "Cls"
        else:
            reason = f"{name}: right class, but the best box has an overlap of {own.max():.2f}"
            error = "Loc"
        items.append(GalleryItem(row, reason, labels=[label], error=error))
    words = "Images without a right guess: the highest score first."
    return GalleryGroup("worst", "Worst images", words, items, len(wrong))


def _guesses(truth: AnnotationTable, guesses: PixelDetections, image: int) -> Guesses:
    rows = np.flatnonzero(guesses.images == image)
    objects = np.flatnonzero(truth.image_of == image)
    left, right = np.repeat(rows, len(objects)), np.tile(objects, len(rows))
    ious = overlaps(guesses.corners[left], truth_corners(truth, guesses.base)[right])
    return Guesses(rows, objects, np.maximum(ious, 0).reshape(len(rows), len(objects)))


def _counts(guesses: PixelDetections, one: Guesses) -> tuple[int, int]:
    """Objects, and guesses of classes that the data has."""
    return len(one.objects), int((guesses.labels[one.rows] >= 0).sum())


def _marks(
    truth: AnnotationTable,
    guesses: PixelDetections,
    one: Guesses,
    run: int,
    scale: float,
    path: Path,
) -> tuple[list[Mark], list[Mark]]:
    boxes = as_detections(guesses).boxes
    truths = [
        Mark(scaled_box(truth.boxes_xywh[row], scale), int(truth.labels[row]), "missed", run=run)
        for row in one.objects.tolist()
    ]
    marks = []
    for row, ious in zip(one.rows.tolist(), one.ious, strict=True):
        label = int(guesses.labels[row])
        if label < 0:  # of a class that the data does not have
            continue
        nearest = int(ious.argmax()) if len(ious) else -1
        iou = float(ious[nearest]) if nearest >= 0 else 0.0
        same = nearest >= 0 and label == int(truth.labels[one.objects[nearest]])
        status = ("correct" if iou >= ENOUGH else "Loc") if same else "Cls"
        marks.append(
            Mark(
                scaled_box(boxes[row], scale),
                label,
                status,
                round(float(guesses.scores[row]), 4),
                round(iou, 3) if nearest >= 0 else None,
                nearest if nearest >= 0 else None,
                run=run,
            )
        )
    return truths, marks
