"""PASCAL VOC's average precision at an overlap of .5: of 2007 (11 points), of 2010 to 2012 (area).

Everingham et al., "The PASCAL Visual Object Classes Challenge", 2010 and 2015; VOCevaldet.m. AP is
a fraction of 1. Difficult objects need not be detected; neither do crowds and ignored ones of other
formats, which VOC does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.inclusive import Floats, Ints, PixelDetections, match_voc
from resdet.evaluation.precision_recall import (
    ClassCurve,
    area_ap,
    class_curves,
    eleven_point_ap,
    make_result,
)
from resdet.evaluation.result import EvalSettings, Result, no_metrics

if TYPE_CHECKING:
    from resdet.structures import Detections

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


class PixelState(NamedTuple):
    """Detections of one process: per image a piece of each column."""

    images: list[Ints]
    labels: list[Ints]
    scores: list[Floats]
    boxes: list[Floats]
    """(n, 4) xyxy, continuous pixels."""


class PixelEvaluator:
    """What the metrics in inclusive pixels share: gathers boxes as columns.

    Detections of equal score rank by their image's place in the ground truth, whatever process
    saw them, then as the model gives them.
    """

    keeps_unknown = False
    """Whether detections of classes that the ground truth lacks are kept, with the label -1."""

    def __init__(self, truth: AnnotationTable, settings: EvalSettings | None = None) -> None:
        self.truth = truth
        self.settings = settings or EvalSettings()
        if self.settings.iou_types == ("segm",):
            raise UserError("kinds segm: this metric evaluates boxes; leave out --kinds")
        self._rows = {image: row for row, image in enumerate(truth.image_ids)}
        self._labels = {category: label for label, category in enumerate(truth.category_ids)}
        self.state = PixelState([], [], [], [])

    def update(self, image_ids: Sequence[int | str], predictions: Sequence[Detections]) -> None:
        """Add the detections of some images, by their ids in the annotation file.

        Their `category_ids`, where they have any, name their classes; those that the ground truth
        lacks are left out, or with `keeps_unknown` get the label -1.
        """
        for image_id, detections in zip(image_ids, predictions, strict=True):
            labels = detections.labels.cpu().numpy()
            if detections.category_ids:
                known = [self._labels.get(category, -1) for category in detections.category_ids]
                labels = np.array(known, np.int64)[labels]
            keep = (labels >= 0) | self.keeps_unknown
            self.state.images.append(np.full(int(keep.sum()), self._rows[image_id]))
            self.state.labels.append(labels[keep])
            self.state.scores.append(detections.scores.cpu().double().numpy()[keep])
            # as in result files
            self.state.boxes.append(detections.boxes.cpu().double().numpy()[keep].round(3))

    def merge(self, state: PixelState) -> None:
        """Add what another process gathered on other images."""
        for own, other in zip(self.state, state, strict=True):
            list.extend(own, other)  # type: ignore[arg-type]  # columns of several types

    def gathered(self, base: int) -> PixelDetections:
        """All detections by image row, in inclusive pixels counted from `base`."""
        state = self.state
        images = np.concatenate([np.zeros(0, np.int64), *state.images])
        boxes = np.concatenate([np.zeros((0, 4)), *state.boxes])
        columns = PixelDetections(
            images,
            np.concatenate([np.zeros(0, np.int64), *state.labels]),
            np.concatenate([np.zeros(0), *state.scores]),
            (boxes - [0, 0, 1, 1] + base).round(3),
            base,
        )
        return columns.rows(np.argsort(images, kind="stable"))


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
