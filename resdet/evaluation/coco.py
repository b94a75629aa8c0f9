"""COCO average precision and recall for boxes and masks, as fractions of 1.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014: AP is the mean over IoU .50:.05:.95
and classes of the precision at 101 recalls; small, medium and large are split at 32² and 96² px².
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hotcoco
import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.plausibility import check_annotations
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.coco_backends import Evaluation, run_backend
from resdet.evaluation.coco_detections import (
    IOU_TYPES,
    DetectionTable,
    read_detections,
)
from resdet.evaluation.coco_result import AREAS, make_result, mean, precision_numbers
from resdet.evaluation.conventions import XYWH, describe_results
from resdet.evaluation.result import EvalSettings, Result
from resdet.files.findings import Finding, strict_error, summarize_findings
from resdet.files.json import collector_paused

if TYPE_CHECKING:
    from resdet.structures import Detections

MAX_DETS = (1, 10, 100)


def evaluate_coco(
    ground_truth: str | Path | dict[str, Any] | AnnotationTable,
    detections: str | Path | Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str] | None = None,
    backend: str | None = None,
    max_dets: Sequence[int] | None = None,
) -> dict[str, dict[str, float]]:
    """The 12 COCO numbers per kind, bbox and segm; `evaluate_coco_full` explains the arguments."""
    return evaluate_coco_full(
        ground_truth, detections, kinds=kinds, backend=backend, max_dets=max_dets
    ).summary


def evaluate_coco_full(
    ground_truth: str | Path | dict[str, Any] | AnnotationTable,
    detections: str | Path | Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str] | None = None,
    backend: str | None = None,
    max_dets: Sequence[int] | None = None,
    strict: bool = False,
) -> Result:
    """Summary, table per class, precision-recall curves and notes.

    `ground_truth` is a COCO annotation file or dict, `detections` COCO result records or a file of
    them; neither is changed. `kinds` are bbox and segm; None means bbox, and segm where both sides
    have masks. `backend` is fast (hotcoco) or pycocotools; None means fast. `max_dets` are three
    ascending limits on the detections per image and class, by default 1, 10 and 100; AP uses the
    last. `strict` raises an error if
    anything in the ground truth would be repaired or left out. Raises UserError for input that
    cannot be evaluated, naming file, item and remedy.
    """
    evaluate = partial(
        evaluate_tables, backend=backend or "fast", max_dets=check_max_dets(max_dets)
    )
    return evaluate_files(ground_truth, detections, kinds, evaluate, strict=strict)


@collector_paused()
def evaluate_files(
    ground_truth: str | Path | dict[str, Any] | AnnotationTable,
    detections: str | Path | Sequence[dict[str, Any]],
    kinds: Sequence[str] | None,
    evaluate: Callable[[AnnotationTable, DetectionTable, Sequence[str]], Result],
    *,
    strict: bool = False,
) -> Result:
    """Read and check both sides, `evaluate` them, and log the notes."""
    iou_types = check_iou_types(kinds)
    notes: list[str] = []
    if isinstance(ground_truth, AnnotationTable):
        truth = ground_truth
    else:
        findings: list[Finding] = []
        outlines = iou_types != ("bbox",)
        truth = read_annotations(ground_truth, findings, format="coco", outlines=outlines)
        check_annotations(truth, findings)
        if strict and findings:
            raise strict_error(findings)
        notes += summarize_findings(findings)
        if not len(truth.image_ids):
            raise UserError(f"{truth.source}: it lists no images, so there is nothing to evaluate")
    check_masks(truth, iou_types)
    table, iou_types = read_detections(detections, truth, iou_types)
    result = evaluate(truth, table, iou_types)
    if "bbox" in iou_types:
        columns = (table.images, table.labels, table.scores, table.boxes)
        notes += describe_results(truth, *columns, XYWH)
    result.notes[:0] = [*notes, *table.notes]
    return result.log_notes().log_remarks()


def evaluate_tables(
    truth: AnnotationTable,
    table: DetectionTable,
    iou_types: Sequence[str],
    *,
    backend: str = "fast",
    max_dets: Sequence[int] = MAX_DETS,
) -> Result:
    """Evaluate checked detections by COCO's protocol."""
    evaluations = {
        iou_type: run_backend(truth, table, iou_type=iou_type, backend=backend, max_dets=max_dets)
        for iou_type in iou_types
        if truth.has_annotations
    }
    summary = {
        iou_type: summarize(evaluation, max_dets) for iou_type, evaluation in evaluations.items()
    }
    result = make_result(truth, table, evaluations, summary)
    result.notes += _beyond_limit(truth, max_dets[-1])
    return result


def _beyond_limit(truth: AnnotationTable, limit: int) -> list[str]:
    """A note where images have more objects of a class than detections are counted."""
    counted = ~(truth.crowd | truth.ignored)
    pairs = truth.image_of[counted] * max(len(truth.class_names), 1) + truth.labels[counted]
    counts = np.unique(pairs, return_counts=True)[1]
    most = int(counts.max(initial=0))
    if most <= limit:
        return []
    return [
        f"{truth.source}: up to {most:,} objects of a class in one image, of which no more than "
        f"{limit:,} can be matched; raise eval.max_dets, or --max-dets"
    ]


class _State(NamedTuple):
    """Detections of one process: per image a piece of each column."""

    images: list[NDArray[Any]]
    labels: list[NDArray[Any]]
    scores: list[NDArray[Any]]
    boxes: list[NDArray[Any]]
    mask_areas: list[NDArray[Any]]
    codes: list[str]
    """RLE codes, with line ends between them."""


