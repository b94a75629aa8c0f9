"""Result records as users' code writes them: numpy's numbers, ids in other forms, broken masks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.data.detection.readers import read_annotations
from resdet.errors import UserError
from resdet.evaluation.coco import evaluate_coco, evaluate_coco_full
from resdet.evaluation.coco_backends import BACKENDS
from resdet.evaluation.result_files import read_coco_results
from tests.evaluation.test_coco_traps import make_truth, perfect, to_counts, words

HUGE = 10**400


@pytest.fixture
def truth() -> dict[str, Any]:
    return make_truth()


@pytest.fixture
def records(truth: dict[str, Any]) -> list[dict[str, Any]]:
    return perfect(truth)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("area", [-5, math.nan, math.inf, 1e9, HUGE])
def test_an_impossible_area_hides_no_object(
    truth: Any, records: Any, area: float, backend: str
) -> None:
    """A perfect detection of one object of three, the others missed, is not a perfect result."""
    expected = evaluate_coco(truth, records[:1], backend=backend)
    for annotation in truth["annotations"][1:]:
        annotation["area"] = area
    result = evaluate_coco_full(truth, records[:1], backend=backend)
    assert result.summary == expected and expected["bbox"]["AP"] < 0.3
    assert words(result.notes, "annotation 2 and 1 more with an 'area' that is negative", "box")


def test_areas_of_zero_are_those_of_pycocotools(truth: Any, records: Any) -> None:
    truth["annotations"][1]["area"] = 0
    fast, slow = (evaluate_coco_full(truth, records, backend=backend) for backend in BACKENDS)
    assert fast.summary == slow.summary and fast.notes == slow.notes
    assert not words(fast.notes, "'area'")


@pytest.mark.parametrize("form", [np.int64, np.int32, float, np.float64, str, torch.tensor, "01"])
def test_ids_in_other_forms(truth: Any, records: Any, form: Any) -> None:
    expected = evaluate_coco(truth, records)
    for record in records:
        for key in ("image_id", "category_id"):
            record[key] = f"0{record[key]}" if form == "01" else form(record[key])
        record["score"] = np.float32(record["score"])
    result = evaluate_coco_full(truth, records)
    assert result.summary == expected
    assert words(result.notes, "image ids matched as numbers") == (form in (str, "01"))
    assert words(result.notes, "category ids matched as numbers") == (form in (str, "01"))


@pytest.mark.parametrize("form", [np.array, np.float32, torch.tensor, tuple, list])
def test_arrays(truth: Any, records: Any, form: Any) -> None:
    expected = evaluate_coco(truth, records)
    for record in records:
        box = record["bbox"]
        record["bbox"] = [np.float32(v) for v in box] if form is np.float32 else form(box)
        record["score"] = np.array([0.9])
        counts = to_counts(record["segmentation"])
        size = np.array(record["segmentation"]["size"])
        record["segmentation"] = {"size": size, "counts": np.array(counts)}
    assert evaluate_coco(truth, records) == expected
    for record in records:
        record["bbox"] = np.array([])
    assert evaluate_coco(truth, records) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(truth: Any, records: Any, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    records[0]["model"] = "é"
    path.write_bytes(json.dumps(records, ensure_ascii=False).encode(encoding))
    assert evaluate_coco(truth, path) == evaluate_coco(truth, records)
    table = read_annotations(truth, [])
    assert len(read_coco_results(path, table).scores) == 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *((key, value, f"has {key} .*, not a whole number or text")
          for key in ("image_id", "category_id")
          for value in (None, True, 1.5, math.nan, math.inf, [1], {}, np.arange(2))),
        ("image_id", "", "1 image ids are not in ground truth: ''"),
        ("image_id", 10**5000, "1 image ids are not in ground truth: a int of thousands"),
        *(("score", value, "has score .*; give a number")
          for value in (None, [0.5, 0.6], {}, "x", True, HUGE, np.arange(2))),
        *(("score", value, "a score that is not finite") for value in (math.inf, "nan", "1e999")),
        *(("bbox", value, r"must be \[x, y, width, height\]")
          for value in ([1, 2, 3], [1, 2, 3, None], [1, 2, 3, "4"], [1, 2, 3, True], "1 2 3 4", 5,
                        {"x": 1, "y": 2, "w": 3, "h": 4}, [[1, 2, 3, 4]], [1, 2, -3, 4],
                        [1, 2, 3, math.nan], [HUGE, 2, 3, 4], np.ones(3), np.ones((2, 2)))),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "case",
)  # fmt: skip
def test_records_that_are_none(
    truth: Any, records: Any, key: str, value: Any, message: str
) -> None:
    records[1][key] = value
    with pytest.raises(UserError, match=message) as error:
        evaluate_coco(truth, records)
    assert len(str(error.value)) < 300 and "1" in str(error.value)


@pytest.mark.parametrize(
    "records",
    [[5], [None], [[1, 2]], "results.json", {"annotations": []}, None, 5, ["a"], [{}, 3]],
)
def test_lists_that_are_none(truth: Any, records: Any) -> None:
    with pytest.raises(UserError, match=r"detections are|no such file"):
        evaluate_coco(truth, records)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "size", [[0, 0], [0, 5], [2**32, 2**32], [2**16, 2**16], [HUGE, 1], [-1, -1], [True, 1], None]
)
@pytest.mark.parametrize("counts", ["", "0", "1", "\ud800", [0], [], [2**32], b"0", None, 5])
def test_masks_that_crashed_python(
    truth: Any, records: Any, size: Any, counts: Any, backend: str
) -> None:
    for has_size in (True, False):
        if not has_size:
            del truth["images"][0]["height"]
            truth["annotations"] = [
                {**annotation, "segmentation": {"size": [0, 0], "counts": "0"}}
                for annotation in truth["annotations"]
            ]
        records[0]["segmentation"] = {"size": size, "counts": counts}
        with pytest.raises(UserError, match=r"detection 0|no annotation has a segmentation"):
            evaluate_coco(truth, records, kinds=["bbox", "segm"], backend=backend)
        del records[0]["bbox"]
        with pytest.raises(UserError, match="detection 0"):
            evaluate_coco(truth, records, kinds=["bbox"], backend=backend)
        records[0]["bbox"] = [1, 2, 3, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_of_an_image_of_unknown_size(truth: Any, records: Any, backend: str) -> None:
    for image in truth["images"]:
        del image["height"], image["width"]
    truth["annotations"][0]["segmentation"] = records[0]["segmentation"]
    truth["annotations"][1]["segmentation"] = []
    truth["annotations"][2]["segmentation"] = []
    result = evaluate_coco(truth, records, kinds=["segm"], backend=backend)
    assert result["segm"]["APs"] == pytest.approx(1)
