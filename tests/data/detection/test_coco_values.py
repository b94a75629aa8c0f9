"""Values of COCO files that users bring: what is certain is read, the rest is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.config.detection import DataConfig, DetectionConfig, SplitConfig, TrainConfig
from resdet.data.detection.readers import coco_file, read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.factory import build_train_data
from resdet.files.findings import DataError, Finding, summarize_findings
from tests.data.make import SQUARE, annotation, dataset, write_coco

HUGE = 10**400


def content(
    annotations: list[Any], images: list[Any] | None = None, categories: list[Any] | None = None
) -> dict[str, Any]:
    sizes = {"height": 40, "width": 60}
    return {
        "images": images or [{"id": i, "file_name": f"{i}.png", **sizes} for i in (1, 2)],
        "categories": categories or [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": annotations,
    }


def read(source: Any, **options: Any) -> tuple[AnnotationTable, str]:
    """The table, and the findings as text."""
    findings: list[Finding] = []
    table = read_annotations(source, findings, **options)
    for row in range(len(table.labels)):
        assert np.isfinite(table.boxes_xywh[row]).all() and np.isfinite(table.areas[row])
    if table.outlines is not None and table.sizes.all():
        assert len(table.rles) == len(table.labels)
    return table, "\n".join(summarize_findings(findings))


def read_both(tmp_path: Path, data: dict[str, Any]) -> tuple[AnnotationTable, str]:
    """Of the content in memory, and the same of a file."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    table, text = read(data)
    other, other_text = read(path)
    assert other_text.replace(str(path), "ground truth") == text
    assert table.labels.tolist() == other.labels.tolist()
    assert table.image_ids == other.image_ids
    return table, text


@pytest.mark.parametrize("one", ["1", 1.0, "01", " 1 "])
def test_ids_as_text_and_floats_are_matched_and_counted(tmp_path: Path, one: Any) -> None:
    entries = [annotation(id=i, image_id=one) for i in (1, 2)]
    table, text = read_both(tmp_path, content(entries))
    assert table.image_of.tolist() == [0, 0] and table.image_ids == [1, 2]
    assert "annotation 1 and 1 more whose 'image_id' is an image's id as a number only" in text
    entries = [annotation(category_id="3"), annotation(id=2, category_id=7.0)]
    table, text = read_both(tmp_path, content(entries))
    assert table.labels.tolist() == [0, 1] and "and 1 more whose 'category_id'" in text
    images = [{"id": one, "file_name": "1.png", "height": 40, "width": 60}]
    categories = [{"id": "10", "name": "cat"}, {"id": 3.0, "name": "dog"}]
    table, text = read_both(tmp_path, content([annotation()], images, categories))
    assert table.category_ids == [3, 10] and table.class_names == ["dog", "cat"]
    assert table.image_ids == [1 if one == 1 else one] and table.image_of.tolist() == [0]
    assert "categories 3.0, '10' are ids as text or with a decimal point" in text


@pytest.mark.parametrize(
    "key",
    [None, True, 1.5, -1, "x", "", [1], {"a": 1}, math.nan, 10**4000, "\ud800", "1.0"],
    ids=[*"abcdefghijkl"],
)
def test_ids_that_match_nothing_are_named(tmp_path: Path, key: Any) -> None:
    entries = [{**annotation(), "image_id": key}, annotation(id=2)]
    table, text = read_both(tmp_path, content(entries))
    assert table.annotation_ids.tolist() == [2]
    assert "1× annotation 1 belongs to image " in text and len(text) < 300
    entries = [{**annotation(), "category_id": key}, annotation(id=2)]
    table, text = read_both(tmp_path, content(entries))
    assert table.annotation_ids.tolist() == [2] and "1× annotation 1 has category_id " in text
    images = [{"id": key, "file_name": "1.png"}, {"id": 1, "file_name": "2.png"}]
    table, text = read_both(tmp_path, content([annotation()], images))
    if key in (-1, "x", "1.0", "\ud800"):  # ids as good as others
        assert table.image_ids == [key, 1]
    else:
        assert table.image_ids == [1] and "has no id (whole number or text)" in text
    if key != -1:
        with pytest.raises(DataError, match=r"categories\[1\] needs an id \(whole number\)"):
            read_both(tmp_path, content([], None, [{"id": 3}, {"id": key}]))


