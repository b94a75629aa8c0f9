"""The result of a COCO or LVIS evaluation: numbers per class, notes and error analysis."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.coco_backends import Evaluation
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.result import Result, no_metrics

IOU_50, IOU_75 = 0, 5
AREAS = ("", "s", "m", "l")
_AREA_WORDS = {
    "s": "up to 32² px²",
    "m": "from 32² to 96² px²",
    "l": "from 96² px²",
}
TIDE_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")


def make_result(
    truth: AnnotationTable,
    table: DetectionTable,
    evaluations: dict[str, Evaluation],
    summary: dict[str, dict[str, float]],
) -> Result:
    """The numbers with everything around them; none for files without annotations."""
    if not evaluations:
        return no_metrics(truth, table, records=table.records(truth))
    result = Result(
        summary,
        choose_best(summary),
        in_words(summary),
        class_names=list(truth.class_names),
        truth=truth,
        detections=table,
    )
    for iou_type, evaluation in evaluations.items():
        result.per_class += class_rows(evaluation, truth, table, iou_type)
        result.curves[iou_type] = evaluation.precision[:, :, :, 0]
        result.notes += _explain(iou_type, summary[iou_type], truth, table)
    result.remarks += _empty_sizes(summary, truth)
    if all(evaluation.hotcoco for evaluation in evaluations.values()):
        scores = table.scores
        are_shares = not len(scores) or bool(scores.min() >= 0 and scores.max() <= 1)
        result.details = partial(analyze_errors, evaluations, calibrate=are_shares)
    return result


def choose_best(summary: dict[str, dict[str, float]]) -> tuple[str, float] | None:
    """AP of masks where there are any, else of boxes; None without objects."""
    iou_type = list(summary)[-1]
    value = summary[iou_type]["AP"]
    return None if value == -1 else (f"{iou_type} AP", value)


def in_words(summary: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"{iou_type} AP {numbers['AP']:.4f} AP50 {numbers['AP50']:.4f} AP75 {numbers['AP75']:.4f}"
        for iou_type, numbers in summary.items()
    )


def mean(values: NDArray[Any]) -> float:
    """Mean of what has a value; -1 where nothing has."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def precision_numbers(precision: NDArray[Any]) -> dict[str, float]:
    """AP AP50 AP75 APs APm APl of precision (T, R, K, A)."""
    numbers = {"AP": mean(precision[..., 0])}
    numbers["AP50"] = mean(precision[IOU_50, ..., 0])
    numbers["AP75"] = mean(precision[IOU_75, ..., 0])
    return numbers | {f"AP{AREAS[area]}": mean(precision[..., area]) for area in (1, 2, 3)}


def class_rows(
    evaluation: Evaluation, truth: AnnotationTable, table: DetectionTable, iou_type: str
) -> list[dict[str, Any]]:
    """A row per class, by category id; numbers are -1 where there is nothing to find."""
    count = len(truth.class_names)
    num_gt = np.bincount(truth.labels[~truth.crowd], minlength=count)
    num_detections = np.bincount(table.labels, minlength=count)
    rows = []
    for label in np.argsort(truth.category_ids, kind="stable").tolist():
        rows.append(
            {
                "kind": iou_type,
                "category_id": truth.category_ids[label],
                "name": truth.class_names[label],
                "num_gt": int(num_gt[label]),
                "num_detections": int(num_detections[label]),
                **precision_numbers(evaluation.precision[:, :, label]),
                "AR": mean(evaluation.recall[:, label, 0, -1]),
            }
        )
    return rows


def analyze_errors(evaluations: dict[str, Evaluation], *, calibrate: bool) -> dict[str, Any]:
    """TIDE's errors per IoU type and, to `calibrate` scores within 0..1, their calibration.

    TIDE (Bolya et al. 2020) gives the AP50 that would be gained by fixing one kind of error: wrong
    class, poor localisation, both, duplicates, background, missed objects. Calibration compares
    scores with the share of detections that match at IoU .50, in ten bins.
    """
    details: dict[str, Any] = {"tide": {}} | ({"calibration": {}} if calibrate else {})
    for iou_type, evaluation in evaluations.items():
        tide = evaluation.hotcoco.tide_errors()
        details["tide"][iou_type] = {
            "AP50": tide["ap_base"],
            "delta_AP50": {name: tide["delta_ap"][name] for name in TIDE_ERRORS},
            "counts": {name: tide["counts"][name] for name in TIDE_ERRORS},
        }
        if calibrate:
            calibration = evaluation.hotcoco.calibration()
            details["calibration"][iou_type] = {n: calibration[n] for n in ("ece", "mce", "bins")}
    return details


def _explain(
    iou_type: str, summary: dict[str, float], truth: AnnotationTable, table: DetectionTable
) -> list[str]:
    """Clear words for numbers that are -1, or 0 although there are detections."""
    notes = []
    objects = ~truth.crowd
    if not objects.any():
        crowds = len(truth.labels)
        why = f"only {crowds} crowd regions" if crowds else "no annotations"
        return [
            f"{iou_type}: every number is -1: {truth.source} has {why}, so nothing can be found"
        ]
    if iou_type == "segm" and truth.outlines is not None:
        bare = int((objects & (truth.outlines.kinds == 0)).sum())
        if bare:
            notes.append(f"segm: {bare} of {objects.sum()} objects have no mask: counted as missed")
    if summary["AP"] == 0 and len(table.scores):
        notes.append(
            f"{iou_type}: AP is 0 with {len(table.scores)} detections: none overlaps an object of "
            "its class by half; are category ids the original ones, boxes [x, y, width, height] in "
            "pixels of the original image?"
        )
    return notes


def _empty_sizes(summary: dict[str, dict[str, float]], truth: AnnotationTable) -> list[str]:
    """Why numbers of a size are -1, in one line per size for all IoU types."""
    remarks = []
    for area, words in _AREA_WORDS.items():
        # where every number is -1, a note gives the reason
        empty = [kind for kind, each in summary.items() if each[f"AP{area}"] == -1 < each["AP"]]
        if empty:
            remarks.append(
                f"{' and '.join(empty)}: AP{area} and AR{area} are -1: {truth.source} has no "
                f"object of an area {words}"
            )
    return remarks
