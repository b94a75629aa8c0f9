"""COCO's submission files, and what has none."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from resdet.commands.eval_coco import eval_coco_command
from resdet.errors import UserError

MASK = {"size": [9, 9], "counts": "T15100000000000000c0"}


def files(
    folder: Path,
    name: str = "image_info_test-dev2015.json",
    category: tuple[int, str] = (1, "person"),
    image: Any = 3,
) -> dict[str, Any]:
    truth = {
        "images": [{"id": image, "height": 9, "width": 9}],
        "categories": [{"id": category[0], "name": category[1]}],
    }
    box = [1, 1, 4, 4]
    record = {"image_id": image, "category_id": category[0], "bbox": box, "score": 0.5}
    (folder / name).write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps([record]))
    return {
        "detections": folder / "results.json",
        "annotations": folder / name,
        "out": folder / "out",
    }


def test_the_official_name_and_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eval_coco_command(**files(tmp_path), submission="ResNet-101")
    path = tmp_path / "out/submission_bbox/detections_test-dev2015_ResNet-101_results.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["detections_test-dev2015_ResNet-101_results.json"]
        records = json.loads(archive.read(archive.namelist()[0]))
    assert records == [{"image_id": 3, "category_id": 1, "bbox": [1, 1, 4, 4], "score": 0.5}]
    assert f"submission_bbox/{path.name}" in capsys.readouterr().out
    assert not (tmp_path / "out" / "submission_segm").exists()


def test_masks_have_a_file_of_their_own(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "eval_fixtures"
    truth = next(folder.glob("instances_val2014_100*.json"), None)
    results = next(folder.glob("*fakesegm100*.json"), None)
    if truth is None or results is None:
        pytest.skip("no masks of COCO's val2014 here")
    (tmp_path / "instances_val2014.json").write_bytes(truth.read_bytes())
    eval_coco_command(
        detections=results,
        annotations=tmp_path / "instances_val2014.json",
        kinds=["segm"],
        submission="mine",
        out=tmp_path,
    )
    path = tmp_path / "submission_segm" / "detections_val2014_mine_results.zip"
    with zipfile.ZipFile(path) as archive:
        records = json.loads(archive.read(archive.namelist()[0]))
    assert len(records) > 100 and set(records[0]) == {
        "image_id", "category_id", "segmentation", "score",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({}, "my_net", "give letters, digits and hyphens"),
        ({"name": "mine.json"}, "net", "not a set that COCO's server evaluates"),
        ({"category": (1, "nucleus")}, "net", "categories that are not COCO's: '1 nucleus'"),
        ({"image": "a"}, "net", "image ids that are not COCO's numbers"),
    ],
)
def test_what_the_server_does_not_take(
    tmp_path: Path, changes: dict[str, Any], name: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        eval_coco_command(**files(tmp_path, **changes), submission=name)


def test_lvis_has_no_submission() -> None:
    with pytest.raises(UserError, match="leave out --lvis"):
        eval_coco_command(detections="a", annotations="b", lvis=True, submission="net")