def test_an_id_of_several_images(tmp_path: Path) -> None:
    images = [
        {"id": key, "file_name": name, "height": 40, "width": 60}
        for key, name in [(1, "1.png"), (2, "2.png"), (1, "3.png"), (2, "2.png"), (1.0, "4.png")]
    ]
    images[1]["neg_category_ids"] = ["3"]
    entries = [annotation(id=i, image_id=i) for i in (1, 2)]
    table, text = read_both(tmp_path, content(entries, images))
    assert table.image_ids == [2] and list(table.file_names) == ["2.png"]
    assert table.annotation_ids.tolist() == [2] and table.image_of.tolist() == [0]
    assert table.image_extras["neg_category_ids"][0].tolist() == [0]
    assert "image 1 is the id of 3 images ('1.png', '3.png', '4.png'); all of them are left" in text
    assert "image 2 is listed again; it is read once" in text


def test_text_and_number_may_be_ids_of_two_images(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png"}, {"id": "1", "file_name": "2.png"}]
    keys = [1, "1", 1.0, "01"]
    entries = [annotation(id=i, image_id=key) for i, key in enumerate(keys, start=1)]
    table, text = read_both(tmp_path, content(entries, images))
    assert table.image_ids == [1, "1"] and table.image_of.tolist() == [0, 1]
    assert "2× annotation 3 belongs to image 1.0" in text


@pytest.mark.parametrize(
    ("area", "expected", "said"),
    [
        (-5, 400, "negative"),
        (math.nan, 400, "negative"),
        (math.inf, 400, "negative"),
        (2401, 400, "above its image's"),
        (HUGE, 400, "above its image's"),
        (1e300, 400, "above its image's"),
        (2400, 2400, ""),
        (0, 0, ""),
        (0.5, 0.5, ""),
        (None, 200, "without a usable 'area'"),
        ("300", 200, "without a usable 'area'"),
        (True, 200, "without a usable 'area'"),
    ],
)
def test_areas_that_no_object_has(tmp_path: Path, area: Any, expected: float, said: str) -> None:
    triangle = [[10, 10, 30, 10, 30, 30]]
    entries = [annotation(id=i, area=area, segmentation=triangle) for i in (1, 2)]
    table, text = read_both(tmp_path, content(entries))
    if expected == 200:  # of the outline, in whole pixels
        assert table.areas.tolist() == [190, 190] or abs(table.areas - 200).max() < 15
    else:
        assert table.areas.tolist() == [expected] * 2
    assert said in text and bool(said) == bool(text) and ("and 1 more" in text) == bool(said)


def test_areas_of_images_without_a_size() -> None:
    images = [{"id": 1, "file_name": "1.png"}]
    table, text = read(content([annotation(area=1e6)], images), outlines=False)
    assert table.areas.tolist() == [1e6] and text == ""


@pytest.mark.parametrize(
    "box",
    [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, None],
        [1, 2, 3, "4"],
        [1, 2, True, 4],
        [1, 2, [3], 4],
        [1, 2, math.nan, 4],
        [1, 2, math.inf, 4],
        [1, 2, HUGE, 4],
        [1, 2, 1e39, 4],
        [-1e39, 0, 1e9, 4],
        [1, 2, -3, 4],
        {"x": 1, "y": 2, "w": 3, "h": 4},
        "1,2,3,4",
        7,
        True,
    ],
)
def test_boxes_that_are_none(tmp_path: Path, box: Any) -> None:
    table, text = read_both(tmp_path, content([annotation(bbox=box), annotation(id=2)]))
    assert table.annotation_ids.tolist() == [2]
    assert "1× annotation 1 has bbox " in text and len(text) < 300


