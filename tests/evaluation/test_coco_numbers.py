"""The published and the reference numbers, with both backends, on real detections."""

from __future__ import annotations

import json
import pickle
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.data.detection.readers import read_annotations
from resdet.evaluation.coco import CocoEvaluator, evaluate_coco, evaluate_coco_full
from resdet.evaluation.coco_backends import BACKENDS

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
CASES = ("fakebbox100", "fakesegm100", "yolact_val2017_150", "voc2012_100")


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, Any]:
    text = (shared_data / "eval_fixtures" / "reference_metrics.json").read_text()
    return json.loads(text)["metrics"]


def published(text: str) -> dict[str, list[float]]:
    """The 12 numbers of each kind that cocoapi's repository prints for its fake results."""
    numbers: dict[str, list[float]] = defaultdict(list)
    for line in text.splitlines():
        if line.startswith("type="):
            kind = line.removeprefix("type=")
        elif match := re.search(r"\] = (0\.\d+)$", line):
            numbers[kind].append(float(match[1]))
    return numbers


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_published_numbers_of_the_fake_results(shared_data: Path, kind: str, backend: str) -> None:
    folder = shared_data / "eval_fixtures"
    expected = published((folder / "val2014_fake_eval_res.txt").read_text())[kind]
    found = evaluate_coco(
        folder / "instances_val2014_100.json",
        folder / f"instances_val2014_fake{kind}100_results.json",
        kinds=[kind],
        backend=backend,
    )[kind]
    assert list(found) == KEYS
    assert [round(value, 3) for value in found.values()] == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_reference_numbers(
    shared_data: Path, reference: dict[str, Any], case: str, backend: str
) -> None:
    entry = reference[case]
    kind = entry["iou_type"]
    found = evaluate_coco(
        shared_data / entry["gt"], shared_data / entry["dt"], kinds=[kind], backend=backend
    )
    assert found == {kind: pytest.approx(entry["stats"], abs=1e-12)}


@pytest.mark.parametrize("caps", [(1, 10, 300), (3, 20, 50), (1, 2, 5)])
def test_other_caps_name_the_recalls_and_leave_no_minus_one(
    shared_data: Path, reference: dict[str, Any], caps: tuple[int, int, int]
) -> None:
    entry = reference["fakesegm100"]
    fast, referee = (
        evaluate_coco(
            shared_data / entry["gt"],
            shared_data / entry["dt"],
            kinds=["segm"],
            backend=backend,
            max_dets=caps,
        )["segm"]
        for backend in BACKENDS
    )
    assert [key for key in fast if key.startswith("AR")][:3] == [f"AR{cap}" for cap in caps]
    assert all(value > 0 for value in fast.values())
    assert fast == pytest.approx(referee, abs=1e-12)
    if caps[-1] == 300:  # no image has more than 100 detections
        assert fast["AP"] == pytest.approx(entry["stats"]["AP"], abs=1e-12)


def test_rows_and_curves_agree_with_the_summary(
    shared_data: Path, reference: dict[str, Any]
) -> None:
    entry = reference["voc2012_100"]
    result = evaluate_coco_full(shared_data / entry["gt"], shared_data / entry["dt"])
    assert list(result.summary) == ["bbox"], "without masks on both sides boxes alone are evaluated"
    rows, curves = result.per_class, result.curves["bbox"]
    assert [row["name"] for row in rows][:2] == ["aeroplane", "bicycle"]
    assert sum(row["num_gt"] for row in rows) == 273
    assert sum(row["num_detections"] for row in rows) == 452
    assert result.best == ("bbox AP", result.summary["bbox"]["AP"])
    assert curves.shape == (10, 101, 20)
    for name, curve in (("AP", curves), ("AP50", curves[0]), ("AP75", curves[5])):
        mean = sum(row[name] for row in rows) / len(rows)
        assert mean == pytest.approx(entry["stats"][name], abs=1e-12)
        assert curve.mean() == pytest.approx(entry["stats"][name], abs=1e-12)


def test_nothing_given_is_changed(shared_data: Path, reference: dict[str, Any]) -> None:
    entry = reference["fakesegm100"]
    truth, detections = (json.loads((shared_data / entry[key]).read_text()) for key in ("gt", "dt"))
    before = json.dumps([truth, detections])
    for backend in BACKENDS:
        evaluate_coco(truth, detections, backend=backend)
    assert json.dumps([truth, detections]) == before


