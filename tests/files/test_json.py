"""The quick ways of reading say and give what the slow ones do."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.errors import UserError
from resdet.evaluation.coco_detections import prepare_detections
from resdet.evaluation.coco_input import prepare_ground_truth
from resdet.files.json import collector_paused, read_json
from resdet.files.rle import are_compressed, to_rle

_BYTES: bytes = to_rle({"size": [4, 4], "counts": [5, 2, 9]}, (4, 4), "a mask")["counts"]
CODE: dict[str, Any] = {"size": [4, 4], "counts": _BYTES.decode()}


@pytest.mark.parametrize(
    "text",
    [
        "[1, -0, 2.5e-7, 0.1, 473.0729064941406, 1e400, 123456789012345678901234567890]",
        '{"a": 1, "a": 2, "": [], "é": "\\u00e9\\ud83d\\ude00\\n"}',
        "[NaN, Infinity, -Infinity, true, false, null]",
        ' {"half": "\\ud800"} ',
        "[[[]], {}]\r\n",
    ],
)
def test_the_quick_parser_reads_what_json_reads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    found, expected = read_json(path, "words"), json.loads(text)
    assert repr(found) == repr(expected)


def test_floats_are_read_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [*rng.uniform(0, 640, 3000).tolist(), *(10.0 ** rng.uniform(-300, 300, 1000)).tolist()]
    values += np.float32(values[:1000]).astype(float).tolist()
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    assert read_json(path, "words") == values


@pytest.mark.parametrize("content", [b"\xff\xfe", b'["\xe9"]'])
def test_text_that_is_not_utf8(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: cannot be read as a JSON text file"):
        read_json(path, "words")


def test_the_collector_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), collector_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled(), "who had it off finds it off"
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "other",
    [
        {"size": [4, 5], "counts": CODE["counts"]},
        {"size": [4.0, 4], "counts": CODE["counts"]},
        {"size": [4, 4], "counts": [5, 2, 9]},
        {"size": [4, 4], "counts": CODE["counts"].encode()},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": "o"},
        {"size": [4, 4], "counts": "!1"},
        {"size": [4, 4], "counts": "é1"},
        {"size": [4, 4]},
        {"counts": CODE["counts"]},
        [[0, 0, 1, 0, 1, 1]],
        None,
    ],
)
def test_masks_that_need_a_closer_look(other: Any) -> None:
    assert are_compressed([CODE, CODE], [[4, 4], [4, 4]])
    assert not are_compressed([CODE, other], [[4, 4], [4, 4]])


def test_a_mask_of_an_image_without_a_size_needs_a_closer_look() -> None:
    assert not are_compressed([CODE], [None])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e7, -1e7, 10**400, "5", None])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_bad_coordinate_is_found_wherever_it_is(bad: Any, place: int) -> None:
    polygon: list[Any] = [1, 2.5, 3, 1, 4, 4, 1, 4]
    to_rle([polygon], (9, 9), "a mask")
    polygon[place] = bad
    with pytest.raises(UserError, match="a coordinate that is not a number within"):
        to_rle([polygon], (9, 9), "a mask")


@pytest.mark.parametrize("form", [tuple, lambda box: [np.float32(v) for v in box]])
def test_boxes_in_other_forms_than_lists(form: Any) -> None:
    truth = prepare_ground_truth(
        {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1}]}
    )
    boxes = [[1, 2.5, 3, 4], [0.25, 0, 7, 8]]
    records = [
        {"image_id": 1, "category_id": 1, "score": 1, "bbox": box} for box in (*boxes, *boxes)
    ]
    expected = prepare_detections(records, truth, kinds=["bbox"]).boxes
    for record in records[2:]:
        record["bbox"] = form(record["bbox"])
    found = prepare_detections(records, truth, kinds=["bbox"]).boxes
    assert np.array_equal(found, expected)
    assert found.dtype == np.float64