def test_boxes_are_those_of_the_outline_where_there_are_none(tmp_path: Path) -> None:
    for box in (None, []):
        entries = [{**annotation(), "bbox": box}, {**annotation(id=2), "note": HUGE}]
        for outlines in (True, False):
            path = tmp_path / "a.json"
            path.write_text(json.dumps(content(entries)))
            table, text = read(path, outlines=outlines)
            assert table.boxes_xywh.tolist() == [[10, 10, 20, 20]] * 2
            assert "annotation 1 has no bbox; the box of its segmentation is taken" in text


CODE = {"size": [40, 60], "counts": [10, 20, 2370]}


@pytest.mark.parametrize(
    "shape",
    [
        {"size": [0, 0], "counts": ""},
        {"size": [0, 0], "counts": "0"},
        {"size": [0, 0], "counts": [0]},
        {"size": [0, 0], "counts": []},
        {"size": [0, 5], "counts": "0"},
        {"size": [2**32, 2**32], "counts": "0"},
        {"size": [2**16, 2**16], "counts": [2**32]},
        {"size": [HUGE, 1], "counts": [HUGE]},
        {"size": [-40, -60], "counts": [2400]},
        {"size": [40.5, 60], "counts": [2400]},
        {"size": [True, 60], "counts": [60]},
        {"size": "46", "counts": [24]},
        {"size": {"4": 1, "6": 2}, "counts": [24]},
        {"size": [40], "counts": [40]},
        {"size": None, "counts": [40]},
        {"size": [40, 60]},
        {**CODE, "counts": [2**32, 2400 - 2**32]},
        {**CODE, "counts": [2400.5]},
        {**CODE, "counts": [[2400]]},
        {**CODE, "counts": [True, 2399]},
        {**CODE, "counts": {"a": 1}},
        {**CODE, "counts": "\ud800"},
        {**CODE, "counts": "é"},
        {**CODE, "counts": "o" * 40},
        {**CODE, "counts": 2400},
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[[1, 2], [3, 4]]],
        [[[1, 2], [3, 4], [5, 6, 7]]],
        [[[[1, 2, 3, 4, 5, 6]]]],
        [[{"x": 1, "y": 2}] * 3],
        [["1", "2", "3", "4", "5", "6"]],
        [[1, 2, 3, 4, 5, 1e39]],
        [[1, 2, 3, 4, 5, HUGE]],
        [[1, 2, 3, 4, 5, math.nan]],
        [None],
        "M 0 0 L 5 5",
        5,
        True,
    ],
)
def test_outlines_that_are_none(tmp_path: Path, shape: Any) -> None:
    for images in (None, [{"id": 1, "file_name": "1.png"}]):
        sound = annotation(id=2, segmentation=CODE)
        entries = [annotation(segmentation=shape, area=None), sound]
        table, text = read_both(tmp_path, content(entries, images))
        assert table.outlines is not None
        if images is None:
            assert table.outlines.kinds.tolist() == [0, 2] and len(table.rles) == 2
        assert table.sizes[0].tolist() == [40, 60]
        assert "1× annotation 1 has " in text and "training takes its box as its mask" in text
        entries[0]["bbox"] = None
        table, text = read_both(tmp_path, content(entries, images))
        assert table.annotation_ids.tolist() == [2]


def test_codes_in_every_form() -> None:
    packed = read(content([annotation(segmentation=CODE)]))[0].rles[0]["counts"]
    for counts in (
        CODE["counts"],
        tuple(CODE["counts"]),
        np.array(CODE["counts"]),
        [float(count) for count in CODE["counts"]],
        packed,
        packed.decode(),
        bytearray(packed),
        memoryview(packed),
    ):
        for size in ([40, 60], (40, 60), np.array([40, 60]), ["40", "60"], [40.0, 60.0]):
            shape = {"size": size, "counts": counts}
            table, text = read(content([annotation(segmentation=shape)]))
            assert table.rles[0] == {"size": [40, 60], "counts": packed} and text == ""


