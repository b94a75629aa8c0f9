"""Stored detections are evaluated by the metric of their run, and matched for the galleries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resdet.config.loading import config_from_dict, config_to_dict, load_any_config
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.evaluation import EvalSettings, Result, build_evaluator
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.inclusive import PixelDetections
from resdet.evaluation.stored import read_stored, store
from resdet.report.analysis import analyze, annotated_alone, as_detections, pixel_state
from resdet.report.detection import checked
from resdet.report.source import RunSource


def boxes_near(truth: AnnotationTable, seed: int = 0) -> DetectionTable:
    """Objects as detections, moved a little, and some of another class."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(truth.labels))[:400]
    boxes = truth.boxes_xywh[rows] + rng.normal(0, 1, (len(rows), 4))
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    labels = np.where(
        rng.random(len(rows)) < 0.1,
        rng.integers(0, len(truth.class_names), len(rows)),
        truth.labels[rows],
    )
    scores = rng.random(len(rows)).astype(np.float32).astype(np.float64)
    return DetectionTable(truth.image_of[rows], labels, scores, boxes.round(3))


def source_of(folder: Path, truth: AnnotationTable, metric: str, predictions: Any) -> RunSource:
    """A run with these predictions, whose data are the table alone."""
    config = load_any_config("demo_nuclei")
    values = config_to_dict(config)
    values["eval"]["metric"] = metric
    store(folder, predictions, values, truth, kinds=["bbox"])
    data = SimpleNamespace(table=truth, image_ids=list(truth.image_ids))
    data.untiled = data
    evaluated = config_from_dict(values, "the test")
    return RunSource(folder, config, evaluated, read_stored(folder), data)


@pytest.fixture(scope="module")
def truth(nuclei: Path) -> AnnotationTable:
    return read_annotations(nuclei / "annotations" / "val.json", [], outlines=False)


@pytest.mark.parametrize("metric", ["voc07", "voc12", "imagenet_det"])
def test_metrics_in_inclusive_pixels(truth: AnnotationTable, tmp_path: Path, metric: str) -> None:
    truth.difficult[:50] = metric.startswith("voc")
    table, base = boxes_near(truth), int(metric != "imagenet_det")
    x, y, width, height = table.boxes.T
    corners = np.stack([x, y, x + width - 1, y + height - 1], axis=1) + base
    pixels = PixelDetections(table.images, table.labels, table.scores, corners.round(3), base)
    analysis = analyze(source_of(tmp_path, truth, metric, pixels))
    evaluator: Any = build_evaluator(metric, truth, EvalSettings(("bbox",)))
    evaluator.merge(pixel_state(pixels))
    expected: Result = evaluator.compute()
    assert analysis is not None and analysis.result.summary == expected.summary
    np.testing.assert_allclose(as_detections(pixels).boxes, table.boxes, atol=2e-3)
    matches = analysis.shown
    assert matches.is_right.sum() > 250
    # difficult objects are neither found nor missed
    assert matches.is_object.sum() == len(truth.labels) - int(truth.difficult.sum())
    truth.difficult[:] = False


def test_lvis_leaves_out_classes_that_are_not_annotated(shared_data: Path, tmp_path: Path) -> None:
    truth = read_annotations(
        shared_data / "eval_fixtures" / "lvis_val_100.json", [], outlines=False
    )
    table = boxes_near(truth)
    kept = annotated_alone(table, truth)
    count = len(truth.class_names)
    present = set((truth.image_of * count + truth.labels).tolist())
    absent = truth.image_extras["neg_category_ids"]
    expected = [
        image * count + label in present or label in absent[image]
        for image, label in zip(table.images.tolist(), table.labels.tolist(), strict=True)
    ]
    assert len(kept.scores) == sum(expected) < len(table.scores)
    analysis = analyze(source_of(tmp_path, truth, "lvis", table))
    assert analysis is not None and "APr" in analysis.result.summary["bbox"]
    assert len(analysis.shown.detections.scores) == len(kept.scores)


def test_a_metric_of_the_users_own_shows_its_summary(
    truth: AnnotationTable, tmp_path: Path
) -> None:
    table = boxes_near(truth)
    (tmp_path / "eval.json").write_text('{"own": 0.25, "tide": {}}')
    analysis = analyze(source_of(tmp_path, truth, "own_metric", table))
    assert analysis is not None and analysis.result.summary == {"own": 0.25}
    assert analysis.shown.is_right.any()


def test_what_cannot_be_analysed_has_a_reason(truth: AnnotationTable, tmp_path: Path) -> None:
    source = source_of(tmp_path, truth, "coco", boxes_near(truth))
    assert checked(source)[1] == []
    source.val.image_ids = source.val.image_ids[1:]
    nothing, (reason,) = checked(source)
    assert nothing is None and "no longer there" in reason
    source.val.table = truth.select(np.arange(100))
    assert "evaluate the run again" in checked(source)[1][0]
