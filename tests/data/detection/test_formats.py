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
        "xml/a.xml": "<annotation></annotation>",
        "labels/a.txt": "0 .5 .5 .1 .1",
        "yolo/data.yaml": "names: [a]",
        "ImageSets/Main/val.txt": "a",
        "all.zip": "PK",
        "notes": "from the third floor",
    }
    (tmp_path / "empty").mkdir()
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def message(folder: Path, images: str, annotations: str, format: str | None = "coco") -> str:
    with pytest.raises(UserError) as caught:
        read_images(str(folder / images), str(folder / annotations), format=format, key="data.val")
    return str(caught.value).splitlines()[0].replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("annotations", "found"),
    [("xml", "voc"), ("ImageSets/Main/val.txt", "voc")],
)
def test_annotations_of_another_format(folder: Path, annotations: str, found: str) -> None:
    text = message(folder, "photos", annotations)
    assert text.startswith(f"{ANNOTATIONS}: {annotations}: not a JSON file as COCO's are; ")
    assert f"it looks like {found}: set data.val.format to {found}, or to null" in text


@pytest.mark.parametrize("format", [None, "coco"])
@pytest.mark.parametrize(
    ("annotations", "remedy"),
    [
        ("xml/a.xml", "one image's XML file as VOC has them; give the folder of all of them"),
        ("coco", "give a file of this folder: train.json, val.json"),
        ("photos", "this is a folder of images; give their annotations"),
        ("empty", "an empty folder; give the annotations"),
        ("all.zip", "an archive; unpack it and give what is in it"),
        ("notes", "it is in no known format; give annotations"),
    ],
)
def test_annotations_of_no_format(
    folder: Path, annotations: str, remedy: str, format: str | None
) -> None:
    text = message(folder, "photos", annotations, format)
    assert text.startswith(f"{ANNOTATIONS}: {annotations}: {remedy}; or set data.val.format to one")


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
    text = message(folder, "photos", "labels", "kitti")
    assert f"{ANNOTATIONS}: labels: data.val.format: no reader for 'kitti'" in text


def test_broken_files_name_the_key(folder: Path) -> None:
    (folder / "coco" / "val.json").write_text("{")
    assert message(folder, "photos", "coco/val.json").startswith(f"{ANNOTATIONS}: coco/val.json: ")
    with pytest.raises(UserError, match=r"^data\.train: 2 image folder\(s\) and 1 annotation"):
        read_images([str(folder), str(folder)], "a.json", key="data.train")
