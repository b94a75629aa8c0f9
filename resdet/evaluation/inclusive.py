"""Matching in inclusive pixels, as PASCAL VOC and ImageNet count them: width = x2 - x1 + 1.

The rules are those of VOCevaldet.m (VOC devkits 2007 and 2012) and eval_detection.m (ILSVRC2014 and
2015 devkits), with their order of operations, so that a comparison at exactly .5 falls alike.
Nothing loops over detections: those of one image and class meet its objects as flat lists of pairs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass
class PixelDetections:
    """N detections as arrays; those of equal score rank in this order."""

    images: Ints
    """(N,) rows of the ground truth's images."""
    labels: Ints
    """(N,) labels of the ground truth."""
    scores: Floats
    """(N,) finite."""
    corners: Floats
    """(N, 4) x1 y1 x2 y2 in pixels, the last ones included, counted from `base`."""
    base: int = 0
    """The number of the first pixel: 0 in ImageNet, 1 in VOC."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was left out."""

    def check(self, truth: AnnotationTable) -> None:
        """UserError for scores or boxes that are not finite: a network has diverged."""
        bad = ~np.isfinite(self.scores) | ~np.isfinite(self.corners).all(axis=1)
        for row in np.flatnonzero(bad)[:1].tolist():
            image = truth.image_ids[int(self.images[row])]
            raise UserError(
                f"detections: {int(bad.sum())} have a score or a box that is not finite (such as "
                f"score {self.scores[row]} on image {image!r}); did training diverge?"
            )

    def rows(self, keep: NDArray[Any]) -> "PixelDetections":
        """The detections `keep`, rows or a mask."""
        return PixelDetections(
            self.images[keep],
            self.labels[keep],
            self.scores[keep],
            self.corners[keep],
            self.base,
            self.notes,
        )


def truth_corners(truth: AnnotationTable, base: int) -> Floats:
    """(A, 4) x1 y1 x2 y2 of the objects in inclusive pixels counted from `base`."""
    x, y, width, height = truth.boxes_xywh.T
    return np.stack([x + base, y + base, x + width - 1 + base, y + height - 1 + base], axis=1)


