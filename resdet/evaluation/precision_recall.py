"""Precision, recall and average precision per class, as VOC's and ImageNet's devkits compute them.

What they leave undefined stays NaN here: 0/0, and sums with it. Octave's and MATLAB's `max` passes
over NaN as numpy's `fmax` does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.inclusive import Bools, Floats, Ints
from resdet.evaluation.result import Result
from resdet.files.json import some

RECALLS = np.linspace(0, 1, 101)
"""Where curves are drawn."""


@dataclass
class ClassCurve:
    """One class, by descending score."""

    recall: Floats
    """(D,) after each detection; NaN without objects."""
    precision: Floats
    """(D,) after each detection; NaN as long as none counted."""
    num_gt: int
    """Objects that are to be detected."""

    def envelope(self) -> Floats:
        """(101,) best precision at a recall of at least 0, .01 … 1; 0 where it is not reached."""
        best = np.append(np.fmax.accumulate(self.precision[::-1])[::-1], 0.0)
        return np.nan_to_num(best[np.searchsorted(self.recall, RECALLS, "left")])


def class_curves(
    labels: Ints, order: Ints, right: Bools, wrong: Bools, num_gt: Ints
) -> list[ClassCurve]:
    """The curve of each class; `labels`, `right` and `wrong` are (D,), `order` (D,) sorts them by
    descending score, `num_gt` (K,) counts what is to be detected."""
    grouped = order[np.argsort(labels[order], kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=len(num_gt)))
    curves = []
    for rows, count in zip(np.split(grouped, ends[:-1]), num_gt.tolist(), strict=True):
        hits, misses = np.cumsum(right[rows]), np.cumsum(wrong[rows])
        with np.errstate(divide="ignore", invalid="ignore"):
            curves.append(ClassCurve(hits / np.float64(count), hits / (hits + misses), count))
    return curves


def eleven_point_ap(curve: ClassCurve) -> float:
    """VOC07's: the mean over recalls 0, .1 … 1 of the best precision from there on.

    The recalls are the doubles of .1·i, .30000000000000004 among them, as Octave's `0:0.1:1`
    makes them: a recall of exactly .3 does not reach the fourth.
    """
    total = 0.0
    for index in range(11):
        reached = curve.precision[curve.recall >= 0.1 * index]
        total += float(np.fmax.reduce(reached)) / 11 if len(reached) else 0.0
    return total


def area_ap(curve: ClassCurve) -> float:
    """The area under the curve whose precision is made to fall, of VOC since 2010 and of ImageNet
    (VOCap.m)."""
    recall = np.concatenate([[0.0], curve.recall, [1.0]])
    precision = np.concatenate([[0.0], curve.precision, [0.0]])
    precision = np.fmax.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    with np.errstate(invalid="ignore"):
        return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def make_result(
    truth: AnnotationTable,
    curves: list[ClassCurve],
    ap: Callable[[ClassCurve], float],
    metric: str,
    detections: Any,
    *,
    median: bool = False,
) -> Result:
    """The Result of a metric: AP per class as the devkit has it, and mAP over the classes with
    objects whose AP is not NaN."""
    values = np.array([ap(curve) for curve in curves])
    num_gt = np.array([curve.num_gt for curve in curves])
    # without objects the devkits give 0 or NaN, by metric and detections: neither is a measurement
    known = ~np.isnan(values) & (num_gt > 0)
    mean = float(values[known].mean()) if known.any() else -1.0
    summary: dict[str, Any] = {"mAP": mean}
    if median:
        summary["median_AP"] = float(np.median(values[known])) if known.any() else -1.0
    summary |= {"num_classes": int(known.sum()), "num_without_value": int((~known).sum())}
    words = f"mAP {mean:.4f} ({metric}, {known.sum()} classes)" if known.any() else "mAP -1"
    counts = np.bincount(detections.labels, minlength=len(curves))
    rows: list[dict[str, Any]] = [
        {
            "category_id": truth.category_ids[label],
            "name": truth.class_names[label],
            "num_gt": curve.num_gt,
            "num_detections": int(counts[label]),
            "AP": float(values[label]),
            "recall": float(curve.recall[-1]) if len(curve.recall) else 0.0,
        }
        for label, curve in enumerate(curves)
    ]
    for row in rows:
        row["recall"] = row["recall"] if row["num_gt"] else float("nan")
    rows.sort(key=lambda row: row["category_id"])
    return Result(
        summary,
        ("mAP", mean) if known.any() else None,
        words,
        per_class=rows,
        curves={metric: _drawn(curves)},
        class_names=list(truth.class_names),
        notes=_notes(truth, values, num_gt, detections),
        truth=truth,
        detections=detections,
    )


def _drawn(curves: list[ClassCurve]) -> NDArray[Any]:
    """(1, 101, K) precision at each recall; -1 for classes without objects."""
    columns = [curve.envelope() if curve.num_gt else np.full(101, -1.0) for curve in curves]
    return np.stack(columns, axis=1)[None] if columns else np.zeros((1, 101, 0))


def _notes(truth: AnnotationTable, values: Floats, num_gt: Ints, detections: Any) -> list[str]:
    """What was left out of the mean, and why a number may surprise."""
    notes = []
    empty = [truth.class_names[label] for label in np.flatnonzero(num_gt == 0).tolist()]
    if empty:
        notes.append(
            f"{len(empty)} of {len(values)} classes have no object to detect and are left out of "
            f"the mean: {some(empty, 8)}"
        )
    undefined = np.flatnonzero(np.isnan(values) & (num_gt > 0)).tolist()
    if undefined:
        names = some([truth.class_names[label] for label in undefined], 8)
        notes.append(
            f"{len(undefined)} classes have an AP of NaN, since no detection of theirs counted "
            f"(all match difficult objects), and are left out of the mean: {names}"
        )
    if not len(detections.scores):
        notes.append("there are no detections at all")
    elif not np.nan_to_num(values).any() and num_gt.any():
        notes.append(
            f"mAP is 0 with {len(detections.scores)} detections: none overlaps an object of its "
            "class enough; are class numbers and boxes those that the format expects?"
        )
    return notes
