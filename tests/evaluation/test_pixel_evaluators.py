"""VOC's and ImageNet's evaluators: several processes, settings, and what has no value."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.errors import UserError
from resdet.evaluation import EvalSettings, build_evaluator
from resdet.evaluation.imagenet_det import evaluate_det
from resdet.evaluation.imagenet_loc import evaluate_loc
from resdet.evaluation.inclusive import PixelDetections, match_imagenet, match_voc
from resdet.evaluation.voc import evaluate_voc
from resdet.structures import Detections
from tests.evaluation.devkit_tables import table_of
from tests.evaluation.ilsvrc_reference import flat_table, generated_det
from tests.fixtures.devkit_cases import Case, det_case

METRICS = ("voc07", "voc12", "imagenet_det")


def as_model_output(case: Case, image: int) -> Detections:
    """Continuous boxes, best first."""
    rows = sorted((d for d in case.detections if d[0] == image), key=lambda d: -d[2])
    boxes = [(x1, y1, x2 + 1, y2 + 1) for _, _, _, (x1, y1, x2, y2) in rows]
    return Detections(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor([score for _, _, score, _ in rows]),
        torch.tensor([label for _, label, _, _ in rows], dtype=torch.long),
        (200, 200),
    )


@pytest.mark.parametrize("metric", METRICS)
def test_processes_may_share_the_images_in_any_way(metric: str) -> None:
    case = det_case(11)
    # ties between images, which the order of the processes must not decide
    case.detections = [(i, la, round(s, 1), box) for i, la, s, box in case.detections]
    truth = table_of(case, 0)
    results = []
    for shares in ([range(len(case.image_ids))], [range(1, len(case.image_ids), 2)], [[], [0]]):
        parts = [list(share) for share in shares]
        rest = [i for i in range(len(case.image_ids)) if not any(i in part for part in parts)]
        evaluators = []
        for part in (*parts, rest):
            evaluator = build_evaluator(metric, truth)
            for image in part:
                evaluator.update([case.image_ids[image]], [as_model_output(case, image)])
            evaluators.append(evaluator)
        for other in evaluators[1:]:
            evaluators[0].merge(other.state)
        results.append(evaluators[0].compute())
    assert results[0].summary["mAP"] > 0
    assert all(result.summary == results[0].summary for result in results)
    assert all(result.per_class == results[0].per_class for result in results)


def test_an_overlap_of_one_half() -> None:
    case = Case(["a"], ["cat"], [(0, 0, (1, 1, 10, 10), 0)], [(0, 0, 0.5, (1, 1, 10, 5))])
    truth = table_of(case, 1)
    output = Detections(
        torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([0.5]), torch.tensor([0]), (20, 20)
    )
    for overlap, expected in (("inclusive", 1.0), ("exclusive", 0.0)):
        evaluator = build_evaluator("voc12", truth, EvalSettings(overlap=overlap))
        evaluator.update(["a"], [output])
        assert evaluator.compute().summary["mAP"] == expected


@pytest.mark.parametrize(
    ("metric", "settings", "message"),
    [
        ("voc07", EvalSettings(blacklist="b.txt"), "eval.blacklist: belongs to ImageNet's"),
        ("coco", EvalSettings(overlap="exclusive"), "eval.overlap: belongs to VOC's"),
        ("imagenet_det", EvalSettings(overlap="exclusive"), "eval.overlap: belongs to VOC's"),
        ("voc12", EvalSettings(iou_types=("segm",)), "this metric evaluates boxes"),
        ("imagenet_det", EvalSettings(blacklist="none.txt"), "none.txt: no such file"),
        ("accuracy", EvalSettings(), "'accuracy' is for classifiers"),
    ],
)
def test_settings_of_another_metric(metric: str, settings: EvalSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_evaluator(metric, table_of(det_case(0), 0), settings)


@pytest.mark.parametrize("metric", [*METRICS, "imagenet_loc"])
def test_detectors_metrics_are_not_for_classifiers(metric: str) -> None:
    with pytest.raises(UserError, match=f"'{metric}' is for detectors"):
        build_evaluator(metric, ["ants", "bees"])


def test_classes_without_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects: list[Any] = [
        (0, 0, (1, 1, 9, 9), 0),
        (0, 1, (1, 1, 9, 9), 1),
        (0, 1, (20, 20, 30, 30), 0),
    ]
    case = Case(["a"], ["cat", "dog", "cow"], objects)
    case.detections = [
        (0, 0, 0.9, (1, 1, 9, 9)),
        (0, 1, 0.8, (1, 1, 9, 9)),
        (0, 2, 0.7, (1, 1, 9, 9)),
    ]
    truth = table_of(case, 1)
    images, labels, scores, boxes = zip(*case.detections, strict=True)
    columns = [np.array(column) for column in (images, labels, scores, boxes)]
    detections = PixelDetections(*columns, base=1)
    result = evaluate_voc(truth, detections, "voc07")
    assert result.summary["mAP"] == pytest.approx(1)
    assert (result.summary["num_classes"], result.summary["num_without_value"]) == (1, 2)
    assert (
        "1 of 3 classes have no object to detect and are left out of the mean: 'cow'"
        in (result.notes[0])
    )
    assert "1 classes have an AP of NaN" in result.notes[1] and "'dog'" in result.notes[1]
    result.write(tmp_path)
    result.print_tables()
    assert json.loads((tmp_path / "eval.json").read_text()) == result.summary
    with (tmp_path / "per_class.csv").open() as file:
        assert [row["AP"][:3] for row in csv.DictReader(file)] == ["1.0", "nan", "0.0"]
    assert "NaN" in capsys.readouterr().out
    assert (tmp_path / "pr_voc07.png").is_file() and (tmp_path / "pr_voc07_classes.png").is_file()
    # VOC12 gives the class whose only detection matches a difficult object 0
    assert evaluate_voc(truth, detections, "voc12").summary["mAP"] == 0.5


def test_nothing_to_detect_has_no_best_value() -> None:
    truth = table_of(Case(["a"], ["cat"]), 1)
    nothing = PixelDetections(
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4))
    )
    result = evaluate_voc(truth, nothing, "voc12")
    assert result.best is None and result.summary["mAP"] == -1
    unlabelled = replace(truth, has_annotations=False)
    for evaluate in (evaluate_det, evaluate_loc):
        result = evaluate(unlabelled, nothing)
        assert result.summary == {} and result.detections is nothing
        assert "no annotations, so there are no metrics" in result.notes[0]


def test_scores_that_are_not_finite() -> None:
    truth = table_of(det_case(0), 0)
    evaluator = build_evaluator("voc12", truth)
    output = Detections(
        torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([torch.nan]), torch.tensor([0]), (20, 20)
    )
    evaluator.update([truth.image_ids[0]], [output])
    with pytest.raises(UserError, match=r"not finite .*did training diverge"):
        evaluator.compute()


def test_localization_by_its_evaluator() -> None:
    truth = flat_table(
        np.array([1, 2, 3]),
        ["cat", "dog"],
        np.array([0, 1]),
        np.array([[0.0, 0, 10, 10], [5, 5, 20, 20]]),
        np.array([0, 1]),
    )
    evaluator = build_evaluator("imagenet_loc", truth)
    wrong = [[0.0, 0, 2, 2]] * 5
    for image, boxes in ((1, [[0.0, 0, 10, 10]]), (2, [*wrong, [5.0, 5, 25, 25]])):
        labels = torch.full((len(boxes),), image - 1)
        output = Detections(torch.tensor(boxes), torch.ones(len(boxes)), labels, (30, 30))
        evaluator.update([image], [output])
    result = evaluator.compute()
    assert result.summary["loc_error_percent"] == 50, "the sixth guess does not count"
    assert result.summary["cls_error_percent"] == 0 and result.summary["num_images"] == 2
    assert result.notes == ["1 images have no object and do not count: 3"]
    assert [row["loc_error_percent"] for row in result.per_class] == [0, 100]


def test_an_image_of_two_classes_cannot_be_localized() -> None:
    truth = flat_table(
        np.array([7]), ["a", "b"], np.array([0, 0]), np.ones((2, 4)), np.array([0, 1])
    )
    with pytest.raises(UserError, match="image 7 has objects of several classes"):
        build_evaluator("imagenet_loc", truth)


def test_matching_is_that_of_plain_loops() -> None:
    """The rules as written in the devkits, one detection after the other."""
    truth, (images, labels), values = generated_det(40, 3, objects=6, detections=40, seed=3)
    detections = PixelDetections(images, labels, values[:, 0].round(1), values[:, 1:])
    none = np.zeros(len(truth.labels), bool)
    hard = np.arange(len(truth.labels)) % 5 == 0
    for rule in ("voc", "det"):
        if rule == "voc":
            right, wrong = match_voc(detections, truth, hard)
        else:
            skip = np.zeros(len(images), bool)
            everything = np.arange(len(truth.labels))
            right, wrong = match_imagenet(detections, truth, everything, skip)
        slow = slow_matches(truth, detections, hard if rule == "voc" else none, rule)
        np.testing.assert_array_equal(right, slow == 1)
        np.testing.assert_array_equal(wrong, slow == -1)


def slow_matches(truth: Any, detections: PixelDetections, hard: Any, rule: str) -> np.ndarray:
    """1 right, -1 wrong, 0 neither."""
    taken: set[int] = set()
    found = np.zeros(len(detections.scores))
    for row in np.argsort(-detections.scores, kind="stable").tolist():
        image, label = detections.images[row], detections.labels[row]
        best, ratio = -1, -1.0
        x1, y1, x2, y2 = detections.corners[row]
        for place in np.flatnonzero((truth.image_of == image) & (truth.labels == label)).tolist():
            x, y, w, h = truth.boxes_xywh[place]
            iw = min(x2, x + w - 1) - max(x1, x) + 1
            ih = min(y2, y + h - 1) - max(y1, y) + 1
            if iw <= 0 or ih <= 0:
                continue
            overlap = iw * ih / ((x2 - x1 + 1) * (y2 - y1 + 1) + w * h - iw * ih)
            if rule == "det":
                limit = min(0.5, w * h / ((w + 10) * (h + 10)))
                if place in taken or overlap < limit:
                    continue
            if overlap > ratio:
                best, ratio = place, overlap
        if best < 0 or (rule == "voc" and ratio < 0.5):
            found[row] = -1
        elif not hard[best]:
            found[row] = -1 if best in taken else 1
            taken.add(best)
    return found


@pytest.mark.slow
def test_ten_thousand_images_in_seconds() -> None:
    truth, (images, labels), values = generated_det(10000, 200, objects=5, detections=100, seed=0)
    detections = PixelDetections(images, labels, values[:, 0], values[:, 1:])
    start = time.process_time()
    evaluate_det(truth, detections)
    evaluate_voc(truth, detections, "voc12")
    assert time.process_time() - start < 10
