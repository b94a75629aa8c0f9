"""PASCAL VOC's average precision at an overlap of .5: of 2007 (11 points), of 2010 to 2012 (area).

Everingham et al., "The PASCAL Visual Object Classes Challenge", 2010 and 2015; VOCevaldet.m. AP is
a fraction of 1. Difficult objects need not be detected; neither do crowds and ignored ones of other
formats, which VOC does not have.
"""

from __future__ import annotations

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.inclusive import PixelDetections, match_voc
from resdet.evaluation.pixel_evaluator import PixelEvaluator
from resdet.evaluation.precision_recall import (
    ClassCurve,
    area_ap,
    class_curves,
    eleven_point_ap,
    make_result,
)
from resdet.evaluation.result import EvalSettings, Result, no_metrics

VOC_METRICS = {"voc07": eleven_point_ap, "voc12": area_ap}
"""By `eval.metric`: the AP of one class."""


def evaluate_voc(
    truth: AnnotationTable, detections: PixelDetections, metric: str, *, overlap: str = "inclusive"
) -> Result:
    """mAP by `metric`, voc07 or voc12; `overlap` inclusive takes a match from .5, as the devkit
    does, exclusive above .5, as py-faster-rcnn and Detectron2 do."""
    if not truth.has_annotations:
        return no_metrics(truth, detections)
    detections.check(truth)
    curves = voc_curves(truth, detections, overlap=overlap)
    result = make_result(truth, curves, VOC_METRICS[metric], metric, detections)
    result.notes[:0] = detections.notes
    return result


def voc_curves(
    truth: AnnotationTable, detections: PixelDetections, *, overlap: str = "inclusive"
) -> list[ClassCurve]:
    """The K curves, by label."""
    hard = truth.difficult | truth.crowd | truth.ignored
    right, wrong = match_voc(detections, truth, hard, exclusive=overlap == "exclusive")
    num_gt = np.bincount(truth.labels[~hard], minlength=len(truth.class_names))
    order = np.argsort(-detections.scores, kind="stable")
    return class_curves(detections.labels, order, right, wrong, num_gt)


class VocEvaluator(PixelEvaluator):
    """VOC's metric as an `Evaluator`."""

    def __init__(
        self, truth: AnnotationTable, settings: EvalSettings | None = None, metric: str = "voc12"
    ) -> None:
        super().__init__(truth, settings)
        self.metric = metric

    def compute(self) -> Result:
        """Evaluate everything added so far."""
        return evaluate_voc(
            self.truth, self.gathered(1), self.metric, overlap=self.settings.overlap
        ).log_notes()
