"""ImageNet's detection layout: lists of both kits, negatives, classes, and what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.readers.imagenet_det import det_synsets
from resdet.data.detection.transforms import TestTransform
from resdet.files.findings import DataError
from tests.data import layouts

EXACT = TestTransform(short_edge=80, max_size=1000)
NEGATIVES = ["ILSVRC2013_train_00000001", "ILSVRC2013_train_00000002"]


def load(folder: Path, listed: str, split: str = "train", **options) -> DetectionDataset:
    return read_dataset(
        str(folder / "Data/DET" / split),
        str(folder / listed),
        format="imagenet_det",
        transform=EXACT,
        mask_size=None,
        **options,
    )


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    return layouts.small_det(tmp_path)


def test_the_synsets(shared_data: Path) -> None:
    lines = (shared_data / "ilsvrc_reference/det_synsets.txt").read_text().splitlines()
    expected = [(int(n), wnid, name) for n, wnid, name in (line.split("\t") for line in lines)]
    assert det_synsets() == expected
    assert [synset.number for synset in det_synsets()] == list(range(1, 201))


def test_val_is_in_the_order_of_the_kit(ilsvrc: Path) -> None:
    numbers = dict(
        line.split() for line in (ilsvrc / "ImageSets/DET/val.txt").read_text().splitlines()
    )
    for listed, count in (("val", 6), ("val1", 4), ("val2", 2)):
        data = load(ilsvrc, f"ImageSets/DET/{listed}.txt", "val", strict=True)
        order = [int(numbers[key]) for key in data.image_ids]
        assert len(order) == count and order == sorted(order)
        assert all(data.path(i).is_file() for i in range(count))
    table = load(ilsvrc, "ImageSets/DET/val.txt", "val").table
    assert table.category_ids == list(range(1, 201))
    assert table.class_names[57] == "dog" and table.class_extras["wnid"][57] == "n02084071"
    assert not (table.image_of == 5).any(), "the last image has no object"


def test_names_of_the_real_val_list_sort_to_its_numbers(shared_data: Path) -> None:
    """The kit numbers val by sorted names, ILSVRC2012 before ILSVRC2013."""
    names = [
        name
        for part in ("val1", "val2")
        for name in (shared_data / f"ilsvrc_reference/{part}.txt").read_text().split()
    ]
    assert len(names) == len(set(names)) == 9887 + 9917
    keys = [(int(n[6:10]), int(n[-8:])) for n in sorted(names)]
    assert keys == sorted(keys)


def test_boxes_count_from_zero_and_include_the_last_pixel(ilsvrc: Path) -> None:
    file = ilsvrc / "Annotations/DET/val/ILSVRC2012_val_00000005.xml"
    text = file.read_text()
    table = load(ilsvrc, "ImageSets/DET/val.txt", "val").table
    x, y, w, h = table.boxes_xywh[0]
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w - 1, y + h - 1), strict=True)
    for key, value in corners:
        assert f"<{key}>{value:g}</{key}>" in text


def test_lists_of_both_kits(ilsvrc: Path) -> None:
    """2014: a pattern of lists, which name older folders; 2015: marks 1, 0 and -1."""
    old = load(ilsvrc, "ImageSets/DET/train_pos_*.txt", strict=True)
    assert len(old) == 7, "an image of two classes is in two lists"
    assert all(old.path(i).is_file() for i in range(len(old)))
    new = load(ilsvrc, "ImageSets/DET/train_[1-9]*.txt", strict=True)
    assert new.image_ids.tolist() == NEGATIVES + old.image_ids.tolist()
    assert load(ilsvrc, "ImageSets/DET/train_*.txt", strict=True).image_ids == new.image_ids
    folder = load(ilsvrc, "Annotations/DET/train", strict=True)
    assert folder.image_ids == old.image_ids


def test_negatives_are_images_without_objects(ilsvrc: Path) -> None:
    listed = "ImageSets/DET/train_neg_*.txt"
    data = load(ilsvrc, listed, strict=True)
    assert data.image_ids.tolist() == NEGATIVES
    assert data.path(0).is_file() and data.path(0).parent.name == "ILSVRC2013_train_extra0"
    with pytest.raises(DataError, match="no image has an object that can be used: the annota"):
        load(ilsvrc, listed, keep_empty=False)
    assert len(load(ilsvrc, "ImageSets/DET/train_1.txt", keep_empty=False)) == 3


def test_val1_and_training_images_together(ilsvrc: Path) -> None:
    folders = [str(ilsvrc / "Data/DET" / split) for split in ("val", "train")]
    lists = [str(ilsvrc / f"ImageSets/DET/{name}.txt") for name in ("val1", "train_pos_*")]
    data = read_dataset(
        folders, lists, format="imagenet_det", transform=EXACT, mask_size=None, strict=True
    )
    assert len(data) == 4 + 7 and len(data.class_names) == 200


def test_files_that_are_missing_or_wrong(ilsvrc: Path) -> None:
    annotations, images = (ilsvrc / kind / "DET/val" for kind in ("Annotations", "Data"))
    names = [f"ILSVRC2012_val_0000000{i}" for i in (5, 6, 7)]
    (annotations / f"{names[0]}.xml").unlink()
    (annotations / f"{names[1]}.xml").write_text("<annotation>")
    (images / f"{names[2]}.JPEG").unlink()
    unknown = annotations / "ILSVRC2013_val_00000008.xml"
    unknown.write_text(unknown.read_text().replace("n02672831", "n99999999"))
    data = load(ilsvrc, "ImageSets/DET/val.txt", "val")
    found = "\n".join(map(str, data.findings))
    assert f"image '{names[0]}' has no file {names[0]}.xml; it is taken for an image with" in found
    assert f"{names[1]}.xml is not valid XML" in found
    assert "has an object of class 'n99999999', none of 200; it is left out" in found
    assert f"image '{names[2]}' ({names[2]}.JPEG) has no file in" in found
    assert data.image_ids.tolist() == [names[0], *(f"ILSVRC2013_val_{i:08d}" for i in (8, 9, 10))]


def test_test_images_have_no_annotations(ilsvrc: Path) -> None:
    (ilsvrc / "Data/DET/val").rename(ilsvrc / "Data/DET/test")
    val = ilsvrc / "ImageSets/DET/val.txt"
    val.rename(val.with_name("test.txt"))
    data = load(ilsvrc, "ImageSets/DET/test.txt", "test", strict=True)
    assert len(data) == 6 and not data.table.has_annotations
    assert len(data.class_names) == 200


def test_without_images_the_lists_lead_to_the_annotations(ilsvrc: Path) -> None:
    for listed, count in (("val1", 3), ("train_pos_1", 4)):
        table = read_annotations(ilsvrc / f"ImageSets/DET/{listed}.txt", [], format="imagenet_det")
        assert len(table.labels) == count


@pytest.mark.parametrize(
    ("listed", "error"),
    [
        ("ImageSets/DET/train_none_*.txt", "no such file or folder: .*train_none"),
        ("Data/DET/val", "no XML file in this folder"),
        ("", "holds Annotations/; give a list, .*ImageSets/DET/val.txt"),
        ("ImageSets/DET/own.txt", "none of its 1 images has an XML file"),
    ],
)
def test_wrong_paths(ilsvrc: Path, listed: str, error: str) -> None:
    layouts.write_lines(ilsvrc / "ImageSets/DET/own.txt", ["absent"])
    with pytest.raises(DataError, match=error):
        load(ilsvrc, listed)
