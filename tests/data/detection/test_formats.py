"""Paths of another kind or format than the config says: messages name the key and the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resdet.data.detection.annotated import read_images
from resdet.errors import UserError

COCO = json.dumps({"images": [], "annotations": [], "categories": []})
IMAGES, ANNOTATIONS = "data.val.images", "data.val.annotations"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set in every format."""
    files = {
        "photos/a.jpg": "",
        "coco/train.json": COCO,
        "coco/val.json": COCO,
        "xml/a.xml": "<annotation/>",
        "labels/a.txt": "0 .5 .5 .1 .1",
        "yolo/data.yaml": "names: [a]",
        "ImageSets/Main/val.txt": "a",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def message(folder: Path, images: str, annotations: str, format: str = "coco") -> str:
    with pytest.raises(UserError) as caught:
        read_images(str(folder / images), str(folder / annotations), format=format, key="data.val")
    return str(caught.value).splitlines()[0].replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("annotations", "remedy"),
    [
        ("labels", "YOLO's labels have to be converted to COCO"),
        ("labels/a.txt", "YOLO's labels have to be converted to COCO"),
        ("yolo/data.yaml", "YOLO's labels have to be converted to COCO"),
        ("yolo", "YOLO's labels have to be converted to COCO"),
        ("xml", "it looks like VOC's XML: set data.val.format to voc"),
        ("xml/a.xml", "it looks like VOC's XML: set data.val.format to voc and give the folder"),
        ("ImageSets/Main/val.txt", "set data.val.format to one of coco, voc, imagenet_det"),
        ("coco", "give a file of this folder: train.json, val.json"),
        ("photos", "this is a folder of images; give the JSON file of their annotations"),
    ],
)
def test_annotations_of_another_format(folder: Path, annotations: str, remedy: str) -> None:
    text = message(folder, "photos", annotations)
    assert text.startswith(f"{ANNOTATIONS}: {annotations}: not a JSON file as COCO's are; ")
    assert remedy in text


@pytest.mark.parametrize("format", ["voc", "imagenet_det", "imagenet_loc"])
def test_coco_files_with_another_format(folder: Path, format: str) -> None:
    text = message(folder, "photos", "coco/val.json", format)
    assert text.startswith(f"{ANNOTATIONS}: coco/val.json: a JSON file, and data.val.format is")
    assert "set data.val.format to coco" in text


def test_images_and_annotations_swapped(folder: Path) -> None:
    assert message(folder, "coco/val.json", "photos") == (
        f"{IMAGES}: coco/val.json: is a file; swap it with {ANNOTATIONS}, which is a folder"
    )
    assert message(folder, "photos/a.jpg", "coco/val.json") == (
        f"{IMAGES}: photos/a.jpg: is a file; give the folder of the images"
    )


def test_missing_files_and_unknown_formats(folder: Path) -> None:
    assert message(folder, "phots", "coco/vall.json") == (
        f"no such file or folder: phots ({IMAGES}), coco/vall.json ({ANNOTATIONS})"
    )
    text = message(folder, "photos", "labels", "yolo")
    assert f"{ANNOTATIONS}: labels: data.val.format: no reader for 'yolo'" in text


def test_broken_files_name_the_key(folder: Path) -> None:
    (folder / "coco" / "val.json").write_text("{")
    assert message(folder, "photos", "coco/val.json").startswith(f"{ANNOTATIONS}: coco/val.json: ")
    with pytest.raises(UserError, match=r"^data\.train: 2 image folder\(s\) and 1 annotation"):
        read_images([str(folder), str(folder)], "a.json", key="data.train")
