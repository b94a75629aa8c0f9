"""Annotation files as one table: in chunks, from memory, with extras, in a user's own format."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.config.detection import DataConfig, DetectionConfig, SplitConfig, TrainConfig
from resdet.data.detection.batches import collate
from resdet.data.detection.readers import READERS, coco_file, read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import NotRegistered, UserError
from resdet.factory import build_train_data
from resdet.files.findings import DataError, Finding
from resdet.files.rle import to_rle
from tests.data.make import SQUARE, annotation, dataset, train_transform, write_coco

IMAGES = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2, 3)]


def read(source: Any, **options: Any) -> AnnotationTable:
    findings: list[Finding] = []
    table = read_annotations(source, findings, **options)
    assert findings == []
    return table


@pytest.mark.parametrize(
    "name", ["instances_val2014_100", "lvis_val_100", "val2017_150_gt_boxes_int"]
)
def test_values_are_those_of_the_file(
    shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared_data / "eval_fixtures" / f"{name}.json"
    data = json.loads(path.read_text())
    monkeypatch.setattr(coco_file, "CHUNK", 100)
    table = read(path)
    records = data["annotations"]
    assert table.image_ids == [image["id"] for image in data["images"]]
    assert table.sizes.tolist() == [[i.get("height", 0), i.get("width", 0)] for i in data["images"]]
    assert table.boxes_xywh.tolist() == [record["bbox"] for record in records]
    assert table.areas.tolist() == [record["area"] for record in records]
    assert table.crowd.tolist() == [bool(record.get("iscrowd")) for record in records]
    ids = [table.category_ids[label] for label in table.labels]
    assert ids == [record["category_id"] for record in records]
    for row, code in enumerate(table.rles if table.has_masks else []):
        size = table.sizes[table.image_of[row]].tolist()
        expected = to_rle(records[row]["segmentation"], tuple(size), "")["counts"]
        assert code["counts"] == (expected if isinstance(expected, bytes) else expected.encode())
    monkeypatch.undo()
    in_memory = read(data)
    for key, values in vars(table).items():
        if isinstance(values, np.ndarray):
            assert np.array_equal(values, getattr(in_memory, key)), key


def test_lists_of_lvis_are_labels(shared_data: Path) -> None:
    path = shared_data / "eval_fixtures" / "lvis_val_100.json"
    data, table = json.loads(path.read_text()), read(path)
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        lists = table.image_extras[key]
        for row, image in enumerate(data["images"]):
            assert [table.category_ids[label] for label in lists[row]] == image[key]
    by_id = {each["id"]: each["frequency"] for each in data["categories"]}
    assert table.class_extras["frequency"] == [by_id[key] for key in table.category_ids]
    data["images"][0].pop("file_name")
    assert read(data).file_names[0] == "/".join(data["images"][0]["coco_url"].split("/")[-2:])
    fewer = read(path, classes=[table.class_names[3], table.class_names[1]])
    rows = np.isin(table.labels, [1, 3])
    assert fewer.labels.tolist() == [int(label == 1) for label in table.labels[rows]]
    assert fewer.class_extras["frequency"] == [table.class_extras["frequency"][k] for k in (3, 1)]


@pytest.mark.parametrize("value", [math.nan, 10**400, "\ud800"])
def test_what_only_the_standard_parser_reads(tmp_path: Path, value: Any) -> None:
    entries = [annotation(id=i, note=value) for i in range(1, 30)]
    _, file = write_coco(tmp_path, entries)
    table = read(file)
    assert table.annotation_ids.tolist() == list(range(1, 30))


def test_images_without_annotations_are_a_table(tmp_path: Path) -> None:
    file = tmp_path / "test-dev.json"
    file.write_text(json.dumps({"images": IMAGES, "categories": [{"id": 3, "name": "cat"}]}))
    table = read(file)
    assert not table.has_annotations and len(table.labels) == 0
    assert table.image_ids == [1, 2, 3] and table.sizes.tolist() == [[40, 60]] * 3
    assert len(table.rles) == 0
    images, _ = write_coco(tmp_path, [], images=[dict(image) for image in IMAGES])
    data = dataset(images, str(file))
    assert len(data) == 3 and len(data[(0, 0)].target.labels) == 0
    config = DetectionConfig(
        data=DataConfig(
            train=SplitConfig(images=images, annotations=str(file)), val=None, keep_empty=True
        ),
        train=TrainConfig(max_steps=1),
    )
    with pytest.raises(UserError, match=r"test-dev\.json: it has no annotations"):
        build_train_data(config)


def test_a_run_length_code_gives_the_size_that_its_image_lacks() -> None:
    code = {"size": [4, 4], "counts": [5, 2, 9]}
    data = {
        "images": [{"id": 1}],
        "categories": [{"id": 3}],
        "annotations": [annotation(segmentation=code, bbox=None, area=None)],
    }
    findings: list[Finding] = []
    table = read_annotations(data, findings)
    assert table.sizes.tolist() == [[4, 4]] and table.areas == [2]
    assert table.boxes_xywh.tolist() == [[1, 1, 1, 2]]
    assert [str(f).split(";")[0] for f in findings] == [
        "ground truth: annotation 1 has no bbox",
        "ground truth: annotation 1 without a usable 'area'",
    ]
    assert data["annotations"][0]["segmentation"] is code, "the caller's dict stays as it was"


def test_further_values_stay_with_their_objects(tmp_path: Path) -> None:
    boxes = [[2, 2, 8, 8], [20, 20, 8, 8], [40, 28, 8, 8]]
    entries = [
        annotation(
            id=i, bbox=box, segmentation=None, angle=i / 4, keypoints=[i, i + 1, 2], colour=i
        )
        for i, box in enumerate(boxes, start=1)
    ]
    del entries[1]["colour"]
    source = write_coco(tmp_path, entries)
    crop = train_transform(crop=(40, 50), flip_prob=0.5)
    spatial = train_transform(albumentations=[{"name": "RandomCrop", "height": 20, "width": 30}])
    seen = set()
    for transform in (crop, spatial):
        data = dataset(
            *source,
            transform=transform,
            mask_size=None,
            extras=["angle", "keypoints", "colour"],
        )
        for epoch in range(12):
            target = data[(epoch, 0)].target
            numbers = (target.extra["angle"] * 4).long()
            assert target.extra["keypoints"].tolist() == [[n, n + 1, 2] for n in numbers.tolist()]
            assert target.extra["colour"].tolist() == [0 if n == 2 else n for n in numbers.tolist()]
            assert len(target.boxes) == len(numbers)
            seen.add(tuple(numbers.tolist()))
    assert len(seen) > 3
    batch = collate([data[(0, 0)], data[(1, 0)]]).targets
    assert batch.extra["keypoints"].shape == (*batch.boxes.shape[:2], 3)
    with pytest.raises(DataError, match="keypoints: its values are not numbers, or not equally"):
        entries[0]["keypoints"] = [1]
        dataset(*write_coco(tmp_path, entries), mask_size=None, extras=["keypoints"])
    with pytest.raises(DataError, match=r"data\.extras: color: no annotation has this key"):
        dataset(*source, mask_size=None, extras=["color"])


def test_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resdet.data.detection.readers.READERS", dict(READERS))
    images, _ = write_coco(tmp_path, [], images=[dict(image) for image in IMAGES])
    file = tmp_path / "boxes.csv"
    with file.open("w", newline="") as out:
        lines = [["1.png", 1, 2, 11, 22, "dog"], ["3.png", 0, 0, 9, 9, "cat"]]
        csv.writer(out).writerows([["image", "x1", "y1", "x2", "y2", "class"], *lines])
    with pytest.raises(NotRegistered, match=r"no reader for 'boxes'; the choices are coco"):
        dataset(images, str(file), format="boxes")
    __import__("tests.data.csv_reader")
    data = dataset(images, str(file), format="boxes", mask_size=None, strict=True)
    assert data.class_names == ["cat", "dog"] and data.image_ids == ["1.png", "3.png"]
    assert data[(0, 0)].target.boxes.tolist() == [[1, 2, 11, 22]]
    assert read(file, format="boxes", outlines=False).boxes_xywh.tolist()[1] == [0, 0, 9, 9]


def test_reading_needs_no_torch() -> None:
    code = "import resdet.data.detection.readers, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_polygons_keep_every_digit() -> None:
    outline = [float(value) + 1 / 3 for value in SQUARE]
    data = {
        "images": IMAGES,
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [annotation(segmentation=[outline, outline[:6]])],
    }
    outlines = read(data).outlines
    assert outlines is not None
    assert [part.reshape(-1).tolist() for part in outlines.polygons(0)] == [outline, outline[:6]]
