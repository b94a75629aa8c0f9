"""How far two models' predictions for the same image are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from resdet.ops.boxes import pairwise_iou
from resdet.structures import Classification, Detections

SAME = 0.5
"""IoU from which two detections of one class are the same object."""
MARGIN = 1e-3
"""How close to the threshold, or to the last that is kept, a score is left to rounding."""


@dataclass
class Differences:
    """The largest ones over some images."""

    matched: int = 0
    """Detections that both have; images of a classifier."""
    unmatched: int = 0
    """Detections that one of them lacks, unless rounding decides about them."""
    box: float = 0.0
    """Pixels of the network's input."""
    score: float = 0.0
    mask: float | None = None
    """Of mask probabilities, where both have them."""
    mask_iou: float | None = None
    """The smallest IoU of two masks, where one has them pasted."""

    def add(self, other: Differences) -> None:
        self.matched += other.matched
        self.unmatched += other.unmatched
        self.box = max(self.box, other.box)
        self.score = max(self.score, other.score)
        if other.mask is not None:
            self.mask = max(self.mask or 0.0, other.mask)
        if other.mask_iou is not None:
            self.mask_iou = min(1.0 if self.mask_iou is None else self.mask_iou, other.mask_iou)


def compare(
    reference: Detections, other: Detections, *, thresh: float, limit: int, scale: float = 1.0
) -> Differences:
    """Of the detections of one image, matched one to one by class and IoU, the closest first.

    Args:
        thresh: the score threshold of both.
        limit: the most detections that both keep.
        scale: pixels of the network's input per pixel of the image.
    """
    pairs = match(reference, other)
    mine, theirs = reference[pairs[:, 0]], other[pairs[:, 1]]
    result = Differences(matched=len(pairs))
    for detections, taken in ((reference, pairs[:, 0]), (other, pairs[:, 1])):
        alone = torch.ones(len(detections), dtype=torch.bool)
        alone[taken] = False
        edge = detections.scores - thresh
        last = torch.full_like(edge, torch.inf)
        if len(detections) >= limit:
            last = (detections.scores - detections.scores.min()).abs()
        result.unmatched += int((alone & (edge.abs() > MARGIN) & (last > MARGIN)).sum())
    if not len(pairs):
        return result
    result.box = _apart(mine.boxes, theirs.boxes) * scale
    result.score = _apart(mine.scores, theirs.scores)
    if mine.mask_probs is not None and theirs.mask_probs is not None:
        result.mask = _apart(mine.mask_probs, theirs.mask_probs)
    elif mine.has_masks and theirs.has_masks:
        result.mask_iou = min(_mask_ious(mine, theirs))
    return result


def _mask_ious(mine: Detections, theirs: Detections) -> list[float]:
    """Of the masks pair by pair; 1 for two empty ones."""
    ious = []
    both = zip(mine.encoded_masks() or (), theirs.encoded_masks() or (), strict=True)
    for one, other in both:
        union = coco_mask.area(coco_mask.merge([one, other]))
        shared = coco_mask.area(coco_mask.merge([one, other], intersect=True))
        ious.append(float(shared / union) if union else 1.0)
    return ious


def match(reference: Detections, other: Detections) -> Tensor:
    """(M, 2) int64 rows of the same objects, each row at most once."""
    overlaps = pairwise_iou(reference.boxes, other.boxes)
    overlaps[reference.labels[:, None] != other.labels] = 0
    rows, columns = (overlaps >= SAME).nonzero(as_tuple=True)
    order = overlaps[rows, columns].argsort(descending=True, stable=True)
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used[0] and column not in used[1]:
            pairs.append((row, column))
            used[0].add(row)
            used[1].add(column)
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)


def compare_classes(reference: Classification, other: Classification) -> Differences:
    """Of the probabilities of one image."""
    return Differences(matched=1, score=_apart(reference.probabilities, other.probabilities))


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite for NaN, which passes every comparison with a limit."""
    return float((one - other).abs().nan_to_num(torch.inf, posinf=torch.inf).max())
