"""Each trap of COCO evaluation: the right number, or clear words on what is wrong."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from resdet.errors import UserError
from resdet.evaluation.coco import evaluate_coco, evaluate_coco_full
from resdet.evaluation.coco_backends import BACKENDS

both = pytest.mark.parametrize("backend", BACKENDS)


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def make_truth() -> dict[str, Any]:
    """Two images, classes 3 and 7, one object of each size, all squares with polygons."""
    objects = [(10, 3, 10, 20), (10, 7, 60, 50), (20, 3, 80, 100)]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 240, "width": 320} for i in (10, 20)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": index,
                "image_id": image,
                "category_id": category,
                "bbox": [at, at, side, side],
                "segmentation": square(at, at, side),
                "area": side * side,
                "iscrowd": 0,
            }
            for index, (image, category, at, side) in enumerate(objects, start=1)
        ],
    }


def perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Detections equal to the objects, masks as compressed RLE as JSON holds it."""
    records = []
    for annotation in truth["annotations"]:
        x, y, side, _ = annotation["bbox"]
        rle = mask_utils.merge(mask_utils.frPyObjects(square(x, y, side), 240, 320))
        rle["counts"] = rle["counts"].decode()
        record = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        records.append({**record, "score": 0.9, "segmentation": rle})
    return records


def to_counts(rle: dict[str, Any]) -> list[int]:
    """The runs of a compressed code, as a list."""
    pixels = mask_utils.decode(rle).ravel(order="F")
    ends = np.flatnonzero(np.diff(pixels, prepend=0, append=2))
    return np.diff(ends, prepend=0).tolist()


@pytest.fixture
def truth() -> dict[str, Any]:
    return make_truth()


@pytest.fixture
def records(truth: dict[str, Any]) -> list[dict[str, Any]]:
    return perfect(truth)


def words(notes: list[str], *parts: str) -> bool:
    """Whether one note has all the parts."""
    return any(all(part in note for part in parts) for note in notes)


@both
def test_perfect_detections_score_one(truth: Any, records: Any, backend: str) -> None:
    result = evaluate_coco_full(truth, records, backend=backend)
    assert list(result.summary) == ["bbox", "segm"]
    for numbers in result.summary.values():
        assert all(value == pytest.approx(1) for key, value in numbers.items() if key != "AR1")
    assert result.notes == []


@both
def test_annotation_id_zero_is_renumbered(truth: Any, records: Any, backend: str) -> None:
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["bbox"]["AP"] == result.summary["segm"]["AP"] == pytest.approx(1)
    assert result.notes == []
    assert truth["annotations"][0]["id"] == 0, "the caller's dict stays as it was"


@both
@pytest.mark.parametrize("ids", [[5, 5, 5], [None, None, None]])
def test_repeated_and_missing_annotation_ids(
    truth: Any, records: Any, ids: list[int | None], backend: str
) -> None:
    for annotation, number in zip(truth["annotations"], ids, strict=True):
        if number is None:
            del annotation["id"]
        else:
            annotation["id"] = number
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["segm"]["AP"] == pytest.approx(1)
    assert len(result.notes) == 1


@both
def test_empty_result_is_zero_with_a_note(truth: Any, backend: str) -> None:
    result = evaluate_coco_full(truth, [], backend=backend)
    assert list(result.summary) == ["bbox", "segm"]
    assert set(result.summary["bbox"].values()) == set(result.summary["segm"].values()) == {0.0}
    assert words(result.notes, "no detections at all")


@both
def test_size_without_objects_is_minus_one_and_says_why(
    truth: Any, records: Any, backend: str
) -> None:
    del truth["annotations"][0]
    result = evaluate_coco_full(truth, records[1:], backend=backend)
    assert result.summary["bbox"]["APs"] == result.summary["bbox"]["ARs"] == -1
    assert result.summary["bbox"]["AP"] == pytest.approx(1)
    (remark,) = result.remarks
    assert words([remark], "bbox and segm: APs and ARs are -1", "no object of an area up to 32²")
    assert not words(result.notes, "APs")


@both
def test_no_objects_at_all_says_so(truth: Any, records: Any, backend: str) -> None:
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 1
    crowds = evaluate_coco_full(truth, records, kinds=["bbox"], backend=backend)
    truth["annotations"] = []
    nothing = evaluate_coco_full(truth, records, kinds=["bbox", "segm"], backend=backend)
    assert set(crowds.summary["bbox"].values()) == set(nothing.summary["segm"].values()) == {-1.0}
    assert words(crowds.notes, "every number is -1", "only 3 crowd regions")
    assert words(nothing.notes, "segm: every number is -1", "no annotations")


