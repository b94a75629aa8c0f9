"""COCO average precision and recall for boxes and masks, as fractions of 1.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014: AP is the mean over IoU .50:.05:.95
and classes of the precision at 101 recalls; small, medium and large are split at 32² and 96² px².
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resdet.errors import UserError
from resdet.evaluation.coco_backends import run_backend
from resdet.evaluation.coco_detections import (
    DetectionTable,
    prepare_detections,
    read_detections,
)
from resdet.evaluation.coco_input import GroundTruth, prepare_ground_truth
from resdet.evaluation.coco_matching import IOU_THRESHOLDS as IOU_THRESHOLDS
from resdet.evaluation.coco_matching import RECALLS as RECALLS
from resdet.files.json import collector_paused

if TYPE_CHECKING:
    from resdet.structures import Detections

logger = logging.getLogger("resdet")

KINDS = ("bbox", "segm")
IOU_50, IOU_75 = 0, 5
AREAS = ("", "s", "m", "l")
_AREA_WORDS = {
    "s": "up to 32² px²",
    "m": "from 32² to 96² px²",
    "l": "from 96² px²",
}


@dataclass
class ClassRow:
    """The numbers of one class; -1 where there is nothing to find."""

    category_id: int
    name: str
    num_gt: int
    """Objects to be found, crowds left out."""
    num_detections: int
    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR: float
    """Recall at the last of `max_dets`, mean over the IoU thresholds."""


@dataclass
class CocoResult:
    """What one evaluation found; each dict by kind, bbox or segm."""

    summary: dict[str, dict[str, float]] = field(default_factory=dict)
    """AP AP50 AP75 APs APm APl, AR at each of `max_dets`, ARs ARm ARl; fractions of 1, -1 without
    ground truth."""
    per_class: dict[str, list[ClassRow]] = field(default_factory=dict)
    """A row a class, by category id."""
    pr_curves: dict[str, np.ndarray] = field(default_factory=dict)
    """(10, 101, K) precision at IOU_THRESHOLDS and RECALLS; -1 for classes without objects."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was repaired, left out or has no value."""


def evaluate_coco(
    ground_truth: str | Path | dict[str, Any],
    detections: str | Path | Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str] | None = None,
    backend: str = "fast",
    max_dets: Sequence[int] = (1, 10, 100),
) -> dict[str, dict[str, float]]:
    """The 12 COCO numbers for each kind; see `evaluate_coco_full`."""
    return evaluate_coco_full(
        ground_truth, detections, kinds=kinds, backend=backend, max_dets=max_dets
    ).summary


@collector_paused()
def evaluate_coco_full(
    ground_truth: str | Path | dict[str, Any] | GroundTruth,
    detections: str | Path | Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str] | None = None,
    backend: str = "fast",
    max_dets: Sequence[int] = (1, 10, 100),
) -> CocoResult:
    """Summary, table per class, precision-recall curves and notes.

    `ground_truth` is a COCO annotation file or dict, `detections` COCO result records or a file of
    them; neither is changed. `kinds` are bbox and segm; None means bbox, and segm where both sides
    have masks. `backend` is fast (our own) or pycocotools. `max_dets` are three ascending
    caps of detections an image and class; AP counts at the last. Raises UserError for input that
    cannot be evaluated, naming file, item and remedy.
    """
    caps = check_max_dets(max_dets)
    truth = ground_truth
    if not isinstance(truth, GroundTruth):
        truth = prepare_ground_truth(truth)
    records, source = read_detections(detections)
    chosen = _choose_kinds(kinds, truth, records)
    result = CocoResult(notes=list(truth.notes))
    if not records:
        result.notes.append(f"{source}: no detections at all: every number with objects is 0")
    table = prepare_detections(records, truth, kinds=chosen, source=source)
    result.notes += table.notes
    for kind in chosen:
        precision, recall = run_backend(truth, table, kind=kind, backend=backend, max_dets=caps)
        result.summary[kind] = summarize(precision, recall, caps)
        result.per_class[kind] = _class_rows(precision, recall, truth, table)
        result.pr_curves[kind] = precision[:, :, :, 0]
        result.notes += _explain(kind, result.summary[kind], truth, table)
    for note in result.notes:
        logger.warning(note)
    return result


class CocoEvaluator:
    """Collects detections image by image and evaluates them at the end.

    Detections become COCO records (masks as RLE) at once, so that memory does not grow with
    images × pixels. With several processes each updates its own, `records` are gathered and given
    to one of them with `merge`. The ground truth may be prepared once and shared.
    """

    def __init__(
        self,
        ground_truth: str | Path | dict[str, Any] | GroundTruth,
        kinds: Sequence[str] | None = None,
        backend: str = "fast",
        max_dets: Sequence[int] = (1, 10, 100),
    ) -> None:
        self.truth = (
            ground_truth
            if isinstance(ground_truth, GroundTruth)
            else prepare_ground_truth(ground_truth)
        )
        self.kinds = kinds
        self.backend = backend
        self.max_dets = check_max_dets(max_dets)
        self._records: list[dict[str, Any]] = []

    @property
    def records(self) -> list[dict[str, Any]]:
        """COCO result records so far: plain values, to be gathered or written as JSON."""
        return self._records

    def update(self, image_ids: Sequence[int | str], detections: Sequence[Detections]) -> None:
        """Add the detections of some images, by their ids in the annotation file."""
        for image_id, found in zip(image_ids, detections, strict=True):
            self._records += found.to_coco(image_id)

    def merge(self, records: Iterable[dict[str, Any]]) -> None:
        """Add another process's records."""
        self._records += records

    def compute(self) -> CocoResult:
        """Evaluate everything added so far."""
        return evaluate_coco_full(
            self.truth,
            self._records,
            kinds=self.kinds,
            backend=self.backend,
            max_dets=self.max_dets,
        )


