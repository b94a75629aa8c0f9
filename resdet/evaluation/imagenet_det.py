"""ImageNet DET's average precision, as eval_detection.m of the ILSVRC2014 and 2015 devkits has it.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015, section 4.3. Each
object has its own threshold, a second choice counts, and pairs of image and class on the blacklist
are not evaluated. AP is a fraction of 1.
"""

from __future__ import annotations

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.image_numbers import image_numbers
from resdet.evaluation.imagenet_files import read_det_blacklist
from resdet.evaluation.inclusive import Bools, Ints, PixelDetections, match_imagenet
from resdet.evaluation.pixel_evaluator import PixelEvaluator
from resdet.evaluation.precision_recall import ClassCurve, area_ap, class_curves, make_result
from resdet.evaluation.result import EvalSettings, Result, no_metrics


def evaluate_det(
    truth: AnnotationTable, detections: PixelDetections, blacklist: Ints | None = None
) -> Result:
    """mAP and median AP; `blacklist` (B, 2) are rows of images and labels not to evaluate."""
    if not truth.has_annotations:
        return no_metrics(truth, detections)
    detections.check(truth)
    curves = det_curves(truth, detections, blacklist)
    result = make_result(truth, curves, area_ap, "imagenet_det", detections, median=True)
    if blacklist is not None:
        result.notes.insert(0, f"{len(blacklist)} pairs of image and class are on the blacklist")
    result.notes[:0] = detections.notes
    return result


def det_curves(
    truth: AnnotationTable, detections: PixelDetections, blacklist: Ints | None = None
) -> list[ClassCurve]:
    """The K curves, by label. Crowds and ignored objects, which ImageNet lacks, are left out."""
    num_classes = len(truth.class_names)
    banned = np.zeros(0, np.int64)
    if blacklist is not None:
        banned = blacklist[:, 0] * num_classes + blacklist[:, 1]
    skip: Bools = np.isin(detections.images * num_classes + detections.labels, banned)
    counted = ~(truth.crowd | truth.ignored)
    right, wrong = match_imagenet(detections, truth, np.flatnonzero(counted), skip)
    counted &= ~np.isin(truth.image_of * num_classes + truth.labels, banned)
    num_gt = np.bincount(truth.labels[counted], minlength=num_classes)
    # equal scores: by the number of the image, then as they came
    order = np.lexsort((image_numbers(truth)[detections.images], -detections.scores))
    return class_curves(detections.labels, order, right, wrong, num_gt)


class DetEvaluator(PixelEvaluator):
    """ImageNet DET's metric as an `Evaluator`."""

    def __init__(self, truth: AnnotationTable, settings: EvalSettings | None = None) -> None:
        super().__init__(truth, settings)
        path = self.settings.blacklist
        self.blacklist = None if path is None else read_det_blacklist(path, truth)

    def compute(self) -> Result:
        """Evaluate everything added so far."""
        return evaluate_det(self.truth, self.gathered(0), self.blacklist).log_notes()