@both
def test_area_and_iscrowd_are_filled(truth: Any, records: Any, backend: str) -> None:
    for annotation in truth["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["bbox"]["APs"] == result.summary["segm"]["APl"] == pytest.approx(1)
    assert words(result.notes, "annotation 1 and 2 more", "area", "width × height")


@both
def test_unknown_categories_are_left_out_and_named(truth: Any, records: Any, backend: str) -> None:
    extra = [{**records[0], "category_id": number} for number in (0, 90, 90)]
    result = evaluate_coco_full(truth, records + extra, backend=backend)
    assert result.summary["bbox"]["AP"] == pytest.approx(1)
    assert words(result.notes, "category ids 0, 90", "3 of 6", "labels counted from 0")


def test_only_unknown_categories_is_an_error(truth: Any, records: Any) -> None:
    for label, record in enumerate(records):
        record["category_id"] = label % 2
    with pytest.raises(UserError, match=r"0, 1 are not in ground truth \(it has 3, 7\).*labels"):
        evaluate_coco(truth, records)


def test_unknown_images_are_an_error_naming_them(truth: Any, records: Any) -> None:
    records[1]["image_id"] = 999
    with pytest.raises(UserError, match=r"1 image ids are not in ground truth: 999 \(it has 10"):
        evaluate_coco(truth, records)


@both
@pytest.mark.parametrize("side", ["truth", "records", "both"])
def test_string_image_ids(truth: Any, records: Any, side: str, backend: str) -> None:
    if side in ("truth", "both"):
        for item in truth["images"]:
            item["id"] = str(item["id"])
        for item in truth["annotations"]:
            item["image_id"] = str(item["image_id"])
    if side in ("records", "both"):
        for item in records:
            item["image_id"] = str(item["image_id"])
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["segm"]["AP"] == pytest.approx(1)
    assert words(result.notes, "matched as numbers") == (side != "both")


def test_masks_asked_for_where_one_side_has_none(truth: Any, records: Any) -> None:
    boxes = copy.deepcopy(records)
    del boxes[1]["segmentation"]
    with pytest.raises(UserError, match=r"1 of 3 detections have no segmentation.*kinds=bbox"):
        evaluate_coco(truth, boxes, kinds=["segm"])
    assert list(evaluate_coco(truth, boxes)) == ["bbox"]
    for annotation in truth["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(UserError, match=r"no annotation has a segmentation.*kinds=bbox"):
        evaluate_coco(truth, records, kinds=["bbox", "segm"])
    assert list(evaluate_coco(truth, records)) == ["bbox"]


@both
def test_object_without_a_mask_counts_as_missed(truth: Any, records: Any, backend: str) -> None:
    truth["annotations"][0]["segmentation"] = []
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["bbox"]["AP"] == pytest.approx(1)
    assert result.summary["segm"]["APs"] == 0
    assert words(result.notes, "segm: 1 of 3 objects have no mask")


@both
def test_every_form_of_mask_gives_the_same(truth: Any, records: Any, backend: str) -> None:
    expected = evaluate_coco(truth, records, backend=backend)
    plain = np.asfortranarray(np.zeros((240, 320), dtype=np.uint8))
    plain[10:30, 10:30] = 1
    flat = plain.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    truth["annotations"][0]["segmentation"] = {"size": [240, 320], "counts": counts}
    records[0]["segmentation"] = square(10, 10, 20)
    records[1]["segmentation"]["counts"] = records[1]["segmentation"]["counts"].encode()
    assert evaluate_coco(truth, records, backend=backend) == expected


@both
def test_boxes_are_taken_from_masks_where_there_are_none(
    truth: Any, records: Any, backend: str
) -> None:
    for record in records:
        del record["bbox"]
    del truth["annotations"][0]["bbox"]
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["bbox"]["AP"] == pytest.approx(1)
    assert words(result.notes, "3 detections without bbox")
    assert words(result.notes, "annotation 1 has no bbox", "segmentation is taken")


def test_mask_of_another_size_than_its_image(truth: Any, records: Any) -> None:
    truth["images"][0]["height"] = 480
    with pytest.raises(UserError, match=r"detection 0: its mask is 240×320.*480×320"):
        evaluate_coco(truth, records)


def test_polygons_need_the_size_of_their_image(truth: Any, records: Any) -> None:
    del truth["images"][0]["height"]
    with pytest.raises(UserError, match="need the height and width of their image"):
        evaluate_coco(truth, records)
    assert evaluate_coco(truth, records, kinds=["bbox"])["bbox"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, r"1 detections have a score that is not finite.*image 10"),
        ({"score": "high"}, r"detection 0 has score .high.; give a number"),
        ({"bbox": [1, 2, 3]}, r"detection 0 on image 10: bbox \[1, 2, 3\] must be \[x, y, width"),
        ({"bbox": [1, 2, float("inf"), 3]}, "must be"),
        ({"bbox": [5, 5, -1, 3]}, "no negative size"),
        ({"segmentation": {"counts": "abc"}}, 'detection 0: an RLE needs "size"'),
        ({"segmentation": {"size": [240, 320], "counts": [7]}}, "do not add up"),
        ({"segmentation": "abc"}, "must be polygons"),
        ({"segmentation": {"size": [240, 320], "counts": [-5, 76805]}}, "not whole numbers from 0"),
        # codes that pycocotools reads past the end of: cut within a number, and no code at all
        (
            {"segmentation": {"size": [240, 320], "counts": "o" * 40}},
            "counts of its RLE are broken",
        ),
        ({"segmentation": {"size": [240, 320], "counts": "é!"}}, "counts of its RLE are broken"),
        ({"segmentation": {"size": [float("inf"), 320], "counts": "1"}}, 'an RLE needs "size"'),
        ({"segmentation": {"size": [240, 320], "counts": ";" * 99999}}, "do not add up to its"),
        # 76,799 pixels of 76,800, for the last of which the libraries wait for ever
        ({"segmentation": {"size": [240, 320], "counts": "ooZ2"}}, "do not add up to its size"),
        # outlines that pycocotools fills all memory for
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "coordinate that is not a number"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e12]]}, "coordinate that is not a number within"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "coordinate that is not a number"),
        ({"image_id": [10]}, r"detections\[0\] has image_id \[10\], not a whole number or text"),
        ({"category_id": {}}, r"detections\[0\] has category_id {}, not a whole number or text"),
        ({"score": 10**400}, r"detection 0 has score 1000.*; give a number"),
        ({"bbox": True}, "bbox True must be"),
        ({"bbox": "\ud800"}, "bbox .* must be"),
        ({"bbox": [10**400] * 4}, "must be"),
    ],
)
def test_broken_detections_are_named(
    truth: Any, records: Any, change: dict[str, Any], message: str
) -> None:
    records[0].update(change)
    with pytest.raises(UserError, match=message):
        evaluate_coco(truth, records)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score"])
