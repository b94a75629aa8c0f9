"""What the evaluators of VOC's and ImageNet's metrics share: columns in inclusive pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.inclusive import Floats, Ints, PixelDetections
from resdet.evaluation.result import EvalSettings

if TYPE_CHECKING:
    from resdet.structures import Detections


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

    def leave_out(self, image_ids: Sequence[int | str]) -> None:
        """See `LeavesOut`."""
        self.truth = self.truth.without_objects([self._rows[image] for image in image_ids])

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