class CocoEvaluator:
    """COCO's metric as an `Evaluator`.

    Detections become columns at once (masks as RLE), so that memory does not grow with
    images × pixels.
    """

    def __init__(self, truth: AnnotationTable, settings: EvalSettings | None = None) -> None:
        settings = settings or EvalSettings()
        self.truth = truth
        self.backend = settings.backend
        self.iou_types = check_iou_types(settings.iou_types)
        self.max_dets = check_max_dets(settings.max_dets)
        check_masks(truth, self.iou_types)
        self._rows = {image: row for row, image in enumerate(truth.image_ids)}
        self._labels = {category: label for label, category in enumerate(truth.category_ids)}
        self.state = _State([], [], [], [], [], [])

    def update(self, image_ids: Sequence[int | str], predictions: Sequence[Detections]) -> None:
        """Add the detections of some images, by their ids in the annotation file.

        Their `category_ids`, where they have any, name their classes; those that the ground truth
        lacks are left out.
        """
        for image_id, detections in zip(image_ids, predictions, strict=True):
            labels = detections.labels.cpu().numpy()
            if detections.category_ids:
                known = [self._labels.get(category, -1) for category in detections.category_ids]
                labels = np.array(known, np.int64)[labels]
            keep = np.flatnonzero(labels >= 0)
            if len(keep) < len(labels):
                detections, labels = detections[keep], labels[keep]
            boxes = detections.boxes.cpu().double().numpy()
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            self.state.images.append(np.full(len(labels), self._rows[image_id]))
            self.state.labels.append(labels)
            self.state.scores.append(detections.scores.cpu().double().numpy())
            self.state.boxes.append(boxes.round(3))  # as in result files
            if len(labels) and (rles := detections.encoded_masks()) is not None:
                self.state.mask_areas.append(hotcoco.mask.area(rles))
                self.state.codes.append("\n".join(rle["counts"] for rle in rles))

    def leave_out(self, image_ids: Sequence[int | str]) -> None:
        """See `LeavesOut`."""
        self.truth = self.truth.without_objects([self._rows[image] for image in image_ids])

    def merge(self, state: _State) -> None:
        """Add what another process gathered on other images."""
        for own, other in zip(self.state, state, strict=True):
            list.extend(own, other)  # type: ignore[arg-type]  # columns of several types

    @collector_paused()
    def compute(self) -> Result:
        """Evaluate everything added so far."""
        state, truth = self.state, self.truth
        images, labels = _joined(state.images, np.int64), _joined(state.labels, np.int64)
        scores = _joined(state.scores, np.float64)
        boxes = _joined(state.boxes, np.float64).reshape(-1, 4)
        table = DetectionTable(images, labels, scores, boxes)
        table.check(truth, "detections")
        iou_types = self.iou_types
        if iou_types is None:
            iou_types = IOU_TYPES if truth.has_masks and state.codes else ("bbox",)
        if "segm" in iou_types:
            sizes = truth.sizes[images].tolist()
            codes = [code for codes in state.codes for code in codes.split("\n")]
            table.rles = [
                {"size": size, "counts": code} for size, code in zip(sizes, codes, strict=True)
            ]
            table.mask_areas = _joined(state.mask_areas, np.int64)
        return self.evaluate(table, iou_types).log_notes()

    def evaluate(self, table: DetectionTable, iou_types: Sequence[str]) -> Result:
        return evaluate_tables(
            self.truth, table, iou_types, backend=self.backend, max_dets=self.max_dets
        )


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts, dtype=dtype) if parts else np.zeros(0, dtype)


def summarize(evaluation: Evaluation, max_dets: Sequence[int]) -> dict[str, float]:
    """The 12 numbers; all but the recalls at smaller caps are taken at the last of `max_dets`."""
    numbers, recall = precision_numbers(evaluation.precision), evaluation.recall
    for index, cap in enumerate(max_dets):
        numbers[f"AR{cap}"] = mean(recall[..., 0, index])
    return numbers | {f"AR{AREAS[area]}": mean(recall[..., area, -1]) for area in (1, 2, 3)}


def check_max_dets(max_dets: Sequence[int] | None) -> tuple[int, ...]:
    """The three caps, for None the usual ones; UserError where they are not three ascending numbers
    from 1."""
    try:
        caps = MAX_DETS if max_dets is None else tuple(int(cap) for cap in max_dets)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"max_dets is {max_dets!r:.60}; give three ascending numbers from 1, such as 1,10,100"
        ) from None
    if len(caps) != 3 or caps[0] < 1 or list(caps) != sorted(set(caps)):
        raise UserError(f"max_dets {caps}: give three ascending numbers from 1, such as 1,10,100")
    return caps


def check_iou_types(kinds: Sequence[str] | None) -> tuple[str, ...] | None:
    """The IoU types without repetition; UserError for an unknown one."""
    if kinds is None:
        return None
    chosen = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
    if not chosen or not set(chosen) <= set(IOU_TYPES):
        raise UserError(f"kinds {list(chosen)}: the choices are bbox and segm")
    return chosen


def check_masks(truth: AnnotationTable, iou_types: Sequence[str] | None) -> None:
    """UserError where masks are to be evaluated and no object has one."""
    if "segm" in (iou_types or ()) and len(truth.labels) and not truth.has_masks:
        raise UserError(
            f"{truth.source}: no annotation has a segmentation, so that masks cannot be evaluated; "
            "evaluate kinds=bbox, or give annotations with masks"
        )
