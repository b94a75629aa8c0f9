"""VOC's and ImageNet's metrics against the devkits' own code, which ran under Octave."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.data.detection.readers import read_annotations
from resdet.evaluation.imagenet_det import det_curves
from resdet.evaluation.imagenet_files import (
    read_det_blacklist,
    read_det_predictions,
    read_loc_blacklist,
    read_loc_predictions,
)
from resdet.evaluation.imagenet_loc import localize
from resdet.evaluation.precision_recall import area_ap
from resdet.evaluation.result_files import read_coco_results
from resdet.evaluation.voc import VOC_METRICS, evaluate_voc, voc_curves
from resdet.evaluation.voc_files import read_voc_results
from tests.evaluation.devkit_tables import table_of, write_det, write_det_blacklist, write_voc
from tests.evaluation.ilsvrc_reference import loc_table
from tests.fixtures.devkit_cases import NUM_CASES, det_case, loc_guesses, voc_case

TOLERANCE = 1e-12


@pytest.fixture(scope="module")
def reference(repo: Path) -> Any:
    return json.loads((repo / "tests" / "fixtures" / "devkit_reference.json").read_text())


def numbers(row: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in row])


def test_voc_is_vocevaldet(reference: Any, tmp_path: Path) -> None:
    undefined = 0
    for number in range(NUM_CASES):
        case = voc_case(number)
        truth = table_of(case, 1)
        detections = read_voc_results(write_voc(case, tmp_path / "results"), truth)
        curves = voc_curves(truth, detections)
        for metric, ap in VOC_METRICS.items():
            expected = numbers(reference[metric][number])
            ours = [ap(curve) for curve in curves]
            np.testing.assert_allclose(
                ours, expected, rtol=0, atol=TOLERANCE, err_msg=f"{metric}, case {number}"
            )
            undefined += int(np.isnan(ours).sum())
    assert undefined > 40, "the cases have classes without a value"


def test_det_is_eval_detection(reference: Any, tmp_path: Path) -> None:
    for number in range(NUM_CASES):
        case = det_case(number)
        truth = table_of(case, 0)
        detections = read_det_predictions(write_det(case, tmp_path / "det.txt"), truth)
        banned = read_det_blacklist(write_det_blacklist(case, tmp_path / "black.txt"), truth)
        for place, blacklist in enumerate((None, banned)):
            ours = [area_ap(curve) for curve in det_curves(truth, detections, blacklist)]
            expected = numbers(reference["det"][2 * number + place])
            np.testing.assert_allclose(
                ours, expected, rtol=0, atol=TOLERANCE, err_msg=f"case {number}, {place}"
            )


@pytest.mark.parametrize(("metric", "mean"), [("voc07", 0.601109), ("voc12", 0.607550)])
def test_real_detections(reference: Any, shared_data: Path, metric: str, mean: float) -> None:
    folder = shared_data / "voc2012_100" / "annotations"
    truth = read_annotations(folder / "instances.json", [])
    detections = read_coco_results(folder / "detections_real_model.json", truth)
    result = evaluate_voc(truth, detections, metric)
    assert result.summary["mAP"] == pytest.approx(mean, abs=5e-7)
    assert result.best == ("mAP", result.summary["mAP"])
    expected = numbers(reference["voc2012_100"][metric])
    ours = [row["AP"] for row in result.per_class]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE)
    assert result.summary["num_without_value"] == 0 and not result.notes


def test_loc_is_eval_clsloc(reference: Any, shared_data: Path, tmp_path: Path) -> None:
    arrays = np.load(shared_data / "ilsvrc_reference" / "loc_val_gt.npz")
    boxes = arrays["boxes_xyxy_0based_inclusive"]
    lines, blacklisted = loc_guesses(arrays["label"], arrays["num_boxes"], boxes)
    path = tmp_path / "guesses.txt"
    path.write_text("\n".join(lines) + "\n")
    banned = tmp_path / "banned.txt"
    banned.write_text("".join(f"{row}\n" for row in (1 + np.flatnonzero(blacklisted)).tolist()))
    truth = loc_table(shared_data)
    start = time.process_time()
    guesses = read_loc_predictions(path, truth)
    plain = localize(truth, guesses)
    assert time.process_time() - start < 10, "seconds of 50,000 images"
    without = localize(truth, guesses, read_loc_blacklist(banned, truth))
    for count in range(1, 6):
        errors = [plain.class_error(count), plain.error(count)]
        assert errors == reference["loc"]["without"][count - 1]
        assert plain.error(count) == reference["loc"]["flat"][count - 1]
        errors = [without.class_error(count), without.error(count)]
        assert errors == reference["loc"]["with"][count - 1]
