"""LVIS average precision: COCO's matching under LVIS's rules (Gupta et al. 2019).

Not every class is annotated in every image: detections of a class count only in images that have
it, or list it as absent, and unmatched ones are left out where not all its objects are annotated.
At most 300 detections per image count, over all classes. Rare, common and frequent classes have
numbers of their own.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.coco import CocoEvaluator, evaluate_files
from resdet.evaluation.coco_backends import Evaluation, run_backend
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.coco_result import AREAS, make_result, mean, precision_numbers
from resdet.evaluation.result import Result

MAX_DETS = 300


class LvisEvaluator(CocoEvaluator):
    """LVIS's metric as an `Evaluator`; COCO's `max_dets` do not apply."""

    def evaluate(self, table: DetectionTable, iou_types: Sequence[str]) -> Result:
        return evaluate_tables(self.truth, table, iou_types)


def evaluate_lvis(
    ground_truth: str | Path | dict[str, Any] | AnnotationTable,
    detections: str | Path | Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str] | None = None,
    max_dets: int = MAX_DETS,
    strict: bool = False,
) -> Result:
    """As `resdet.evaluation.coco.evaluate_coco_full`, for an LVIS annotation file."""
    evaluate = partial(evaluate_tables, max_dets=max_dets)
    return evaluate_files(ground_truth, detections, kinds, evaluate, strict=strict)


def evaluate_tables(
    truth: AnnotationTable,
    table: DetectionTable,
    iou_types: Sequence[str],
    *,
    max_dets: int = MAX_DETS,
) -> Result:
    """Evaluate checked detections by LVIS's protocol."""
    if "neg_category_ids" not in truth.image_extras or "frequency" not in truth.class_extras:
        raise UserError(
            f"{truth.source}: not an LVIS annotation file: its images have no neg_category_ids or "
            "its categories no frequency; evaluate it by COCO's metric"
        )
    evaluations = {
        iou_type: run_backend(truth, table, iou_type=iou_type, max_dets=[max_dets], lvis=True)
        for iou_type in iou_types
        if truth.has_annotations
    }
    summary = {
        iou_type: summarize(evaluation, truth.class_extras["frequency"], max_dets)
        for iou_type, evaluation in evaluations.items()
    }
    return make_result(truth, table, evaluations, summary)


def summarize(evaluation: Evaluation, frequency: Sequence[str], max_dets: int) -> dict[str, float]:
    """The 13 numbers by the names that lvis gives them."""
    numbers, recall = precision_numbers(evaluation.precision), evaluation.recall
    for group in ("r", "c", "f"):
        of_group = evaluation.precision[:, :, np.array(frequency) == group]
        numbers[f"AP{group}"] = mean(of_group[..., 0])
    for area, letter in enumerate(AREAS):
        numbers[f"AR{letter}@{max_dets}"] = mean(recall[..., area, -1])
    return numbers