def test_values_of_numpy_in_memory() -> None:
    entry = annotation(bbox=np.array([1.5, 2, 3, 4]), area=np.float64(12))
    entry |= {"id": np.int64(5), "image_id": np.int64(2), "category_id": np.int32(7)}
    entry |= {"iscrowd": np.int64(1), "segmentation": np.array([SQUARE])}
    table, _ = read(content([entry, {**entry, "iscrowd": np.bool_(False)}]))
    assert table.boxes_xywh.tolist() == [[1.5, 2, 3, 4]] * 2
    assert table.crowd.tolist() == [True, False] and table.image_of.tolist() == [1, 1]
    assert table.annotation_ids.tolist() == [5, 6] and table.labels.tolist() == [1, 1]


def test_flags() -> None:
    entries = [
        annotation(id=i, **{key: value})
        for i, (key, value) in enumerate(
            [
                *(("iscrowd", value) for value in ("1", "0", True, False, 1.0, None)),
                *(("ignore", value) for value in ("0", "1", 1, True, "no", [])),
            ],
            start=1,
        )
    ]
    table, text = read(content(entries))
    assert table.crowd.tolist() == [True, False, True, False, True, *[False] * 7]
    assert table.ignored.tolist() == [*[False] * 7, True, True, True, False, False]
    assert "2× annotation 11 has ignore 'no', not 0 or 1, annotation 12 has ignore []" in text


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        ("40", 60.0, [40, 60]),
        (40.9, 60, [40, 60]),
        (0, 0, [0, 0]),
        (-40, 60, [0, 0]),
        (True, 60, [0, 0]),
        (math.nan, 60, [0, 0]),
        (math.inf, 60, [0, 0]),
        (HUGE, 60, [0, 0]),
        (2**31, 1, [0, 0]),
        (2**20, 2**20, [0, 0]),
        ("x", [60], [0, 0]),
    ],
)
def test_sizes(tmp_path: Path, height: Any, width: Any, expected: list[int]) -> None:
    images = [{"id": 1, "file_name": "1.png", "height": height, "width": width}]
    data = content([annotation(segmentation=None)], images)
    table, text = read_both(tmp_path, data)
    assert table.sizes.tolist() == [expected]
    assert ("its size is taken from the image" in text) == (expected == [0, 0] and height != 0)


def test_names_of_classes() -> None:
    names = ["cat", "cat", "cat (2)", None, "", ["a"], 5, True, "\ud800", "x" * 9999]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    table, text = read(content([], None, categories))
    expected = ["cat", "cat (2)", "cat (2) (3)", "4", "5", "6", "5 (7)", "8", "?", "x" * 9999]
    assert table.class_names == expected
    assert "2× category 6 has name ['a'], not text, category 8 has name True, not text" in text


