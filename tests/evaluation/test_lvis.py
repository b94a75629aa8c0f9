"""LVIS and TIDE numbers against those of the packages lvis and tidecv, kept as fixtures.

`tests/fixtures/make_lvis_reference.py` made them; tests/fixtures/README.md lists what differs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from resdet.commands.eval_coco import eval_coco_command
from resdet.data.detection.readers import read_annotations
from resdet.errors import UserError
from resdet.evaluation import EvalSettings, build_evaluator
from resdet.evaluation.coco import evaluate_coco_full
from resdet.evaluation.lvis import evaluate_lvis
from tests.fixtures.lvis_detections import digest, make_detections

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "lvis_tide_reference.json").read_text()
)


@pytest.fixture(scope="module")
def lvis_file(shared_data: Path) -> Path:
    return shared_data / "eval_fixtures" / "lvis_val_100.json"


@pytest.fixture(scope="module")
def detections(lvis_file: Path) -> dict[str, list[dict[str, Any]]]:
    truth = json.loads(lvis_file.read_text())
    made = {
        name: make_detections(truth, REFERENCE["seed"], case["decimals"])
        for name, case in REFERENCE["lvis"].items()
    }
    assert {name: digest(each) for name, each in made.items()} == {
        name: case["digest"] for name, case in REFERENCE["lvis"].items()
    }
    return made


@pytest.mark.parametrize("case", REFERENCE["lvis"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_numbers_of_lvis(
    lvis_file: Path, detections: dict[str, list[dict[str, Any]]], case: str, kind: str
) -> None:
    result = evaluate_lvis(lvis_file, detections[case], kinds=[kind])
    expected = REFERENCE["lvis"][case][kind]
    assert list(result.summary[kind]) == list(expected)
    assert result.summary[kind] == pytest.approx(expected, abs=1e-12)
    assert result.best == (f"{kind} AP", result.summary[kind]["AP"])
    assert result.details is not None
    tide = result.details()["tide"][kind]
    assert tide["AP50"] == pytest.approx(expected["AP50"], abs=1e-12)


def test_the_command_writes_them(
    lvis_file: Path, detections: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    records = tmp_path / "records.json"
    records.write_text(json.dumps(detections["distinct_scores"]))
    eval_coco_command(
        detections=records, annotations=lvis_file, lvis=True, kinds=["bbox"], out=tmp_path
    )
    written = json.loads((tmp_path / "eval.json").read_text())
    expected = REFERENCE["lvis"]["distinct_scores"]["bbox"]
    assert written["bbox"] == pytest.approx(expected, abs=1e-12)


def test_two_processes_merge_to_the_same_numbers(
    lvis_file: Path, detections: dict[str, list[dict[str, Any]]]
) -> None:
    import torch

    from resdet.structures import Detections

    truth = read_annotations(lvis_file, [], outlines=False)
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in detections["distinct_scores"]:
        by_image[record["image_id"]].append(record)
    label_of = {category: label for label, category in enumerate(truth.category_ids)}
    settings = EvalSettings(iou_types=("bbox",), max_dets=(1, 10, 100))
    main, other = (build_evaluator("lvis", truth, settings) for _ in range(2))
    for index, (image_id, records) in enumerate(by_image.items()):
        boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        one = Detections(
            boxes,
            torch.tensor([record["score"] for record in records], dtype=torch.float64),
            torch.tensor([label_of[record["category_id"]] for record in records]),
            (1, 1),
        )
        (main, other)[index % 2].update([image_id], [one])
    main.merge(other.state)
    expected = REFERENCE["lvis"]["distinct_scores"]["bbox"]
    assert main.compute().summary["bbox"] == pytest.approx(expected, abs=1e-9)


def test_a_coco_file_is_no_lvis_file(shared_data: Path) -> None:
    file = shared_data / "eval_fixtures" / "instances_val2014_100.json"
    with pytest.raises(UserError, match="not an LVIS annotation file"):
        evaluate_lvis(file, [])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_errors_of_tidecv(shared_data: Path, kind: str) -> None:
    """The counts are tidecv's; its AP differs by .02 points, as its recall steps are x / 100."""
    case = REFERENCE["tide"]["comparable"]
    truth = json.loads((shared_data / "eval_fixtures" / "instances_val2014_100.json").read_text())
    made = make_detections(truth, REFERENCE["seed"], case["decimals"], case["labelled_only"])
    assert digest(made) == case["digest"]
    truth["annotations"] = [each for each in truth["annotations"] if not each["iscrowd"]]
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in sorted(made, key=lambda record: -record["score"]):
        by_image[record["image_id"]].append(record)
    # tidecv keeps 100 detections per image, COCO 100 per image and class
    kept = [record for records in by_image.values() for record in records[:100]]
    result = evaluate_coco_full(truth, kept, kinds=[kind])
    assert result.details is not None
    tide, expected = result.details()["tide"][kind], case[kind]
    assert tide["counts"] == expected["counts"]
    assert 100 * tide["AP50"] == pytest.approx(expected["ap"], abs=0.03)
    for name, points in expected["errors"].items():
        assert 100 * tide["delta_AP50"][name] == pytest.approx(points, abs=0.06), name


@pytest.mark.parametrize("name", ["coco", "lvis", "accuracy"])
def test_a_metric_of_the_other_task(lvis_file: Path, name: str) -> None:
    truth = read_annotations(lvis_file, [], outlines=False)
    other: Any = truth if name == "accuracy" else ["cat", "dog"]
    with pytest.raises(UserError, match=rf"eval\.metric: '{name}' is for (classifiers|detectors)"):
        build_evaluator(name, other)
