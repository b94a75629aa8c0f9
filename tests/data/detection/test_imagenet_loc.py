"""ImageNet's localization layout: XML files, lists and Kaggle's tables give the same objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resdet.data.classification.folder import read_class_folders
from resdet.data.classification.imagenet import read_flat_images
from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.transforms import TestTransform
from resdet.files.findings import DataError
from tests.data import layouts
from tests.data.layouts import LOC_NUMBERS, Picture, Thing

EXACT = TestTransform(short_edge=80, max_size=1000)
WNIDS = sorted(LOC_NUMBERS)
SOURCES = {
    "train": ("Annotations/CLS-LOC/train", "ImageSets/CLS-LOC/train_loc.txt"),
    "val": ("Annotations/CLS-LOC/val", "ImageSets/CLS-LOC/val.txt"),
}


def load(folder: Path, listed: str, split: str, **options) -> DetectionDataset:
    return read_dataset(
        str(folder / "Data/CLS-LOC" / split),
        str(folder / listed),
        format="imagenet_loc",
        transform=EXACT,
        mask_size=None,
        **options,
    )


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    return layouts.small_loc(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_sources_give_the_same(ilsvrc: Path, split: str) -> None:
    folder = load(ilsvrc, SOURCES[split][0], split, strict=True)
    assert len(folder) == 6
    assert folder.image_ids.tolist() == sorted(folder.image_ids.tolist())
    assert all(folder.path(i).is_file() for i in range(6))
    assert folder.class_names == WNIDS
    for listed in (SOURCES[split][1], f"../LOC_{split}_solution.csv"):
        other = load(ilsvrc, listed, split, strict=True)
        assert other.image_ids == folder.image_ids
        for key in ("boxes_xywh", "labels", "sizes", "image_of"):
            expected = getattr(folder.table, key)
            np.testing.assert_array_equal(getattr(other.table, key), expected, key)
        assert [other.path(i) for i in range(6)] == [folder.path(i) for i in range(6)]


def test_labels_are_those_of_classification(ilsvrc: Path) -> None:
    train = read_class_folders(ilsvrc / "Data/CLS-LOC/train")
    assert load(ilsvrc, SOURCES["train"][0], "train").class_names == train.class_names
    kit = ilsvrc.parent / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    val = read_flat_images(
        ilsvrc / "Data/CLS-LOC/val", ground_truth=kit, train_classes=train.class_names
    )
    data = load(ilsvrc, SOURCES["val"][0], "val")
    firsts = data.table.labels[data.starts]
    assert dict(zip(data.image_ids, firsts.tolist(), strict=True)) == {
        name.removesuffix(".JPEG"): label
        for name, label in zip(val.names, val.labels.tolist(), strict=True)
    }


def test_a_val_with_few_classes_has_those_of_train(ilsvrc: Path) -> None:
    layouts.write_lines(ilsvrc / "ImageSets/CLS-LOC/few.txt", ["ILSVRC2012_val_00000003"])
    layouts.write_lines(ilsvrc / "ImageSets/CLS-LOC/val_few.txt", ["ILSVRC2012_val_00000003"])
    data = load(ilsvrc, "ImageSets/CLS-LOC/val_few.txt", "val", strict=True)
    assert data.class_names == WNIDS and data.table.labels.tolist() == [2]


def test_val_in_class_folders(ilsvrc: Path) -> None:
    """As classification likes it; the annotations are as published."""
    data = load(ilsvrc, SOURCES["val"][0], "val")
    for i in range(len(data)):
        wnid = WNIDS[data.table.labels[data.starts[i]]]
        target = data.path(i).parent / wnid / data.path(i).name
        target.parent.mkdir(exist_ok=True)
        data.path(i).rename(target)
    for listed in (SOURCES["val"][0], "../LOC_val_solution.csv"):
        again = load(ilsvrc, listed, "val", strict=True)
        assert all(again.path(i).is_file() for i in range(6))


def test_boxes_are_those_of_the_kit(shared_data: Path, tmp_path: Path) -> None:
    """The first images of val, written as XML, against the kit's ground truth."""
    kit = np.load(shared_data / "ilsvrc_reference/loc_val_gt.npz")
    counts, labels = kit["num_boxes"][:300], kit["label"][:300]
    ends = np.cumsum(counts)
    corners = kit["boxes_xyxy_0based_inclusive"][: ends[-1]].astype(float)
    assert (corners[:, :2] == 0).any()
    continuous = np.hstack([corners[:, :2], corners[:, 2:] + 1])
    folder = tmp_path / "ILSVRC/Annotations/CLS-LOC/val"
    for i, last in enumerate(ends):
        boxes = continuous[last - counts[i] : last]
        things = [Thing(f"n{labels[i]:08d}", tuple(box)) for box in boxes.tolist()]
        picture = Picture(f"ILSVRC2012_val_{i + 1:08d}", (500, 500), things)
        layouts.write_xml(folder / f"{picture.name}.xml", picture, one_based=False)
    table = read_annotations(folder, [], format="imagenet_loc")
    xyxy = table.boxes_xywh.copy()
    xyxy[:, 2:] += xyxy[:, :2]
    np.testing.assert_array_equal(xyxy, continuous)
    assert np.bincount(table.image_of).tolist() == counts.tolist()


