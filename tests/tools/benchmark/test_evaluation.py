"""The benchmark's files are what they say, and its numbers are compared; no timing is tested."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from resdet.errors import UserError
from tools.benchmark import evaluation
from tools.benchmark.evaluation import benchmark_eval
from tools.benchmark.evaluation_data import write_eval_files
from tools.benchmark.turns import Contender, Timing


def write_truth(folder: Path, *, sized: bool) -> Path:
    """Three images, one empty; an outline, a crowd's RLE and boxes alone."""
    size = {"height": 90, "width": 120} if sized else {}
    common = {"iscrowd": 0, "area": 400.0}
    annotations: list[dict[str, Any]] = [
        {**common, "id": 1, "image_id": 5, "category_id": 2, "bbox": [10, 10, 30, 20]},
        {**common, "id": 2, "image_id": 5, "category_id": 4, "bbox": [50, 20, 40, 40]},
        {**common, "id": 3, "image_id": 9, "category_id": 4, "bbox": [0, 0, 60, 70]},
    ]
    annotations[0]["segmentation"] = [[10, 10, 40, 10, 40, 30]]
    if sized:
        crowd = {"size": [90, 120], "counts": [0, 900, 9900]}
        annotations[2] |= {"iscrowd": 1, "segmentation": crowd}
    data = {
        "images": [{"id": number, **size} for number in (5, 9, 11)],
        "annotations": annotations,
        "categories": [{"id": 2, "name": "cat"}, {"id": 4, "name": "dog"}],
    }
    path = folder / "truth.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("sized", [True, False])
def test_files_hold_the_objects_and_seeded_detections(tmp_path: Path, sized: bool) -> None:
    source = write_truth(tmp_path, sized=sized)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        files = write_eval_files(
            source, folder, kinds=("bbox", "segm"), images=9, detections=20, seed=3
        )
    assert (files.images, files.objects, files.detections) == (3, 3, 60)
    for name in ("ground_truth.json", "bbox_results.json", "segm_results.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    truth = json.loads(files.ground_truth.read_text())
    first = truth["annotations"][0]
    assert (first["image_id"], first["category_id"], first["bbox"]) == (5, 2, [10, 10, 30, 20])
    assert all(annotation["segmentation"] for annotation in truth["annotations"])
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    assert set(sizes.values()) == {(90, 120) if sized else (480, 640)}
    for kind, key in (("bbox", "bbox"), ("segm", "segmentation")):
        records = json.loads(files.results[kind].read_text())
        assert Counter(record["image_id"] for record in records) == {5: 20, 9: 20, 11: 20}
        assert {record["category_id"] for record in records} == {2, 4}
        assert all(0 <= record["score"] <= 1 for record in records)
        assert all(set(r) == {"image_id", "category_id", "score", key} for r in records)
        for record in records:
            if kind == "segm":
                assert tuple(record[key]["size"]) == sizes[record["image_id"]]
                assert mask_utils.decode(record[key]).shape == sizes[record["image_id"]]
            else:
                x, y, w, h = record[key]
                height, width = sizes[record["image_id"]]
                assert min(x, y, w, h) >= 0
                assert x + w <= width + 1e-3
                assert y + h <= height + 1e-3


def here(contenders: Sequence[Contender], **_: Any) -> list[Timing]:
    """`take_turns` in this process; the second one fails."""
    names = ["pycocotools", "hotcoco", "resdet", "hotcoco (columns)", "resdet (columns)"]
    assert [each.name for each in contenders] == names
    for each in contenders[0], *contenders[2:]:
        module, function = each.make.split(":")
        getattr(importlib.import_module(module), function)(**each.arguments)()
    return [
        Timing(each.name, "", seconds, seconds, seconds, 100.0, error)
        for each, seconds, error in zip(
            contenders,
            (2.0, None, 0.5, 0.4, 0.4),
            (None, "it broke", None, None, None),
            strict=True,
        )
    ]


def test_numbers_are_compared_with_pycocotools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "take_turns", here)
    only = ("pycocotools", "hotcoco", "resdet")
    monkeypatch.setattr(evaluation, "is_installed", only.__contains__)
    source = write_truth(tmp_path, sized=True)
    found = benchmark_eval(source, images=3, detections=20, rounds=1, out=tmp_path / "out")
    assert [each.kind for each in found] == ["bbox", "segm"]
    for each in found:
        theirs, *finished = each.agreement
        assert (theirs.name, theirs.largest_difference) == ("hotcoco", None)
        assert len(finished) == 3
        assert all(agreement.equal_as_printed for agreement in finished)
        assert max(agreement.largest_difference or 0 for agreement in finished) < 1e-12
        assert [row["ratio"] for row in each.rows] == [1.0, None, 4.0, 5.0, 5.0]
        written = json.loads((tmp_path / f"out/benchmark_eval_{each.kind}.json").read_text())
        assert written["detections"] == 60
        assert written["agreement"][1]["equal_as_printed"] is True
        assert (tmp_path / f"out/benchmark_eval_{each.kind}.png").exists()
    text = capsys.readouterr().out
    assert "3 images, 60 detections" in text
    assert "resdet: equal to pycocotools to the last printed digit" in text
    assert "hotcoco: no numbers" in text


def test_numbers_that_differ_are_said_to(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("pycocotools", "resdet")}
    files["pycocotools"].write_text(json.dumps([0.5, -1.0, 0.25]))
    files["resdet"].write_text(json.dumps([0.5, -1.0, 0.2506]))
    differs = evaluation._agree("resdet", "pycocotools", files)
    assert differs.largest_difference == pytest.approx(6e-4)
    assert "NOT equal" in differs.words()
    files["resdet"].write_text(json.dumps([0.5, -1.0, float(np.nextafter(0.25, 1))]))
    assert evaluation._agree("resdet", "pycocotools", files).equal_as_printed


@pytest.mark.parametrize(
    "change", [{"kinds": ["keypoints"]}, {"kinds": []}, {"images": 0}, {"against": ["none"]}]
)
def test_wrong_choices(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        benchmark_eval(write_truth(tmp_path, sized=True), **change)
    with pytest.raises(UserError, match="no such file"):
        benchmark_eval(tmp_path / "none.json")


def test_the_peer_as_its_users_write_it_runs(tmp_path: Path) -> None:
    source = write_truth(tmp_path, sized=True)
    files = write_eval_files(source, tmp_path, kinds=("segm",), images=3, detections=10, seed=0)
    assert evaluation.is_installed("hotcoco")
    written = []
    for name in ("pycocotools", "hotcoco"):
        numbers = tmp_path / f"{name}.json"
        places = (str(files.ground_truth), str(files.results["segm"]), "segm", str(numbers))
        evaluation.make_evaluation(name, *places)()
        written.append(json.loads(numbers.read_text()))
    assert len(written[0]) == 12 and written[1] == pytest.approx(written[0])
