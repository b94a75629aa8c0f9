"""Images in both sets, classes without training data, and class names that nearly agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.data.classification.dataset import ClassificationDataset, open_images
from resdet.data.classification.transforms import ClassificationTestTransform
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.plausibility import check_class_names
from resdet.factory.classification_data import check_val
from resdet.factory.detection_data import DataSets
from resdet.files.findings import DataError, Finding
from tests.data.make import annotation, dataset, write_coco


def names_found(names: list[str], counts: list[int] | None = None) -> list[str]:
    findings: list[Finding] = []
    check_class_names("f", names, np.array(counts or [1] * len(names)), findings)
    return [f"{each.item} {each.what}" for each in findings]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Dog", "dog"),
        ("dog", "dog "),
        ("traffic light", "Traffic_Light"),
        ("traffic light", "traffic  light"),
        ("café", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("racoon", "raccoon"),
        ("helmet", "helmt"),
        ("safety helmet", "safety helmets"),
        ("motorcycle", "motorcicle"),
    ],
)
def test_names_of_one_class(one: str, two: str) -> None:
    (found,) = names_found(["other thing", one, two])
    assert found.startswith(f"classes {one!r} and {two!r} differ by ")


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "car", "bat", "bolt", "boat"],
        ["castle", "cattle"],
        ["grade 1", "grade 2", "class10", "class11", "n01440764", "n01440765"],
        ["type A", "type B", "vitamin_c", "vitamin_d"],
        ["crack", "track"],
        ["glass", "glasses", "woman", "man"],
    ],
)
def test_names_of_different_classes(names: list[str]) -> None:
    assert names_found(names) == []


def test_a_replaced_letter_counts_in_rare_names() -> None:
    assert names_found(["person", "persom"], [50, 40]) == []
    assert names_found(["person", "persom"], [500, 3]) != []


def test_of_many_classes_only_sure_slips(shared_data: Path) -> None:
    """LVIS's names have hammer and hamper, clock and cloak."""
    file = shared_data / "eval_fixtures" / "lvis_val_100.json"
    names = [each["name"] for each in json.loads(file.read_text())["categories"]]
    assert len(names) > 1000
    assert names_found(names) == []
    assert names_found([*names, names[7].upper()]) != []


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def coco_set(root: Path, name: str, files: list[str], category: int = 3) -> DetectionDataset:
    images = [{"id": k, "file_name": f, "height": 40, "width": 60} for k, f in enumerate(files, 1)]
    objects = [annotation(id=k, image_id=k, category_id=category) for k in range(1, len(files) + 1)]
    folder, file = write_coco(root, objects, name=f"{name}.json", images=images)
    return dataset(folder, file)


def found_in(train: Any, val: Any, *, contents: bool = False, strict: bool = False) -> list[str]:
    DataSets(train, val, None).check(strict=strict, contents=contents)
    return [str(each) for each in val.findings]


def test_images_in_both_sets(tmp_path: Path) -> None:
    for k in range(6):
        picture(tmp_path / "images" / f"{k}.png", k)
    train = coco_set(tmp_path, "train", ["0.png", "1.png", "2.png"])
    assert found_in(train, coco_set(tmp_path, "val", ["3.png", "4.png"]), contents=True) == []
    (found,) = found_in(train, coco_set(tmp_path, "val", ["3.png", "2.png", "./0.png"]))
    assert "2 of 3 images (image 2 (2.png), image 3 (./0.png)) are also in" in found
    (found,) = found_in(train, coco_set(tmp_path, "copy", ["0.png", "1.png", "2.png"]))
    assert "all 3 images (" in found and "say nothing about others" in found
    with pytest.raises(DataError, match="all 3 images"):
        found_in(train, coco_set(tmp_path, "copy", ["0.png", "1.png", "2.png"]), strict=True)


def test_equal_names_in_two_folders_are_two_images(tmp_path: Path) -> None:
    for k, root in enumerate(("a", "b")):
        picture(tmp_path / root / "images" / "0001.png", k)
    train, val = (coco_set(tmp_path / root, "x", ["0001.png"]) for root in ("a", "b"))
    assert found_in(train, val, contents=True) == []
    # unless one is a link to the other
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "images").symlink_to(tmp_path / "a" / "images")
    (found,) = found_in(train, coco_set(tmp_path / "c", "x", ["0001.png"]))
    assert "all 1 images" in found


def test_copies_are_found_by_their_contents(tmp_path: Path) -> None:
    for k in range(3):
        picture(tmp_path / "a" / "images" / f"{k}.png", k)
        picture(tmp_path / "b" / "images" / f"v{k}.png", 10 + k)
    shutil.copy(tmp_path / "a" / "images" / "1.png", tmp_path / "b" / "images" / "v2.png")
    train = coco_set(tmp_path / "a", "x", ["0.png", "1.png", "2.png"])
    val = coco_set(tmp_path / "b", "x", ["v0.png", "v1.png", "v2.png"])
    assert found_in(train, val) == []
    (found,) = found_in(train, val, contents=True)
    assert "1 of 3 images (image 3 (v2.png)) are byte for byte equal to files of" in found


def test_validation_of_untrained_classes(tmp_path: Path) -> None:
    for k in range(4):
        picture(tmp_path / "images" / f"{k}.png", k)
    train = coco_set(tmp_path, "train", ["0.png", "1.png"])
    val = coco_set(tmp_path, "val", ["2.png", "3.png"], category=7)
    (found,) = found_in(train, val)
    assert "2 of 2 objects are of classes that data.train has none of ('dog')" in found


def classes_of(root: Path, train: ClassificationDataset | None = None) -> ClassificationDataset:
    names = None if train is None else train.class_names
    transform = ClassificationTestTransform(32, 32, "bilinear")
    return open_images(root, transform=transform, train_classes=names)


def test_class_folders(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("val", 20)):
        for k in range(4):
            picture(tmp_path / part / ("red", "blue")[k % 2] / f"{k}.png", first + k)
    train = classes_of(tmp_path / "train")
    val = classes_of(tmp_path / "val", train)
    check_val(train, val, strict=False, contents=True)
    assert val.findings == []
    same = classes_of(tmp_path / "train", train)
    check_val(train, same, strict=False, contents=True)
    assert [("all 4 images" in str(each), len(same.findings)) for each in same.findings] == [
        (True, 1)
    ]
    shutil.copy(tmp_path / "train/red/0.png", tmp_path / "val/red/9.png")
    val = classes_of(tmp_path / "val", train)
    check_val(train, val, strict=False, contents=True)
    assert "1 of 5 images" in str(val.findings[0]) and "byte for byte" in str(val.findings[0])
    with pytest.raises(DataError, match="byte for byte"):
        check_val(train, classes_of(tmp_path / "val", train), strict=True, contents=True)


def test_class_folders_that_nearly_agree(tmp_path: Path) -> None:
    for k, name in enumerate(("Cat", "cat", "dog")):
        picture(tmp_path / name / "0.png", k)
    assert ["differ by case" in str(each) for each in classes_of(tmp_path).findings] == [True]