def test_objects_of_another_class(ilsvrc: Path) -> None:
    train = ilsvrc / "Annotations/CLS-LOC/train" / WNIDS[0] / f"{WNIDS[0]}_9.xml"
    train.write_text(train.read_text().replace(f"<name>{WNIDS[0]}", f"<name>{WNIDS[1]}"))
    data = load(ilsvrc, SOURCES["train"][0], "train")
    (finding,) = map(str, data.findings)
    assert f"{WNIDS[0]}_9.xml has an object of class '{WNIDS[1]}', and is an image of" in finding
    assert len(data.table.labels) == 5
    val = ilsvrc / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000002.xml"
    first, second, rest = val.read_text().partition("</object>")
    val.write_text(first + second + rest.replace(WNIDS[0], WNIDS[1]))
    (finding,) = map(str, load(ilsvrc, SOURCES["val"][0], "val").findings)
    assert f"has an object of class '{WNIDS[1]}', and is an image of '{WNIDS[0]}'" in finding


def test_unknown_classes_and_images_that_are_missing(ilsvrc: Path) -> None:
    val = ilsvrc / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml"
    val.write_text(val.read_text().replace(WNIDS[1], "n99999999"))
    (ilsvrc / "Data/CLS-LOC/val/ILSVRC2012_val_00000003.JPEG").unlink()
    data = load(ilsvrc, SOURCES["val"][0], "val")
    unknown, missing = map(str, data.findings)
    assert "has an object of class 'n99999999', none of 3; it is left out" in unknown
    assert "image 'ILSVRC2012_val_00000003' (ILSVRC2012_val_00000003.JPEG) has no file" in missing
    assert data.class_names == WNIDS


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("ILSVRC2012_val_00000009,", "has 0 values"),
        ("ILSVRC2012_val_00000009,n01440764 1 2 3", "has 4 values, not a class and four numbers"),
        (
            "ILSVRC2012_val_00000009,n01440764 1 2 three 4",
            "has box 1 2 three 4, not xmin ymin xmax ymax",
        ),
        ("ILSVRC2012_val_00000009,n01440764 5 2 3 4", "has box 5 2 3 4, not xmin ymin xmax ymax"),
        ("ILSVRC2012_val_00000009,n01440764 nan 2 3 4", "has box nan 2 3 4, not xmin"),
        ("ILSVRC2012_val_00000009", "not an image and its objects"),
        ("ILSVRC2012_val_00000001,n01440764 1 2 3 4", "is a second line of this image"),
    ],
)
def test_odd_lines_of_a_table(ilsvrc: Path, line: str, what: str) -> None:
    table = ilsvrc.parent / "LOC_val_solution.csv"
    table.write_text(table.read_text() + line + "\n")
    data = load(ilsvrc, "../LOC_val_solution.csv", "val")
    found = [str(finding) for finding in data.findings if what in str(finding)]
    assert len(found) == 1 and "line 8" in found[0]
    assert len(data) == 6


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "has no images"),
        ("image,box\na,b\n", "line 1: is 'image,box', not 'ImageId,PredictionString'"),
        ("ImageId,PredictionString\n", "has no images; is it cut short"),
    ],
)
def test_files_that_are_no_tables(ilsvrc: Path, content: str, error: str) -> None:
    (ilsvrc.parent / "LOC_val_solution.csv").write_text(content)
    with pytest.raises(DataError, match=error):
        load(ilsvrc, "../LOC_val_solution.csv", "val")


def test_extras_need_xml_files(ilsvrc: Path) -> None:
    with pytest.raises(DataError, match="Kaggle's table has boxes alone"):
        load(ilsvrc, "../LOC_val_solution.csv", "val", extras=["truncated"])
    data = load(ilsvrc, SOURCES["val"][0], "val", extras=["truncated"])
    assert data.table.extras["truncated"].tolist() == [0] * 7
