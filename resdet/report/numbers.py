"""The numbers of a detector's report: tables, curves, confusion, errors and calibration.

Whatever hotcoco or the metric's own result computes is taken from there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.evaluation.coco_result import IOU_75, TIDE_ERRORS
from resdet.evaluation.result import Result
from resdet.report.data import (
    BACKGROUND,
    Calibration,
    CalibrationBin,
    Cell,
    Chart,
    Confidence,
    Confusion,
    Errors,
    ErrorType,
    Series,
    Table,
)
from resdet.report.matching import IOU, Matches, best_f1, f1_of, without_ignored

POINTS = 101
"""Of a curve."""
MAX_CURVES = 12
"""Classes with a curve of their own, those with the most objects."""
MAX_CONFUSED = 40
"""Classes in a confusion matrix; of more, those of the most confused pairs."""
MAX_PAIRS = 30
ERROR_WORDS = {
    "Cls": "right place, wrong class (IoU ≥ .5 with an object of another class)",
    "Loc": "right class, too little overlap (IoU from .1 to .5)",
    "Both": "wrong class and too little overlap",
    "Dupe": "a second detection of an object that is found already",
    "Bkg": "nothing is there (IoU ≤ .1 with every object)",
    "Miss": "an object that no detection is about",
}
CALIBRATION_NOTE = "accuracy is the share of detections that match an object of their class at IoU"


def value_of(number: Any) -> Cell:
    """A number of a result; None for -1 and NaN, which mean that there is none."""
    if isinstance(number, float | np.floating):
        return None if number == -1 or not math.isfinite(number) else float(number)
    return number if isinstance(number, str | int) or number is None else str(number)


def metrics_table(result: Result) -> Table | None:
    """The summary, one row per kind."""
    groups = {name: each for name, each in result.summary.items() if isinstance(each, dict)}
    plain = {name: each for name, each in result.summary.items() if name not in groups}
    if groups:
        columns = list(next(iter(groups.values())))
        rows = [
            [name, *(value_of(each.get(key)) for key in columns)] for name, each in groups.items()
        ]
        note = " ".join(["Fractions of 1.", *(f"{remark}." for remark in result.remarks)])
        return Table("Metrics", ["kind", *map(heading, columns)], rows, note)
    if plain:
        columns = ["", *map(heading, plain)]
        return Table("Metrics", columns, [["", *map(value_of, plain.values())]])
    return None


def heading(name: str) -> str:
    """The name of a number as a table shows it: top1_percent is top1 %."""
    return name.replace("_percent", " %").removeprefix("num_").replace("_", " ")


def class_tables(result: Result) -> list[Table]:
    """The rows of per_class.csv, one table per kind; only classes that occur."""
    tables = []
    for group in dict.fromkeys(row.get("kind") for row in result.per_class):
        rows = [row for row in result.per_class if row.get("kind") == group]
        names = [name for name in rows[0] if name not in ("kind", "category_id", "name")]
        counts = [name for name in names if name.startswith("num_")]
        shown = [row for row in rows if not counts or any(row[name] for name in counts)]
        cells = [[row["name"], *(value_of(row[name]) for name in names)] for row in shown]
        bars = next((name for name in names if name in ("AP", "loc_error_percent")), None)
        headings = ["objects" if name == "num_gt" else heading(name) for name in names]
        left = len(rows) - len(shown)
        note = f"{left} classes have neither objects nor detections." if left else ""
        title = f"Per class, {group}" if group else "Per class"
        bars = None if bars is None else heading(bars)
        tables.append(Table(title, ["class", *headings], cells, note, bars))
    return tables


def precision_recall(result: Result) -> list[Chart]:
    """Mean curves per kind at IoU .50, .75 and over .50….95, and those of the largest classes."""
    charts = []
    for group, precision in result.curves.items():
        present = np.flatnonzero((precision > -1).any(axis=(0, 1)))
        if not len(present):
            continue
        recall = np.linspace(0, 1, precision.shape[1]).round(4).tolist()
        of_present = precision[:, :, present]
        series = [Series("IoU .50", recall, _rounded(of_present[0].mean(axis=1)))]
        if len(precision) > IOU_75:
            series.append(Series("IoU .75", recall, _rounded(of_present[IOU_75].mean(axis=1))))
            whole = _rounded(of_present.mean(axis=(0, 2)))
            series.append(Series("mean of .50 to .95", recall, whole))
        note = ""
        if len(present) > 1 and result.class_names:
            counts = {row["name"]: row.get("num_gt", 0) for row in result.per_class}
            order = sorted(present.tolist(), key=lambda k: -counts.get(result.class_names[k], 0))
            for label in order[:MAX_CURVES]:
                curve = _rounded(precision[0, :, label])
                series.append(Series(f"{result.class_names[label]}, IoU .50", recall, curve))
            if len(order) > MAX_CURVES:
                note = f"Of {len(order)} classes, the {MAX_CURVES} with the most objects."
        title = f"Precision over recall, {group}"
        charts.append(Chart(title, "recall", "precision", series, (0.0, 1.0), note=note))
    return charts


def confidence(matches: Matches) -> Confidence | None:
    """Precision, recall and F1 over the score; None without objects or detections."""
    scores, precision, recall = matches.curve
    if not len(scores) or not matches.is_object.any():
        return None
    threshold, f1 = best_f1(scores, precision, recall)
    grid = np.unique(np.append(np.linspace(0, 1, POINTS), threshold)).round(4)
    # the lowest score that is kept at each threshold
    kept = np.searchsorted(-scores, -grid, "right") - 1
    has_any = kept >= 0
    rows = np.maximum(kept, 0)
    curves = {
        "precision": np.where(has_any, precision[rows], np.nan),
        "recall": np.where(has_any, recall[rows], 0.0),
        "F1": np.where(has_any, f1_of(precision, recall)[rows], 0.0),
    }
    series = [Series(name, grid.tolist(), _rounded(values)) for name, values in curves.items()]
    chart = Chart(
        f"What a score threshold does, {matches.kind}",
        "score threshold",
        "fraction of 1",
        series,
        (0.0, 1.0),
        mark_x=threshold,
        note=f"All classes together, at IoU .50. The best F1 is {f1:.3f}, at {threshold:.3g}.",
    )
    return Confidence(matches.kind, chart, threshold, f1, _class_thresholds(matches))


def _class_thresholds(matches: Matches) -> Table:
    rows: list[list[Cell]] = []
    truth = matches.truth
    present = np.unique(truth.labels[matches.is_object]).tolist()
    for label in sorted(present, key=lambda k: truth.class_names[k]):
        scores, precision, recall = matches.class_curve(label)
        name = truth.class_names[label]
        f1 = f1_of(precision, recall)
        if not len(f1) or f1.max() == 0:
            rows.append([name, None, 0.0, None, 0.0])
            continue
        best = int(f1.argmax())
        threshold, value = best_f1(scores, precision, recall)
        rows.append([name, threshold, value, float(precision[best]), float(recall[best])])
    columns = ["class", "best threshold", "F1", "precision", "recall"]
    return Table(f"Best threshold per class, {matches.kind}", columns, rows, bars="F1")


def confusion(matches: Matches) -> Confusion | None:
    """hotcoco's confusion matrix of the detections at and above the best threshold."""
    if not matches.is_object.any():
        return None
    found = without_ignored(matches).confusion_matrix(
        iou_thr=IOU, min_score=matches.threshold if len(matches.detections.scores) else None
    )
    names, truth = list(matches.truth.class_names), matches.truth
    # hotcoco's rows are by category id, ours by label
    order = np.argsort(np.argsort(truth.category_ids, kind="stable"), kind="stable")
    order = np.append(order, len(names))
    matrix = np.asarray(found["matrix"]).astype(np.int64)[np.ix_(order, order)]
    note = (
        f"Detections with a score of {matches.threshold:.3g} or more, matched at IoU .50 whatever "
        f"their class. {BACKGROUND} as the predicted class: missed; as the true class: nothing is "
        "there."
    )
    return shorten_confusion(matches.kind, matrix, [*names, BACKGROUND], note, keep_last=True)


