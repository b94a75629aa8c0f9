"""The report of a classifier: confusion, top losses, accuracy per class, calibration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resdet.evaluation.result import Result
from resdet.evaluation.stored import Answers
from resdet.report.data import (
    Bars,
    Calibration,
    CalibrationBin,
    Cell,
    DataStatistics,
    Fact,
    GalleryGroup,
    GalleryItem,
    RunReport,
    Table,
)
from resdet.report.matching import Ints
from resdet.report.numbers import metrics_table, shorten_confusion
from resdet.report.pictures import Album, Entry
from resdet.report.source import RunSource, open_image
from resdet.structures import readable_names

BINS = 15
"""Of the calibration: Guo et al. 2017, section 2."""
LARGEST_LOSSES = 60
MIN_SHARE = 1e-12
"""Probabilities below it count as this in a loss."""
SHOWN = 3
"""Classes in a caption."""
MAX_CLASSES = 50
"""Classes in a chart of counts."""


def describe(base: RunReport, source: RunSource, album: Album) -> RunReport:
    """The report of a classifier; `base` has what all tasks have."""
    statistics = []
    if source.train is not None and base.class_names:
        counts = np.bincount(np.asarray(source.train), minlength=len(base.class_names))
        statistics.append(label_statistics("data.train", counts, base.class_names))
    answers = None if source.stored is None else source.stored.predictions
    if not isinstance(answers, Answers) or not len(answers.labels):
        return replace(base, statistics=statistics)
    counts = np.bincount(answers.labels, minlength=len(base.class_names))
    statistics.append(label_statistics("data.val", counts, base.class_names))
    matrix = confusion_matrix(answers)
    note = "Images by their class and the first of the predicted classes."
    confusion = shorten_confusion("classes", matrix, base.class_names, note, keep_last=False)
    return replace(
        base,
        statistics=statistics,
        metrics=metrics_table(Result(accuracy(answers), None, "")),
        per_class=[class_table(answers, base.class_names)],
        confusion=[confusion],
        calibration=[calibration(answers)],
        gallery=[top_losses(answers, source, album, base.class_names)],
        threshold=0.0,
    )


def accuracy(answers: Answers) -> dict[str, Any]:
    """The numbers of eval.json."""
    hits = answers.top == answers.labels[:, None]
    total = len(answers.labels)
    return {
        "top1_percent": 100 * int(hits[:, 0].sum()) / total,
        "top5_percent": 100 * int(hits.any(axis=1).sum()) / total,
        "num_images": total,
    }


def confusion_matrix(answers: Answers) -> Ints:
    """(K, K) images by true class (row) and predicted class (column)."""
    count = len(answers.class_names)
    cells = answers.labels * count + answers.top[:, 0]
    return np.bincount(cells, minlength=count**2).reshape(count, count)


def class_table(answers: Answers, names: list[str]) -> Table:
    """Accuracy of each class, and of what is predicted as it; the least accurate first."""
    matrix = confusion_matrix(answers)
    right, images, told = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    in_five = (answers.top == answers.labels[:, None]).any(axis=1)
    five = np.bincount(answers.labels[in_five], minlength=len(matrix))
    shares = right / np.maximum(images, 1)
    rows: list[list[Cell]] = []
    for k in np.lexsort((-images, np.where(images > 0, shares, 2))).tolist():
        if images[k] or told[k]:
            precision = float(100 * right[k] / told[k]) if told[k] else None
            own = (
                float(100 * each[k] / images[k]) if images[k] else None for each in (right, five)
            )
            rows.append([names[k], int(images[k]), *own, int(told[k]), precision])
    columns = ["class", "images", "top-1 %", "top-5 %", "predicted", "precision %"]
    return Table("Per class", columns, rows, "The least accurate first.", "top-1 %")


def calibration(answers: Answers) -> Calibration:
    """Expected calibration error of the first class in 15 bins of equal width (Guo et al. 2017)."""
    scores = answers.top_scores[:, 0].astype(np.float64)
    right = answers.top[:, 0] == answers.labels
    edges = np.linspace(0, 1, BINS + 1)
    # a bin has its upper limit, as in the paper
    bin_of = np.clip(np.searchsorted(edges, scores, "left") - 1, 0, BINS - 1)
    count = np.bincount(bin_of, minlength=BINS)
    known = np.maximum(count, 1)
    score = np.bincount(bin_of, scores, BINS) / known
    share = np.bincount(bin_of, right, BINS) / known
    gaps = np.where(count > 0, np.abs(score - share), 0)
    bins = [
        CalibrationBin(float(low), float(high), float(told), float(own), int(number))
        for low, high, told, own, number in zip(
            edges[:-1], edges[1:], score, share, count, strict=True
        )
    ]
    ece = float((gaps * count).sum() / max(count.sum(), 1))
    note = f"The softmax of the predicted class against the share of right images, in {BINS} bins."
    return Calibration("classes", ece, float(gaps.max()), bins, note)


def top_losses(answers: Answers, source: RunSource, album: Album, names: list[str]) -> GalleryGroup:
    """The images whose true class has the smallest share of the softmax."""
    losses = -np.log(np.maximum(answers.own_scores.astype(np.float64), MIN_SHARE))
    positions = {}
    if source.val is not None:
        positions = {source.val.name(place): place for place in range(len(source.val))}
    items = []
    for row in np.argsort(-losses, kind="stable")[:LARGEST_LOSSES].tolist():
        name = answers.names[row]
        if name not in positions:
            continue
        picture = album.row(
            name, partial(entry_of, source.val, positions[name], row, answers, names)
        )
        if picture is None:
            break
        label, guess = int(answers.labels[row]), int(answers.top[row, 0])
        is_right = label == guess
        words = f"loss {losses[row]:.2f}: {caption(row, answers, names)}"
        items.append(
            GalleryItem(
                picture,
                words,
                labels=sorted({label, guess}),
                error="correct" if is_right else "Cls",
                score=float(answers.top_scores[row, 0]),
            )
        )
    return GalleryGroup(
        "top_losses",
        "Top losses",
        "Images by the cross entropy of their class, largest first: mistakes that the network is "
        "sure of, and labels that are wrong.",
        items,
        len(losses),
    )


def caption(row: int, answers: Answers, names: list[str]) -> str:
    """The true class of an image, and the best predictions."""
    best = zip(answers.top[row, :SHOWN].tolist(), answers.top_scores[row].tolist(), strict=False)
    told = ", ".join(f"{names[label]} {score:.0%}" for label, score in best)
    return f"is {names[int(answers.labels[row])]} ({answers.own_scores[row]:.1%}); predicted {told}"


def entry_of(data: Any, place: int, row: int, answers: Answers, names: list[str]) -> Entry:
    """The image at a place of the data set for an album."""
    name = "/".join(Path(answers.names[row]).parts[-2:])
    entry = Entry(name, partial(open_image, data, place), (0, 0))
    entry.caption = caption(row, answers, names)
    return entry


def label_statistics(name: str, counts: Ints, names: list[str]) -> DataStatistics:
    """Images of each class, the commonest first."""
    order, total = np.argsort(-counts, kind="stable"), max(int(counts.sum()), 1)
    rows: list[list[Cell]] = [
        [names[k], int(counts[k]), float(counts[k] / total)] for k in order.tolist()
    ]
    table = Table("Classes", ["class", "images", "share of images"], rows, bars="share of images")
    facts = [
        Fact("images", f"{int(counts.sum()):,}"),
        Fact("classes", f"{len(names):,}", f"{int((counts == 0).sum())} of them without an image"),
    ]
    shown = order[:MAX_CLASSES].tolist()
    note = f"The {len(shown)} commonest." if len(shown) < len(names) else ""
    labels, values = [names[k] for k in shown], [int(counts[k]) for k in shown]
    bars = Bars("Images per class", "class", "images", labels, values, note)
    return DataStatistics(name, facts, table, [bars])


def class_names_of(source: RunSource) -> list[str]:
    """For people: ImageNet's words in place of its folder names."""
    return [] if source.stored is None else readable_names(source.stored.class_names)
