"""data.class_map merges, renames and leaves out classes, for every format in the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resdet.config.loading import load_config
from resdet.data.detection.annotated import read_images
from resdet.data.detection.class_map import original_names
from resdet.data.detection.readers import read_classes
from resdet.data.detection.table import AnnotationTable
from resdet.factory.classes import detection_classes
from resdet.factory.detection_data import read_train_table
from resdet.files.findings import DataError
from tests.data.make import annotation, write_coco

CLASSES = ["car", "truck", "bus", "cat"]
CATEGORIES = [{"id": 2 * k + 1, "name": name} for k, name in enumerate(CLASSES)]


def objects(*labels: int) -> list[dict[str, Any]]:
    return [
        annotation(id=k + 1, category_id=2 * label + 1, bbox=[k, 1, 9, 9])
        for k, label in enumerate(labels)
    ]


def load(folder: Path, class_map: Any, key: str = "data.train", **options: Any) -> AnnotationTable:
    images, file = write_coco(folder, objects(0, 1, 2, 3, 1), categories=CATEGORIES)
    return read_images(images, file, class_map=class_map, key=key, **options).table


@pytest.mark.parametrize(
    ("class_map", "names", "ids", "labels"),
    [
        (None, CLASSES, [1, 3, 5, 7], [0, 1, 2, 3, 1]),
        ({"cat": "animal"}, ["car", "truck", "bus", "animal"], [1, 3, 5, 7], [0, 1, 2, 3, 1]),
        ({"truck": "car", "bus": "car"}, ["car", "cat"], [1, 7], [0, 0, 0, 1, 0]),
        ({"truck": "bus"}, ["car", "bus", "cat"], [1, 5, 7], [0, 1, 1, 2, 1]),
        ({"car": "road", "truck": "road", "cat": None}, ["road", "bus"], [1, 5], [0, 0, 1, 0]),
        ({"car": "truck", "truck": "car"}, ["truck", "car", "bus", "cat"], [1, 3, 5, 7],
         [0, 1, 2, 3, 1]),
        ({"car": "truck", "truck": None}, ["truck", "bus", "cat"], [1, 5, 7], [0, 1, 2]),
    ],
)  # fmt: skip
def test_classes_and_objects(
    tmp_path: Path, class_map: Any, names: list[str], ids: list[int], labels: list[int]
) -> None:
    table = load(tmp_path, class_map)
    assert (table.class_names, table.category_ids) == (names, ids)
    assert table.labels.tolist() == labels
    assert len(table.boxes_xywh) == len(labels)
    file = str(tmp_path / "a.json")
    assert read_classes(file, None, None, class_map=class_map) == (names, ids)


def test_data_classes_are_new_names(tmp_path: Path) -> None:
    table = load(tmp_path, {"truck": "car", "cat": "animal"}, classes=["animal", "car"])
    assert (table.class_names, table.category_ids) == (["animal", "car"], [7, 1])
    assert table.labels.tolist() == [1, 1, 0, 1]
    assert original_names(["animal", "bus"], {"cat": "animal"}) == ["bus", "cat"]
    with pytest.raises(DataError, match=r"data\.classes: no category 'truck'"):
        load(tmp_path, {"truck": "car"}, classes=["truck"])


def test_names_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'trucks': no such .*a\.json; did you mean truck"):
        load(tmp_path, {"trucks": "car"})
    with pytest.raises(DataError, match=r"'x': no such .*; they have bus, car, cat, truck"):
        load(tmp_path, {"x": None})
    # validation data may lack a class that training has
    assert load(tmp_path, {"x": None, "bus": "car"}, key="data.val").class_names == [
        *("car", "truck", "cat"),
    ]
    with pytest.raises(DataError, match="leaves out every class of"):
        load(tmp_path, dict.fromkeys(CLASSES))


def test_several_files_agree_after_the_map(tmp_path: Path) -> None:
    images, one = write_coco(tmp_path, objects(0, 1), categories=CATEGORIES[:2])
    auto = [{"id": 1, "name": "auto"}]
    _, two = write_coco(tmp_path, objects(0), name="b.json", categories=auto)
    class_map = {"truck": "car", "auto": "car"}
    table = read_images([images] * 2, [one, two], class_map=class_map, key="data.train").table
    assert (table.class_names, table.category_ids) == (["car"], [1])
    assert table.labels.tolist() == [0, 0, 0]


def test_lists_of_lvis(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "1.png", "height": 40, "width": 60}
    image |= {"neg_category_ids": [1, 5, 7], "not_exhaustive_category_ids": [3, 5]}
    categories = [entry | {"frequency": f} for entry, f in zip(CATEGORIES, "rcfr", strict=True)]
    images, file = write_coco(tmp_path, objects(1), images=[image], categories=categories)
    for class_map, absent, partial in (
        ({"car": "bus"}, [1, 2], [0, 1]),  # truck, bus, cat
        ({"truck": "bus", "car": None}, [1], [0]),  # bus, cat
    ):
        table = read_images(images, file, class_map=class_map).table
        assert table.image_extras["neg_category_ids"][0].tolist() == absent
        assert table.image_extras["not_exhaustive_category_ids"][0].tolist() == partial
        assert table.class_extras["frequency"][-1] == "r"


def test_the_config_s_classes(tmp_path: Path) -> None:
    images, file = write_coco(tmp_path, objects(0), categories=CATEGORIES)
    overrides = [f"data.train={{images: {images}, annotations: {file}}}", "data.val=null"]
    class_map = json.dumps({"truck": "car", "cat": None})
    config = load_config("configs/own_data.yaml", [*overrides, f"data.class_map={class_map}"])
    assert detection_classes(config) == (["car", "bus"], [1, 5])
    assert read_train_table(config, None).class_names == ["car", "bus"]
    coco = load_config("configs/own_data.yaml", ["data.class_map={dog: cat}"])
    names, _ = detection_classes(coco)  # without the data the names of COCO
    assert len(names) == 79
    assert "dog" not in names