def pair_up(keys: Ints, others: Ints) -> tuple[Ints, Ints]:
    """All pairs (row of `keys` (N,), row of `others` (M,)) with equal keys, as two (P,) arrays:
    by the first row, then by the second."""
    order = np.argsort(others, kind="stable")
    ranked = others[order]
    first = np.searchsorted(ranked, keys, "left")
    counts = np.searchsorted(ranked, keys, "right") - first
    rows = np.repeat(np.arange(len(keys)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, order[np.repeat(first, counts) + within]


def overlaps(boxes: Floats, others: Floats) -> Floats:
    """(P,) intersection over union of (P, 4) inclusive boxes; -inf where they do not meet."""
    width = np.minimum(boxes[:, 2], others[:, 2]) - np.maximum(boxes[:, 0], others[:, 0]) + 1
    height = np.minimum(boxes[:, 3], others[:, 3]) - np.maximum(boxes[:, 1], others[:, 1]) + 1
    common = width * height
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = common / (_areas(boxes) + _areas(others) - common)
    return np.where((width > 0) & (height > 0), ratio, -np.inf)


def _areas(corners: Floats) -> Floats:
    return (corners[:, 2] - corners[:, 0] + 1) * (corners[:, 3] - corners[:, 1] + 1)


def match_voc(
    detections: PixelDetections, truth: AnnotationTable, hard: Bools, *, exclusive: bool = False
) -> tuple[Bools, Bools]:
    """(N,) true and (N,) false positives by VOC's rule; a detection may be neither.

    Each detection takes the object of its class that it overlaps most, matched or `hard` (A,) ones
    included. From an overlap of .5 (`exclusive`: above .5) it is the object's, and the first of
    those, by score, is right: a later one is wrong, and there is no second choice.
    """
    count, num_classes = len(detections.scores), len(truth.class_names)
    right, matched = np.zeros(count, bool), np.full(count, -1)
    keys = detections.images * num_classes + detections.labels
    rows, objects = pair_up(keys, truth.image_of * num_classes + truth.labels)
    corners = truth_corners(truth, detections.base)
    ratio = overlaps(detections.corners[rows], corners[objects])
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if len(starts):
        best = np.maximum.reduceat(ratio, starts)
        per_pair = np.repeat(best, np.diff(starts, append=len(rows)))
        position = np.where(ratio == per_pair, np.arange(len(rows)), len(rows))
        first = np.minimum.reduceat(position, starts)
        enough = best > 0.5 if exclusive else best >= 0.5
        matched[rows[starts[enough]]] = objects[first[enough]]
    by_score = np.argsort(-detections.scores, kind="stable")
    by_score = by_score[matched[by_score] >= 0]
    _, earliest = np.unique(matched[by_score], return_index=True)
    right[by_score[earliest]] = True
    easy = np.ones(count, bool)
    easy[matched >= 0] = ~hard[matched[matched >= 0]]
    return right & easy, ~right & easy


def match_imagenet(
    detections: PixelDetections, truth: AnnotationTable, objects: Ints, skip: Bools
) -> tuple[Bools, Bools]:
    """(N,) true and (N,) false positives by the rule of ImageNet DET.

    By score, each detection takes the object of its class, among `objects` (M,) of the truth that
    are still free and that it overlaps by their own threshold, that it overlaps most. Detections
    where `skip` (N,) is true are neither right nor wrong.
    """
    num_classes = len(truth.class_names)
    keys = detections.images * num_classes + detections.labels
    keys[skip] = -1
    rows, paired = pair_up(keys, (truth.image_of * num_classes + truth.labels)[objects])
    paired = objects[paired]
    corners = truth_corners(truth, detections.base)
    ratio = overlaps(detections.corners[rows], corners[paired])
    enough = ratio >= own_thresholds(corners)[paired]
    rows, paired, ratio = rows[enough], paired[enough], ratio[enough]
    right = np.zeros(len(keys), bool)
    right[_first_come(rows, paired, ratio, keys, detections.scores)] = True
    return right, ~right & ~skip


def own_thresholds(corners: Floats) -> Floats:
    """(A,) overlap from which an object counts as detected: .5, less for boxes under 25 pixels or
    so, which may be 5 pixels off on each side (Russakovsky et al. 2015, section 4.3)."""
    width, height = corners[:, 2] - corners[:, 0] + 1, corners[:, 3] - corners[:, 1] + 1
    return np.minimum(0.5, width * height / ((width + 10) * (height + 10)))


def _first_come(rows: Ints, objects: Ints, ratio: Floats, keys: Ints, scores: Floats) -> Ints:
    """Rows of the detections that get an object, of (P,) candidate pairs in order of rows.

    Detections of the same key compete for the same objects, one after the other; so the n-th ones
    of all keys choose together, in as many rounds as the largest key has detections.
    """
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    ends = np.append(starts[1:], len(rows))
    candidates = rows[starts]
    order = np.lexsort((candidates, -scores[candidates], keys[candidates]))
    ordered_keys = keys[candidates[order]]
    group_starts = np.flatnonzero(np.diff(ordered_keys, prepend=-1))
    sizes = np.diff(group_starts, append=len(order))
    turn = np.arange(len(order)) - np.repeat(group_starts, sizes)
    by_turn = np.argsort(turn, kind="stable")
    limits = np.cumsum(np.bincount(turn)) if len(turn) else np.zeros(0, np.int64)
    taken = np.zeros(int(objects.max(initial=-1)) + 1, bool)
    winners: list[Ints] = []
    for chosen in np.split(order[by_turn], limits[:-1]):
        lengths = ends[chosen] - starts[chosen]
        segment = np.cumsum(lengths) - lengths
        pairs = np.arange(int(lengths.sum())) + np.repeat(starts[chosen] - segment, lengths)
        if not len(pairs):
            continue
        open_ratio = np.where(taken[objects[pairs]], -np.inf, ratio[pairs])
        best = np.maximum.reduceat(open_ratio, segment)
        is_best = open_ratio == np.repeat(best, lengths)
        position = np.where(is_best, np.arange(len(pairs)), len(pairs))
        first = np.minimum.reduceat(position, segment)[best > -np.inf]
        taken[objects[pairs[first]]] = True
        winners.append(candidates[chosen[best > -np.inf]])
    return np.concatenate(winners) if winners else np.zeros(0, np.int64)


def image_labels(truth: AnnotationTable) -> Ints:
    """(N,) the label of each image; -1 without objects.

    UserError for an image with objects of several classes.
    """
    labels = np.full(len(truth.image_ids), -1)
    labels[truth.image_of] = truth.labels
    for row in np.flatnonzero(labels[truth.image_of] != truth.labels)[:1].tolist():
        image = int(truth.image_of[row])
        raise UserError(
            f"{truth.file_of(image)}: {truth.image_name(image)} has objects of several classes; "
            "imagenet_loc needs one class per image; set another eval.metric"
        )
    return labels