def test_detections_without_a_needed_key(truth: Any, records: Any, key: str) -> None:
    del records[2][key]
    with pytest.raises(UserError, match=f"1 detections have no {key}: 2"):
        evaluate_coco(truth, records)


@both
def test_annotations_of_unlisted_images_and_categories(
    truth: Any, records: Any, backend: str
) -> None:
    truth["annotations"] += [
        {**truth["annotations"][0], "id": 8, "image_id": 77},
        {**truth["annotations"][0], "id": 9, "category_id": 66},
    ]
    result = evaluate_coco_full(truth, records, backend=backend)
    assert result.summary["bbox"]["AP"] == pytest.approx(1)
    assert words(result.notes, "annotation 8 belongs to image 77", "left out")
    assert words(result.notes, "annotation 9 has category_id 66", "left out")
    with pytest.raises(UserError, match="annotation 9 has category_id 66"):
        evaluate_coco_full(truth, records, backend=backend, strict=True)


def test_ap_zero_with_detections_gives_a_hint(truth: Any, records: Any) -> None:
    for record in records:
        record["bbox"] = [300, 220, 5, 5]
    result = evaluate_coco_full(truth, records, kinds=["bbox"])
    assert result.summary["bbox"]["AP"] == 0
    assert words(result.notes, "AP is 0 with 3 detections", "category ids")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "lists no images"),
        ({"categories": None}, "categories is None, not a list"),
        ({"categories": [{"id": 3}, {"id": 3}]}, "category 3: is given more than once"),
        ({"categories": [{"name": "cat"}]}, r"categories\[0\] needs an id \(whole number\)"),
        ({"images": [5]}, r"images\[0\] is 5, not an object"),
        ({"annotations": [5]}, r"annotations\[0\] is 5, not an object"),
        ({"categories": [5]}, r"categories\[0\] is 5, not an object"),
    ],
)
def test_broken_ground_truth(truth: Any, change: dict[str, Any], message: str) -> None:
    truth.update(change)
    with pytest.raises(UserError, match=message):
        evaluate_coco(truth, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": [3]}, "annotation 1 has category_id [3], which is not among"),
        ({"iscrowd": "no"}, "iscrowd 'no', not 0 or 1"),
        ({"bbox": [1, 2, -3, 4]}, "bbox [1, 2, -3, 4]"),
    ],
)
def test_broken_annotations_are_left_out(
    truth: Any, records: Any, change: dict[str, Any], message: str
) -> None:
    truth["annotations"][0].update(change)
    result = evaluate_coco_full(truth, records[1:])
    assert result.summary["bbox"]["AP"] == pytest.approx(1)
    assert words(result.notes, message, "left out")
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate_coco_full(truth, records[1:], strict=True)


