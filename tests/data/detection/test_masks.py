"""Masks as image files: layouts, names, classes, what is decoded, and the cache."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.data.detection.annotated import read_images
from resdet.data.detection.readers import mask_files, object_masks, read_annotations, read_classes
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import DataError, Finding

FORMATS = Path(__file__).resolve().parents[1] / "formats"


def square(left: int, top: int, side: int = 4, value: int = 255) -> NDArray[np.uint8]:
    pixels = np.zeros((20, 30), np.uint8)
    pixels[top : top + side, left : left + side] = value
    return pixels


def save(folder: Path, files: Mapping[str, Any]) -> None:
    for name, pixels in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(path)


PHOTO = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def read(
    folder: Path, images: str = "images", annotations: str = "masks", **options: Any
) -> tuple[AnnotationTable, list[Finding]]:
    found = read_images(str(folder / images), str(folder / annotations), **options)
    return found.table, found.findings


def boxes(table: AnnotationTable) -> list[list[float]]:
    return [[int(value) for value in box] for box in table.boxes_xywh]


def test_the_data_science_bowls_layout(tmp_path: Path) -> None:
    save(
        tmp_path,
        {
            "train/b/images/b.png": PHOTO,
            "train/b/masks/1.png": square(1, 2),
            "train/b/masks/2.png": square(3, 4),  # they overlap
            "train/a/images/a.png": PHOTO,
            "train/a/masks/x.png": square(0, 0, 3, value=1),
            "train/none/images/none.png": PHOTO,
            "train/bare/images/bare.png": PHOTO,
            "flat/a.jpg": PHOTO,
            "flat/b.jpg": PHOTO,
        },
    )
    (tmp_path / "train/none/masks").mkdir()
    table, findings = read(tmp_path, "train", "train")
    assert [str(finding).partition("train: ")[2] for finding in findings] == [
        "image 'bare' has no folder masks; it is left out; fix or remove it"
    ]
    assert table.image_ids.tolist() == ["a", "b", "none"]
    assert list(table.file_names) == [f"{name}/images/{name}.png" for name in ("a", "b", "none")]
    assert boxes(table) == [[0, 0, 3, 3], [1, 2, 4, 4], [3, 4, 4, 4]]
    assert table.class_names == ["object"] and table.areas.tolist() == [9, 16, 16]
    named, _ = read(tmp_path, "train", "train", classes=["nucleus"])
    assert named.class_names == ["nucleus"]
    elsewhere, _ = read(tmp_path, "flat", "train", format="object_masks")
    assert list(elsewhere.file_names)[:2] == ["a.jpg", "b.jpg"]
    with pytest.raises(DataError, match="2 names, and masks in one folder per image are of one"):
        read(tmp_path, "train", "train", classes=["a", "b"])


def test_a_folder_per_photo_and_class(tmp_path: Path) -> None:
    files = {f"images/{name}": PHOTO for name in ("a.jpg", "sub/b.png")}
    files |= {
        "masks/a/cat/1.png": square(1, 1),
        "masks/a/dog/1.png": square(9, 9),
        "masks/sub/b/cat/1.png": square(5, 5),
    }
    save(tmp_path, files)
    table, findings = read(tmp_path)
    assert not findings and table.class_names == ["cat", "dog"]
    assert list(table.file_names) == ["a.jpg", "sub/b.png"]
    assert table.labels.tolist() == [0, 1, 0]
    masks, images = str(tmp_path / "masks"), str(tmp_path / "images")
    assert read_classes(masks, None, None, images)[0] == ["cat", "dog"]
    save(tmp_path, {"masks/a/loose.png": square(2, 2)})
    table, findings = read(tmp_path)
    assert len(table.labels) == 3
    assert [finding.what for finding in findings] == ["is in no class folder, as others are"]


@pytest.mark.parametrize(
    "name", ["a", "a_mask", "a_masks", "a_cp_masks", "a_labels", "deep/a", "a_instances"]
)
def test_names_of_label_images(tmp_path: Path, name: str) -> None:
    save(tmp_path, {"images/a.png": PHOTO, f"masks/{name}.png": square(1, 1, value=7)})
    table, findings = read(tmp_path)
    assert not findings and list(table.file_names) == ["a.png"] and boxes(table) == [[1, 1, 4, 4]]
    alone = read_annotations(tmp_path / "masks", [], format="label_masks")
    assert alone.image_ids.tolist() == ["deep/a" if "/" in name else "a"]


def palette(values: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette([value % 256 for value in range(7, 775)])
    return image


@pytest.mark.parametrize(
    ("suffix", "convert"),
    [
        ("png", lambda values: values.astype(np.uint16) * 300),
        ("tif", lambda values: values.astype(np.uint16) * 300),
        ("tif", lambda values: values.astype(np.int32) * 70_000),
        ("tif", lambda values: values.astype(np.float32)),
        ("png", palette),
        ("png", lambda values: np.repeat(values[:, :, None], 3, 2)),
        ("png", lambda values: np.dstack([*[values] * 3, np.full_like(values, 255)])),
        ("bmp", lambda values: values),
    ],
)
def test_kinds_of_label_images(tmp_path: Path, suffix: str, convert: Any) -> None:
    values = square(1, 1, value=1) + square(8, 8, value=2) + square(20, 3, value=3)
    save(tmp_path, {"images/a.png": PHOTO, f"masks/a.{suffix}": convert(values)})
    table, findings = read(tmp_path, format="label_masks")
    assert not findings
    assert boxes(table) == [[1, 1, 4, 4], [8, 8, 4, 4], [20, 3, 4, 4]]
    assert (coco_mask.decode(table.rles[1]) == (values == 2)).all()


def test_parts_of_one_number_are_one_object(tmp_path: Path) -> None:
    values = square(1, 1, value=9) + square(20, 10, value=9) + square(5, 5, 2, value=3)
    save(tmp_path, {"images/a.png": PHOTO, "masks/a.png": values})
    table, _ = read(tmp_path)
    assert boxes(table) == [[5, 5, 2, 2], [1, 1, 23, 13]]


def test_cityscapes(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.int32)
    values[:5, :5], values[6:9, 6:9], values[10:12, :3] = 26_001, 24_000, 26
    values[15:] = 7
    name = "bonn_000000_000019"
    save(
        tmp_path,
        {
            f"left/train/bonn/{name}_leftImg8bit.png": PHOTO,
            f"fine/train/bonn/{name}_gtFine_instanceIds.png": values.astype(np.uint16),
            f"fine/train/bonn/{name}_gtFine_labelIds.png": values.astype(np.uint8),
            f"fine/train/bonn/{name}_gtFine_color.png": PHOTO,
        },
    )
    table, findings = read(tmp_path, "left/train", "fine/train")
    assert not findings and len(table.class_names) == 8
    found = [table.class_names[label] for label in table.labels]
    assert found == ["person", "car"] and boxes(table) == [[6, 6, 3, 3], [0, 0, 5, 5]]
    assert list(table.file_names) == [f"bonn/{name}_leftImg8bit.png"]


def test_regions_of_a_class_are_objects_and_it_is_stated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[1:5, 1:5] = colours[5:8, 5:9] = (255, 0, 0)  # they touch by a corner
    colours[12:14, 2:20] = (255, 0, 0)
    colours[14:16, 2:20] = (0, 0, 9)
    save(tmp_path, {"images/a.png": PHOTO, "masks/a.png": colours})
    legend = tmp_path / "masks" / "classes.csv"
    legend.write_text("name;colour\nbackground;#000000\nred;#FF0000\nblue;#000009\n")
    with caplog.at_level(logging.INFO, logger="resdet"):
        table, findings = read(tmp_path)
    assert not findings and table.class_names == ["red", "blue"]
    assert boxes(table) == [[1, 1, 8, 7], [2, 12, 18, 2], [2, 14, 18, 2]]
    assert "each connected region of a class is taken as one object" in caplog.text


def test_masks_of_one_colour_need_no_legend(tmp_path: Path) -> None:
    both = square(1, 1) + square(15, 9)
    save(tmp_path, {"images/a.png": PHOTO, "masks/a.png": both, "images/b.png": PHOTO})
    save(tmp_path, {"masks/b.png": square(3, 3)})
    table, findings = read(tmp_path, classes=["cell"])
    assert not findings and table.class_names == ["cell"] and len(table.labels) == 3


def test_roboflows_masks_beside_the_images(tmp_path: Path) -> None:
    values = square(1, 1, value=1) + square(15, 9, value=2)
    save(tmp_path, {"train/a_jpg.rf.1.jpg": PHOTO, "train/a_jpg.rf.1_mask.png": values})
    (tmp_path / "train" / "_classes.csv").write_text(
        "Pixel Value, Class\n0, background\n1, crack\n2, hole\n"
    )
    table, findings = read(tmp_path, "train", "train")
    assert not findings and table.class_names == ["crack", "hole"]
    assert list(table.file_names) == ["a_jpg.rf.1.jpg"] and table.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["a.png", "a_mask.png"])
def test_folders_of_images_and_masks_by_one_path(tmp_path: Path, name: str) -> None:
    values = square(1, 1, value=1) + square(9, 9, value=2)
    save(tmp_path, {"set/images/a.jpg": PHOTO, f"set/masks/{name}": values})
    save(tmp_path, {"set/images/b.jpg": PHOTO, f"set/masks/{name.replace('a', 'b', 1)}": values})
    table, findings = read(tmp_path, "set", "set")
    assert not findings and len(table.labels) == 4
    assert list(table.file_names) == ["images/a.jpg", "images/b.jpg"]


def test_voc_pairs(tmp_path: Path) -> None:
    classes, objects = np.zeros((2, 20, 30, 3), np.uint8)
    classes[2:8, 2:12] = (192, 128, 128)  # two persons that touch
    objects[2:8, 2:7], objects[2:8, 7:12] = (128, 0, 0), (0, 128, 0)
    classes[12:16, 3:9], objects[12:16, 3:9] = (128, 0, 0), (128, 128, 0)  # an aeroplane
    classes[16, 3:9] = objects[16, 3:9] = (224, 224, 192)  # its border
    save(
        tmp_path,
        {
            "JPEGImages/2007_1.jpg": PHOTO,
            "SegmentationClass/2007_1.png": classes,
            "SegmentationObject/2007_1.png": objects,
        },
    )
    table, findings = read(tmp_path, "JPEGImages", "SegmentationClass")
    assert not findings and len(table.class_names) == 20
    pairs = zip(table.labels.tolist(), boxes(table), strict=True)
    found = [(table.class_names[label], box) for label, box in pairs]
    assert ("aeroplane", [3, 12, 6, 4]) in found
    assert sorted(map(tuple, boxes(table))) == [(2, 2, 5, 6), (3, 12, 6, 4), (7, 2, 5, 6)]


def test_folders_without_masks(tmp_path: Path) -> None:
    save(tmp_path, {"images/a.png": PHOTO, "masks/b.png": square(1, 1, value=3)})
    for format in ("label_masks", "class_masks"):
        with pytest.raises(DataError, match=r"none of its 1 masks \(b.png\) has an image in"):
            read(tmp_path, format=format)
    with pytest.raises(DataError, match="no folder in it has the masks of one image"):
        read(tmp_path, format="object_masks")
    (tmp_path / "empty").mkdir()
    for format in ("label_masks", "class_masks", "cityscapes"):
        with pytest.raises(DataError, match="there is no mask in it"):
            read(tmp_path, "images", "empty", format=format)
    with pytest.raises(DataError, match="this is a folder of images; give their annotations"):
        read(tmp_path, "images", "images")


def test_results_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mask_files, "CACHED_S", 0.0)
    calls: list[Path] = []
    decode = object_masks.read_labels

    def counted(path: Path) -> Any:
        calls.append(path)
        return decode(path)

    monkeypatch.setattr(object_masks, "read_labels", counted)
    shutil.copytree(FORMATS / "object_masks", tmp_path / "masks")
    shutil.copytree(FORMATS / "images", tmp_path / "images")
    mask = next((tmp_path / "masks").rglob("*.png"))
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(mask.with_name("empty.png"))
    first, findings = read(tmp_path)
    assert len(calls) == 39 and len(findings) == 1
    second, again = read(tmp_path)
    assert len(calls) == 39 and again == findings
    assert second.rles == first.rles and second.image_ids == first.image_ids
    np.testing.assert_array_equal(second.boxes_xywh, first.boxes_xywh)
    Image.fromarray(square(0, 0)).resize((96, 64)).save(mask)
    third, _ = read(tmp_path)
    assert len(calls) == 78 and third.rles != first.rles
    for stored in (tmp_path / "cache" / "masks").iterdir():
        stored.write_bytes(stored.read_bytes()[:100])
    assert read(tmp_path)[0].rles == third.rles and len(calls) == 117


def test_classes_of_images_without_suffix(tmp_path: Path) -> None:
    save(tmp_path / "images", {"a.1.png": PHOTO, "a.2.png": PHOTO})
    save(tmp_path / "masks", {"a.1.png": square(1, 1, value=1), "a.2.png": square(1, 1, value=1)})
    (tmp_path / "masks/classes.csv").write_text("image,value,class\na.1,1,cell\na.2.png,1,dot\n")
    table, findings = read(tmp_path)
    assert not findings
    assert [table.class_names[label] for label in table.labels] == ["cell", "dot"]