def summarize(
    precision: np.ndarray, recall: np.ndarray, max_dets: Sequence[int]
) -> dict[str, float]:
    """The 12 numbers from precision (T, R, K, A) at the last cap, and recall (T, K, A, M).

    All but the recalls at smaller caps are taken at the last cap, whatever it is.
    """
    numbers = {"AP": _mean(precision[..., 0])}
    numbers["AP50"] = _mean(precision[IOU_50, :, :, 0])
    numbers["AP75"] = _mean(precision[IOU_75, :, :, 0])
    for area in (1, 2, 3):
        numbers[f"AP{AREAS[area]}"] = _mean(precision[..., area])
    for index, cap in enumerate(max_dets):
        numbers[f"AR{cap}"] = _mean(recall[..., 0, index])
    for area in (1, 2, 3):
        numbers[f"AR{AREAS[area]}"] = _mean(recall[..., area, -1])
    return numbers


def _mean(values: np.ndarray) -> float:
    """Mean of what has a value; -1 where nothing has."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else -1.0


def check_max_dets(max_dets: Sequence[int]) -> tuple[int, ...]:
    """The three caps; UserError where they are not three ascending numbers from 1."""
    caps = tuple(int(cap) for cap in max_dets)
    if len(caps) != 3 or caps[0] < 1 or list(caps) != sorted(set(caps)):
        raise UserError(f"max_dets {caps}: give three ascending numbers from 1, such as 1,10,100")
    return caps


def _choose_kinds(
    kinds: Sequence[str] | None, truth: GroundTruth, records: Sequence[dict[str, Any]]
) -> tuple[str, ...]:
    if kinds is None:
        masks = truth.has_masks and all(record.get("segmentation") for record in records)
        return KINDS if masks else ("bbox",)
    chosen = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown or not chosen:
        raise UserError(f"kinds {list(chosen)}: the choices are bbox and segm")
    if "segm" in chosen and truth.annotations and not truth.has_masks:
        raise UserError(
            f"{truth.source}: no annotation has a segmentation, so that masks cannot be evaluated; "
            "evaluate kinds=bbox, or give annotations with masks"
        )
    return chosen


def _class_rows(
    precision: np.ndarray, recall: np.ndarray, truth: GroundTruth, table: DetectionTable
) -> list[ClassRow]:
    count = len(truth.class_names) + 1
    wanted = [a["category_id"] for a in truth.annotations if not a["iscrowd"]]
    num_gt = np.bincount(np.array(wanted, dtype=np.int64), minlength=count)
    num_detections = np.bincount(table.categories, minlength=count)
    rows = []
    for category_id, rank in truth.category_rank.items():
        p, r = precision[:, :, rank - 1], recall[:, rank - 1, 0, -1]
        rows.append(
            ClassRow(
                category_id,
                truth.class_names[rank - 1],
                int(num_gt[rank]),
                int(num_detections[rank]),
                _mean(p[..., 0]),
                _mean(p[IOU_50, :, 0]),
                _mean(p[IOU_75, :, 0]),
                _mean(p[..., 1]),
                _mean(p[..., 2]),
                _mean(p[..., 3]),
                _mean(r),
            )
        )
    return rows


def _explain(
    kind: str, summary: dict[str, float], truth: GroundTruth, table: DetectionTable
) -> list[str]:
    """Clear words for numbers that are -1, or 0 although there are detections."""
    notes = []
    objects = [a for a in truth.annotations if not a["iscrowd"]]
    if not objects:
        crowds = len(truth.annotations)
        why = f"only {crowds} crowd regions" if crowds else "no annotations"
        return [f"{kind}: every number is -1: {truth.source} has {why}, so nothing can be found"]
    for area, words in _AREA_WORDS.items():
        if summary[f"AP{area}"] == -1:
            notes.append(
                f"{kind}: AP{area} and AR{area} are -1: {truth.source} has no object of an area "
                f"{words}"
            )
    if kind == "segm":
        bare = sum(
            not segmentation and not annotation["iscrowd"]
            for annotation, segmentation in zip(truth.annotations, truth.segmentations, strict=True)
        )
        if bare:
            notes.append(f"segm: {bare} of {len(objects)} objects have no mask: counted as missed")
    if summary["AP"] == 0 and len(table.scores):
        notes.append(
            f"{kind}: AP is 0 with {len(table.scores)} detections: none overlaps an object of its "
            "class by half; are category ids the original ones, boxes [x, y, width, height] in "
            "pixels of the original image?"
        )
    return notes