def test_many_classes_and_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both took minutes, or gigabytes, when each was compared with all before it."""
    count = 30_000
    categories = [{"id": i, "name": f"class {i}"} for i in range(count)]
    parts = [[i % 50, 1, i % 50 + 2, 1, i % 50, 3] for i in range(3_000)]
    table, _ = read(content([annotation(segmentation=parts)], None, categories))
    assert len(table.class_names) == count and len(table.rles) == 1
    with pytest.raises(DataError) as error:
        read(content([], None, categories), classes=["clas 1"])
    assert len(str(error.value)) < 300
    some = read(content([], None, categories), classes=[f"class {i}" for i in range(count)][::-1])
    assert some[0].category_ids[0] == count - 1


@pytest.mark.parametrize("name", [None, 5, "", "\0.png", "\ud800.png", ["1.png"]])
def test_images_without_a_file(tmp_path: Path, name: Any) -> None:
    images = [{"id": 2, "file_name": name, "height": 40, "width": 60}]
    images.append({"id": 1, "file_name": "1.png", "height": 40, "width": 60})
    write_coco(tmp_path, [annotation()])
    (tmp_path / "a.json").write_text(json.dumps(content([annotation()], images)))
    data = dataset(str(tmp_path / "images"), str(tmp_path / "a.json"))
    assert data.image_ids == [1] and len(data[(0, 0)].target.boxes) == 1
    assert "image 2 has no file_name that a file can have" in str(data.findings[0])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"iscrowd": 1, "segmentation": CODE}, "2 are crowd regions (iscrowd 1); set iscrowd to 0"),
        ({"difficult": 1}, "2 are marked as difficult; set data.keep_difficult=true"),
        ({"image_id": 9}, "2× annotation 1 belongs to image 9, which is not in the file"),
        ({"category_id": 9}, "2× annotation 1 has category_id 9, which is not among"),
        ({"bbox": [0, 0, 0, 0]}, "2× annotation 1 has bbox [0, 0, 0, 0] without width"),
        (None, "the annotations list none; annotate the images"),
    ],
)
@pytest.mark.parametrize("keep_empty", [True, False])
def test_no_run_without_objects(
    tmp_path: Path, change: dict[str, Any] | None, cause: str, keep_empty: bool
) -> None:
    entries = [] if change is None else [annotation(**change), annotation(id=2, **change)]
    images, file = write_coco(tmp_path, entries)
    config = DetectionConfig(
        data=DataConfig(
            train=SplitConfig(images=images, annotations=file), val=None, keep_empty=keep_empty
        ),
        train=TrainConfig(max_steps=1),
    )
    with pytest.raises(DataError, match="no image has an object that can be used") as error:
        build_train_data(config)
    assert cause in str(error.value)


def test_a_set_of_which_no_image_is_left_names_the_cause(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(4)]
    source = write_coco(tmp_path, [annotation()], images=images)
    with pytest.raises(DataError, match=r"none of its images can be used\n.*id of 4 images"):
        dataset(*source)
    source = write_coco(tmp_path, [], images=[])
    with pytest.raises(DataError, match="it lists no images; give another file"):
        dataset(*source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\x1f\x8b\x08", "is packed by gzip; unpack it first"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"<!doctype html>", "is HTML or XML"),
        (b'{"images": []}\n{"images": []}\n', "line 2, column 1: not valid JSON.*one object per"),
        (b'{"images": [{"id": 1', "was the file cut short"),
        (b'[{"image_id": 1}]', "this is a list, as detections are"),
        (b'{"things": []}', "not a COCO annotation file: no list 'images'"),
        (b'{"images": {}, "categories": []}', "images is {}, not a list"),
        (b'"images"', "not a COCO annotation file: 'images'"),
        (b"NaN", "not a COCO annotation file: nan"),
        (b'{"images": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"images": [], "categories": [{"id": ' + b"9" * 5000 + b"}]}", "cannot be read"),
    ],
)
def test_files_that_are_no_coco_files(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_other_tools(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    categories = [{"id": 3, "name": "Café"}]
    text = json.dumps(content([annotation()], None, categories), ensure_ascii=False)
    path.write_bytes(text.encode(encoding))
    table, said = read(path)
    assert table.class_names == ["Café"] and len(table.labels) == 1 and said == ""


def test_an_entry_that_no_parser_reads_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_file, "CHUNK", 2)
    text = json.dumps(content([annotation(id=i) for i in range(1, 6)]))
    path = tmp_path / "a.json"
    path.write_text(text.replace('"id": 4,', f'"id": {"9" * 5000},'))
    with pytest.raises(DataError, match=r"annotations\[3\]: cannot be read .*; correct or remove"):
        read(path)
    path.write_text(text.replace('"id": 4,', f'"id": 4, "note": {"[" * 3000 + "]" * 3000},'))
    with pytest.raises(DataError, match="its brackets are nested too deeply"):
        read(path)
    path.write_text(text.replace('"id": 4,', f'"id": 4, "id": {"9" * 400},'))
    table, said = read(path)
    assert len(table.labels) == 5 and "without a usable 'id'" in said