def test_odd_values_that_are_read(truth: Any, records: Any) -> None:
    expected = evaluate_coco(truth, records)
    truth["categories"][0] |= {"name": "\ud800", "frequency": 1}
    truth["categories"][1] |= {"name": None, "frequency": 1}
    truth["images"][0]["neg_category_ids"] = [[3], "3"]
    truth["images"][1]["neg_category_ids"] = 5
    truth["annotations"][1]["bbox"] = []
    counts = {"size": ["240", "320"], "counts": to_counts(records[0]["segmentation"])}
    truth["annotations"][0]["segmentation"] = records[0]["segmentation"] = counts
    result = evaluate_coco_full(truth, records)
    assert result.summary == expected
    assert [row["name"] for row in result.per_class[:2]] == ["?", "7"]
    assert words(result.notes, "neg_category_ids 5, not a list")
    assert words(result.notes, "annotation 2 has no bbox", "segmentation is taken")


def test_files_without_annotations_give_results_without_metrics(
    truth: Any, records: Any, tmp_path: Path
) -> None:
    del truth["annotations"]
    for record in records:
        record["score"] = 0.123456789
    result = evaluate_coco_full(truth, records)
    assert result.summary == {} and result.best is None
    assert words(result.notes, "no annotations", "no metrics")
    written = result.write(tmp_path)
    assert [path.name for path in written] == ["eval.json", "detections.json"]
    assert json.loads(written[1].read_text()) == [
        {key: value for key, value in record.items() if key != "segmentation"} for record in records
    ]


@pytest.mark.parametrize("caps", [(1, 10), (10, 1, 100), (1, 1, 100), (0, 10, 100)])
def test_caps_must_be_three_and_ascending(truth: Any, caps: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="three ascending numbers"):
        evaluate_coco(truth, [], max_dets=caps)


def test_unknown_kind_and_backend(truth: Any) -> None:
    with pytest.raises(UserError, match=r"keypoints.*bbox and segm"):
        evaluate_coco(truth, [], kinds=["keypoints"])
    with pytest.raises(UserError, match="fast, pycocotools"):
        evaluate_coco(truth, [], backend="quick")


def test_files_that_are_wrong_are_named_with_their_line(
    truth: Any, records: Any, tmp_path: Path
) -> None:
    good, results = tmp_path / "gt.json", tmp_path / "dt.json"
    good.write_text(json.dumps(truth))
    results.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        evaluate_coco(tmp_path / "none.json", results)
    with pytest.raises(UserError, match=r"dt\.json: this is a list.*swapped"):
        evaluate_coco(results, good)
    with pytest.raises(UserError, match=r"gt\.json: detections are a list.*swapped"):
        evaluate_coco(good, good)
    # a folder is its one file of annotations, if there is one
    assert evaluate_coco(tmp_path, results) == evaluate_coco(good, results)
    (tmp_path / "more.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"give a file of this folder: .*gt\.json, more\.json"):
        evaluate_coco(tmp_path, results)
    results.write_text("[\n{},\n{,\n")
    with pytest.raises(UserError, match=r"dt\.json: line 3, column 2: not valid JSON"):
        evaluate_coco(good, results)


@pytest.mark.parametrize("form", [tuple, lambda box: [np.float32(v) for v in box], np.array])
def test_boxes_in_other_forms_than_lists(truth: Any, records: Any, form: Any) -> None:
    expected = evaluate_coco(truth, records)
    for record in records[1:]:
        record["bbox"] = form(record["bbox"])
    assert evaluate_coco(truth, records) == expected


def test_more_objects_than_detections_are_counted(truth: dict[str, Any]) -> None:
    first = truth["annotations"][0]
    truth["annotations"] += [{**first, "id": 10 + i, "bbox": [i, i, 20, 20]} for i in range(6)]
    result = evaluate_coco_full(truth, perfect(truth), kinds=["bbox"], max_dets=(1, 2, 5))
    (note,) = [note for note in result.notes if "can be matched" in note]
    assert "up to 7 objects of a class in one image, of which no more than 5" in note
    result = evaluate_coco_full(truth, perfect(truth), kinds=["bbox"], max_dets=(1, 2, 7))
    assert not [note for note in result.notes if "can be matched" in note]
