"""Detections beside the objects they match, as hotcoco matched them; TIDE's kinds of errors.

A detection matches at IoU .50 by COCO's rule, best score first, so that which detections are right
does not depend on how many lower-scored ones there are: a score threshold only cuts the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.coco_backends import Evaluation, run_backend
from resdet.evaluation.coco_detections import DetectionTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

IOU, BACKGROUND_IOU = 0.5, 0.1
"""From which IoU a detection matches, and below which it overlaps nothing (Bolya et al. 2020)."""
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Matches:
    """N detections of one kind and A objects of the ground truth, crowd regions included."""

    kind: str
    """bbox or segm."""
    truth: AnnotationTable
    detections: DetectionTable
    evaluation: Evaluation
    object_of: Ints
    """(N,) row of the object that a detection matches; -1 for none."""
    is_wrong: Bools
    """(N,) a false positive. Detections that are neither right nor wrong are in a crowd region, or
    beyond the limit of detections per image."""

    @property
    def is_right(self) -> Bools:
        """(N,) matches an object."""
        return self.object_of >= 0

    @cached_property
    def is_object(self) -> Bools:
        """(A,) is to be found; crowd regions are not."""
        return ~self.truth.crowd

    @cached_property
    def found_by(self) -> Ints:
        """(A,) row of the detection that matches an object; -1 for none."""
        found = np.full(len(self.truth.labels), -1)
        rows = np.flatnonzero(self.is_right)
        found[self.object_of[rows]] = rows
        return found

    @cached_property
    def found_scores(self) -> Floats:
        """(A,) score of that detection; -inf for none."""
        scores = np.append(self.detections.scores, -np.inf)
        return scores[self.found_by]

    @cached_property
    def detections_by_image(self) -> tuple[Ints, Ints]:
        """Rows sorted by image, best score first, and (N + 1,) where each image's begin."""
        order = np.lexsort((-self.detections.scores, self.detections.images))
        return order, _starts(self.detections.images[order], len(self.truth.image_ids))

    @cached_property
    def objects_by_image(self) -> tuple[Ints, Ints]:
        """Rows sorted by image, and (N + 1,) where each image's begin."""
        order = np.argsort(self.truth.image_of, kind="stable")
        return order, _starts(self.truth.image_of[order], len(self.truth.image_ids))

    def detections_in(self, image: int) -> Ints:
        """Rows of the detections of an image, best score first."""
        order, starts = self.detections_by_image
        return order[starts[image] : starts[image + 1]]

    def objects_in(self, image: int) -> Ints:
        """Rows of the objects of an image, crowd regions included."""
        order, starts = self.objects_by_image
        return order[starts[image] : starts[image + 1]]

    @cached_property
    def curve(self) -> tuple[Floats, Floats, Floats]:
        """Scores, best first, and precision and recall of the detections from each on, over all
        classes together."""
        rows = np.flatnonzero(self.is_right | self.is_wrong)
        return self._curve(rows, int(self.is_object.sum()))

    def class_curve(self, label: int) -> tuple[Floats, Floats, Floats]:
        """The same of one class."""
        rows = np.flatnonzero((self.is_right | self.is_wrong) & (self.detections.labels == label))
        return self._curve(rows, int((self.is_object & (self.truth.labels == label)).sum()))

    def _curve(self, rows: Ints, num_objects: int) -> tuple[Floats, Floats, Floats]:
        scores = self.detections.scores[rows]
        order = np.argsort(-scores, kind="stable")
        right = np.cumsum(self.is_right[rows][order])
        precision = right / np.arange(1, len(rows) + 1)
        recall = right / max(num_objects, 1)
        # detections of equal score come and go together
        last = np.append(np.diff(scores[order]) != 0, True)[: len(rows)]
        return scores[order][last], precision[last], recall[last]

    @cached_property
    def threshold(self) -> float:
        """The score with the best F1 over all classes together, rounded down to four places; .5
        where nothing is right."""
        return best_f1(*self.curve)[0]

    def overlaps(self, image: int, detections: Ints, objects: Ints) -> Floats:
        """(D, G) IoU of some detections and objects of one image; with a crowd region, the share
        of the detection that is in it."""
        if not len(detections) or not len(objects):
            return np.zeros((len(detections), len(objects)))
        crowd = self.truth.crowd[objects].astype(np.uint8).tolist()
        if self.kind == "segm":
            assert self.detections.rles is not None, "detections with masks"
            own: Any = [self.detections.rles[row] for row in detections.tolist()]
            others: Any = [self.truth.rles[row] for row in objects.tolist()]
        else:
            own, others = self.detections.boxes[detections], self.truth.boxes_xywh[objects]
        return np.asarray(mask_utils.iou(own, others, crowd)).reshape(len(own), len(others))

    @cached_property
    def match_ious(self) -> Floats:
        """(N,) IoU of each right detection with its object; NaN of the others."""
        ious = np.full(len(self.object_of), np.nan)
        for image in np.unique(self.detections.images[self.is_right]).tolist():
            rows = self.detections_in(image)
            rows = rows[self.is_right[rows]]
            pairs = self.overlaps(image, rows, self.object_of[rows])
            ious[rows] = pairs[np.arange(len(rows)), np.arange(len(rows))]
        return ious

    def error_types(self, rows: Ints) -> tuple[list[str], Floats, Ints]:
        """Of wrong detections: TIDE's kinds, the IoU with the object that each kind is about, and
        that object's row; IoU 0 and -1 where there is none.

        The order of the questions is TIDE's (Bolya et al. 2020, and its code): badly placed, then
        wrong class, duplicate, background, and both.
        """
        kinds = [""] * len(rows)
        ious, objects_of = np.zeros(len(rows)), np.full(len(rows), -1)
        images = self.detections.images[rows]
        order = np.argsort(images, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(images[order])) + 1):
            if not len(own):
                continue
            image = int(images[own[0]])
            objects = self.objects_in(image)
            objects = objects[self.is_object[objects]]
            overlap = self.overlaps(image, rows[own], objects)
            same = self.detections.labels[rows[own]][:, None] == self.truth.labels[objects]
            for place, row, is_same in zip(own.tolist(), overlap, same, strict=True):
                kinds[place], column = tide_type(row, is_same)
                if column >= 0:
                    ious[place], objects_of[place] = row[column], objects[column]
        return kinds, ious, objects_of