def test_order_of_files_and_string_ids_change_nothing(
    shared_data: Path, reference: dict[str, Any]
) -> None:
    entry = reference["yolact_val2017_150"]
    truth, detections = (json.loads((shared_data / entry[key]).read_text()) for key in ("gt", "dt"))
    truth["categories"].reverse()
    for image in truth["images"]:
        image["id"] = f"{image['id']:012}"
    for record in truth["annotations"] + detections:
        record["image_id"] = f"{record['image_id']:012}"
    for backend in BACKENDS:
        found = evaluate_coco(truth, detections, backend=backend)
        assert found["bbox"] == pytest.approx(entry["stats"], abs=1e-12)


def test_mask_area_decides_the_size_of_detections_with_boxes_too(
    shared_data: Path, reference: dict[str, Any]
) -> None:
    entry = reference["fakesegm100"]
    detections = json.loads((shared_data / entry["dt"]).read_text())
    for record in detections:
        record["bbox"] = [0.0, 0.0, 640.0, 480.0]
    found = evaluate_coco(shared_data / entry["gt"], detections, kinds=["segm"])
    assert found["segm"] == pytest.approx(entry["stats"], abs=1e-12)


def test_evaluator_merges_the_detections_of_processes(
    shared_data: Path, reference: dict[str, Any]
) -> None:
    import torch

    from resdet.structures import Detections

    entry = reference["voc2012_100"]
    truth = read_annotations(shared_data / entry["gt"], [])
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in json.loads((shared_data / entry["dt"]).read_text()):
        by_image[record["image_id"]].append(record)
    processes = [CocoEvaluator(truth), CocoEvaluator(truth)]
    for index, (image_id, records) in enumerate(by_image.items()):
        boxes = torch.tensor([record["bbox"] for record in records])
        boxes[:, 2:] += boxes[:, :2]
        detections = Detections(
            boxes,
            torch.tensor([record["score"] for record in records]),
            torch.tensor([record["category_id"] - 1 for record in records]),
            (500, 500),
            category_ids=list(range(1, 21)),
        )
        processes[index % 2].update([image_id], [detections])
    main, other = processes
    main.merge(pickle.loads(pickle.dumps(other.state)))
    result = main.compute()
    assert sum(row["num_detections"] for row in result.per_class) == 452
    assert result.summary["bbox"] == pytest.approx(entry["stats"], abs=1e-6)
    assert main.compute().summary == result.summary, "evaluating leaves nothing behind"


def test_masks_of_a_model_are_evaluated_as_their_records(shared_data: Path) -> None:
    """`update` keeps columns; the result file of the same detections gives the same numbers."""
    import torch

    from resdet.structures import Detections

    file = shared_data / "eval_fixtures" / "instances_val2014_100.json"
    truth = read_annotations(file, [])
    evaluator, records = CocoEvaluator(truth), []
    rng = torch.Generator().manual_seed(0)
    for row in range(30):
        objects = np.flatnonzero(truth.image_of == row)
        boxes = torch.from_numpy(truth.boxes_xywh[objects])
        boxes[:, 2:] += boxes[:, :2]
        boxes += torch.randn(boxes.shape, generator=rng) * 2
        detections = Detections(
            boxes.float(),
            torch.rand(len(objects), generator=rng),
            torch.from_numpy(truth.labels[objects]),
            tuple(truth.sizes[row].tolist()),
            mask_probs=torch.rand((len(objects), 28, 28), generator=rng) * 0.4 + 0.4,
            category_ids=truth.category_ids,
        )
        evaluator.update([truth.image_ids[row]], [detections])
        records += detections.to_coco(truth.image_ids[row])
    result = evaluator.compute()
    assert list(result.summary) == ["bbox", "segm"] and result.summary["segm"]["AP"] > 0.05
    assert result.summary == evaluate_coco(file, records)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_tide_and_calibration_belong_to_the_same_evaluation(
    shared_data: Path, reference: dict[str, Any], kind: str
) -> None:
    """hotcoco leaves them empty after streaming evaluation, without an error."""
    entry = reference[f"fake{kind}100"]
    result = evaluate_coco_full(shared_data / entry["gt"], shared_data / entry["dt"], kinds=[kind])
    assert result.details is not None
    details = result.details()
    tide, calibration = details["tide"][kind], details["calibration"][kind]
    assert tide["AP50"] == pytest.approx(entry["stats"]["AP50"], abs=1e-12)
    assert list(tide["counts"]) == ["Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"]
    assert tide["counts"]["Cls"] > 50 and 0.1 < tide["delta_AP50"]["Cls"] < 0.2
    assert sum(bin_["count"] for bin_ in calibration["bins"]) > 500
    assert 0 < calibration["ece"] < calibration["mce"] < 1