def shorten_confusion(
    kind: str, matrix: NDArray[np.int64], names: Sequence[str], note: str, *, keep_last: bool
) -> Confusion:
    """The matrix with its most confused pairs; of many classes only those of these pairs. With
    `keep_last` the last name is BACKGROUND: it stays, and pairs with it do not count."""
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    if keep_last:
        off[-1], off[:, -1] = 0, 0
    order = np.argsort(-off, axis=None, kind="stable")
    pairs = [divmod(int(place), len(matrix)) for place in order[: int((off > 0).sum())]]
    totals = matrix.sum(axis=1)
    rows: list[list[Cell]] = [
        [names[i], names[j], int(off[i, j]), float(off[i, j] / max(totals[i], 1))]
        for i, j in pairs[:MAX_PAIRS]
    ]
    columns = ["true class", "predicted class", "count", "share of the true class"]
    table = Table("Most confused classes", columns, rows)
    last = [len(matrix) - 1] if keep_last else []
    if len(names) - len(last) > MAX_CONFUSED:
        chosen: dict[int, None] = {}
        largest = np.argsort(-totals[: len(totals) - len(last)], kind="stable").tolist()
        for label in [*(label for pair in pairs for label in pair), *largest]:
            if len(chosen) < MAX_CONFUSED:
                chosen[label] = None
        keep = [*sorted(chosen), *last]
        note += (
            f" Of {len(names) - len(last)} classes, the {len(keep) - len(last)} of the most "
            "confused pairs are shown."
        )
        matrix, names = matrix[np.ix_(keep, keep)], [names[label] for label in keep]
    return Confusion(kind, list(names), matrix.tolist(), table, note)


def errors(matches: Matches) -> Errors | None:
    """TIDE's errors, as hotcoco counts them."""
    if not matches.is_object.any():
        return None
    tide = matches.evaluation.hotcoco.tide_errors()
    types = [
        ErrorType(name, ERROR_WORDS[name], float(tide["delta_ap"][name]), tide["counts"][name])
        for name in TIDE_ERRORS
    ]
    return Errors(matches.kind, float(tide["ap_base"]), types)


def calibration(matches: Matches) -> Calibration | None:
    """hotcoco's calibration in ten bins; None where scores are not within 0..1."""
    scores = matches.detections.scores
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    found = matches.evaluation.hotcoco.calibration(iou_threshold=IOU)
    bins = [
        CalibrationBin(
            each["bin_lower"],
            each["bin_upper"],
            each["avg_confidence"],
            each["avg_accuracy"],
            each["count"],
        )
        for each in found["bins"]
    ]
    note = f"Over all detections; {CALIBRATION_NOTE} .50."
    return Calibration(matches.kind, found["ece"], found["mce"], bins, note)


def _rounded(values: NDArray[Any]) -> list[float | None]:
    """Values for a chart; None for NaN and for -1, which stands for none."""
    known = np.isfinite(values) & (values > -1)
    return [
        round(float(value), 4) if is_known else None
        for value, is_known in zip(values, known, strict=True)
    ]
