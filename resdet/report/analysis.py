"""A detector's stored detections, evaluated again and matched."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation import EvalSettings, Result, build_evaluator
from resdet.evaluation.coco import summarize
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.coco_result import make_result
from resdet.evaluation.inclusive import PixelDetections
from resdet.evaluation.pixel_evaluator import PixelState
from resdet.evaluation.stored import Stored
from resdet.report.matching import Matches, match
from resdet.report.source import RunSource, TruthImages, check_images

MAX_DETS = (1, 10, 300)
"""Limits on detections for matching, where the metric is not COCO's."""


@dataclass(frozen=True)
class Analysis:
    """A run's detections, matched."""

    result: Result
    by_kind: dict[str, Matches]
    """bbox, and segm where masks were evaluated."""
    images: TruthImages

    @property
    def shown(self) -> Matches:
        """The kind that galleries show and runs are compared by: masks where there are any."""
        return self.by_kind[list(self.by_kind)[-1]]


def analyze(source: RunSource) -> Analysis | None:
    """The evaluation of the stored detections; None where there are none, or no annotations.

    Raises UserError where they are of other data than is there now.
    """
    if source.stored is None or source.val is None:
        return None
    predictions, truth = source.stored.predictions, source.stored.truth(source.val.table)
    if not isinstance(predictions, DetectionTable | PixelDetections):
        return None
    check_images(truth, source.val)
    config: Any = source.evaluated
    metric = config.eval.metric
    if isinstance(predictions, PixelDetections):
        settings = EvalSettings(
            ("bbox",), overlap=config.eval.overlap, blacklist=config.eval.blacklist
        )
        evaluator: Any = build_evaluator(metric, truth, settings)
        evaluator.merge(pixel_state(predictions))
        result = evaluator.compute()
        ignored = truth.crowd | truth.difficult | truth.ignored
        table, truth = as_detections(predictions), replace(truth, crowd=ignored)
        by_kind = {"bbox": match(truth, table, "bbox", MAX_DETS)}
    elif metric == "lvis":
        kinds = kinds_of(source.stored, truth)
        result = build_evaluator(metric, truth).evaluate(predictions, kinds)  # type: ignore[attr-defined]
        table = annotated_alone(predictions, truth)
        by_kind = {kind: match(truth, table, kind, MAX_DETS) for kind in kinds}
    else:
        limits = tuple(config.eval.max_dets)
        kinds = kinds_of(source.stored, truth)
        by_kind = {kind: match(truth, predictions, kind, limits) for kind in kinds}
        evaluations = {kind: each.evaluation for kind, each in by_kind.items()}
        summary = {kind: summarize(each, limits) for kind, each in evaluations.items()}
        result = make_result(truth, predictions, evaluations, summary)
        if metric != "coco":  # one of the user's own
            result.summary = read_summary(source.folder) or result.summary
    return Analysis(result, by_kind, TruthImages(truth, source.val))


def kinds_of(stored: Stored, truth: AnnotationTable) -> list[str]:
    """What was evaluated; where that is not known bbox, and segm where both sides have masks."""
    has_masks = getattr(stored.predictions, "rles", None) is not None and truth.has_masks
    known = ["bbox", *(["segm"] if has_masks else [])]
    return [kind for kind in known if kind in stored.kinds] or known


def pixel_state(detections: PixelDetections) -> PixelState:
    """Detections in inclusive pixels as an evaluator gathers them: xyxy in continuous pixels."""
    boxes = detections.corners - detections.base + [0, 0, 1, 1]
    return PixelState([detections.images], [detections.labels], [detections.scores], [boxes])


def as_detections(detections: PixelDetections) -> DetectionTable:
    """Boxes in inclusive pixels as COCO has them."""
    corners = detections.corners
    start, sides = corners[:, :2] - detections.base, corners[:, 2:] - corners[:, :2] + 1
    boxes = np.concatenate([start, np.maximum(sides, 0)], axis=1)
    return DetectionTable(detections.images, detections.labels, detections.scores, boxes)


def annotated_alone(table: DetectionTable, truth: AnnotationTable) -> DetectionTable:
    """LVIS: the detections of classes that their image has, or lists as absent."""
    count = len(truth.class_names)
    absent = truth.image_extras["neg_category_ids"]
    images = np.repeat(np.arange(len(absent)), absent.lengths)
    known = np.concatenate([images * count + absent.values, truth.image_of * count + truth.labels])
    return table.select(np.flatnonzero(np.isin(table.images * count + table.labels, known)))


def read_summary(folder: Path) -> dict[str, Any]:
    """eval.json without its error analysis; empty where there is none."""
    path = folder / "eval.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: each for name, each in values.items() if name not in ("tide", "calibration")}