def tide_type(ious: Floats, is_same: Bools) -> tuple[str, int]:
    """The kind of a wrong detection by its IoU (G,) with the objects of its image, of which some
    have its class; and the object that it is about, or -1."""
    if not len(ious):
        return "Bkg", -1
    of_class, of_others = np.where(is_same, ious, 0.0), np.where(is_same, 0.0, ious)
    best, other = int(of_class.argmax()), int(of_others.argmax())
    if BACKGROUND_IOU <= of_class[best] <= IOU:
        return "Loc", best
    if of_others[other] >= IOU:
        return "Cls", other
    if of_class[best] >= IOU:
        return "Dupe", best
    nearest = int(ious.argmax())
    if ious[nearest] <= BACKGROUND_IOU:
        return "Bkg", nearest if ious[nearest] > 0 else -1
    return "Both", nearest


def match(
    truth: AnnotationTable, detections: DetectionTable, kind: str, max_dets: Sequence[int]
) -> Matches:
    """Evaluate one kind by hotcoco, and look up what matched."""
    evaluation = run_backend(truth, detections, iou_type=kind, max_dets=max_dets)
    # both sides are numbered from 1 in the order of their rows
    found = evaluation.hotcoco.image_diagnostics(iou_thr=IOU)
    object_of = np.full(len(detections.scores), -1)
    is_wrong = np.zeros(len(detections.scores), bool)
    if found["dt_match"]:
        pairs = np.array(list(found["dt_match"].items()), np.int64) - 1
        object_of[pairs[:, 0]] = pairs[:, 1]
    status = found["dt_status"]
    wrong = [row - 1 for row, each in status.items() if each == "fp"]
    is_wrong[wrong] = True
    object_of[truth.crowd[object_of] & (object_of >= 0) if len(truth.crowd) else []] = -1
    return Matches(kind, truth, detections, evaluation, object_of, is_wrong)


def without_ignored(matches: Matches) -> Any:
    """hotcoco's evaluation of the detections that are right or wrong: for confusion, in which it
    counts those in crowd regions as well."""
    counted = matches.is_right | matches.is_wrong
    if counted.all():
        return matches.evaluation.hotcoco
    kept = matches.detections.select(np.flatnonzero(counted))
    limits = matches.evaluation.hotcoco.params.max_dets
    again = run_backend(matches.truth, kept, iou_type=matches.kind, max_dets=limits)
    return again.hotcoco


def best_f1(scores: Floats, precision: Floats, recall: Floats) -> tuple[float, float]:
    """The threshold with the best F1, rounded down to four places, and that F1; .5 and 0 where
    nothing is right."""
    f1 = f1_of(precision, recall)
    if not len(f1) or f1.max() == 0:
        return DEFAULT_THRESHOLD, 0.0
    best = int(f1.argmax())
    return float(np.floor(scores[best] * 1e4) / 1e4), float(f1[best])


def f1_of(precision: Floats, recall: Floats) -> Floats:
    """Harmonic mean of both; 0 where both are 0."""
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)


def _starts(sorted_images: Ints, count: int) -> Ints:
    return np.searchsorted(sorted_images, np.arange(count + 1))
