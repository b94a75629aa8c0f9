"""Tables that are written and read again are equal, up to the rounding that the writers state; and
other readers find the same boxes in what was written."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from resdet.data.detection.annotated import read_images
from resdet.data.detection.outlines import BOX
from resdet.data.detection.readers import read_annotations, read_classes
from resdet.data.detection.table import OBJECT_FIELDS, AnnotationTable
from resdet.data.detection.writers import WRITERS
from resdet.data.detection.writers.layout import trace
from resdet.data.detection.writers.yolo import _join
from resdet.errors import UserError
from tests.data.make import annotation, write_coco

FORMATS = Path(__file__).resolve().parents[1] / "formats"


def twelve() -> AnnotationTable:
    return read_annotations(FORMATS / "coco.json", [])


def by_image(table: AnnotationTable) -> list[Any]:
    """(file, class, box) of the objects, in the order of file and class."""
    rows = zip(table.image_of, table.labels, table.boxes_xywh.round(3).tolist(), strict=True)
    return sorted((Path(table.file_names[i]).name, table.class_names[k], box) for i, k, box in rows)


def test_coco_keeps_everything(tmp_path: Path) -> None:
    lists = {"neg_category_ids": [7], "not_exhaustive_category_ids": [3]}
    images = [
        {"id": 5, "file_name": "1.png", "height": 40, "width": 60, **lists},
        {"id": 2, "file_name": "2.png", "height": 40, "width": 60, "neg_category_ids": []},
        {"id": 9, "file_name": "3.png"},
    ]
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30] = 1
    code = coco_mask.encode(np.asfortranarray(mask))
    objects = [
        annotation(id=4, image_id=5, difficult=1, weight=1.5),
        annotation(id=2, image_id=2, iscrowd=1, bbox=[0.1, 0.25, 1 / 3, 9], area=3.25),
        annotation(id=8, image_id=2, segmentation=code | {"counts": code["counts"].decode()}),
        annotation(id=9, image_id=2, segmentation=[], ignore=1, category_id=7),
    ]
    categories = [
        {"id": 7, "name": "dög", "frequency": "r"},
        {"id": 3, "name": "cat", "frequency": "f"},
    ]
    _, file = write_coco(tmp_path, objects, images=images, categories=categories)
    table = read_annotations(file, [], extras=["weight"])
    out = tmp_path / "out.json"
    assert WRITERS["coco"](table, out, None, "train") == []
    again = read_annotations(out, [], extras=["weight"])
    for field in (*OBJECT_FIELDS, "sizes"):
        np.testing.assert_array_equal(getattr(again, field), getattr(table, field))
    assert list(again.file_names) == list(table.file_names)
    assert again.image_ids == table.image_ids
    assert again.class_names == table.class_names and again.category_ids == table.category_ids
    assert again.class_extras == table.class_extras
    assert again.rles == table.rles
    np.testing.assert_array_equal(again.extras["weight"], table.extras["weight"])
    for key, lists_of in table.image_extras.items():
        assert [row.tolist() for row in again.image_extras[key]] == [r.tolist() for r in lists_of]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(str(out))
    assert theirs.anns[2]["bbox"] == objects[1]["bbox"]


def test_ids_that_are_names_are_numbered(tmp_path: Path) -> None:
    table = read_annotations(FORMATS / "voc", [])
    notes = WRITERS["coco"](table, tmp_path / "out.json", None, "train")
    assert notes == ["12 images are numbered from 1: their ids are names"]
    content = json.loads((tmp_path / "out.json").read_text())
    assert [image["id"] for image in content["images"]] == list(range(1, 13))
    assert by_image(read_annotations(tmp_path / "out.json", [])) == by_image(table)


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_twelve_images_come_back(tmp_path: Path, format: str) -> None:
    table, out = twelve(), tmp_path / "out"
    notes = WRITERS[format](table, out, str(FORMATS / "images"), "val")
    is_yolo = format == "yolo"
    assert notes == ([] if is_yolo else ["38 outlines are left out: VOC's XML has boxes only"])
    given = "data.yaml" if is_yolo else "ImageSets/Main/val.txt"
    images = out / ("." if is_yolo else "JPEGImages")
    read = read_images(str(images), str(out / given), key="data.val")
    assert read.findings == []
    assert by_image(read.table) == by_image(table)
    np.testing.assert_array_equal(read.table.sizes, table.sizes)
    assert read.table.class_names == table.class_names
    if is_yolo:
        ours = dict(zip(map(str, by_image(read.table)), read.table.rles, strict=True))
        assert len(ours) == 38
        assert sorted(rle["counts"] for rle in read.table.rles) == sorted(
            rle["counts"] for rle in table.rles
        )


def test_twelve_images_come_back_from_labelme(tmp_path: Path) -> None:
    """Polygons to a thousandth of a pixel; the files lead to the images by relative paths."""
    table, out = twelve(), tmp_path / "out"
    assert WRITERS["labelme"](table, out, str(FORMATS / "images"), "val") == []
    read = read_images(str(FORMATS / "images"), str(out))
    assert read.findings == []
    ours, theirs = by_image(read.table), by_image(table)
    assert [each[:2] for each in ours] == [each[:2] for each in theirs]
    np.testing.assert_allclose([b for *_, b in ours], [b for *_, b in theirs], atol=0.002)
    np.testing.assert_array_equal(read.table.sizes, table.sizes)
    for file in out.rglob("*.json"):
        assert (file.parent / json.loads(file.read_text())["imagePath"]).is_file()


def test_what_labelme_can_not_hold(tmp_path: Path) -> None:
    table = odd_objects(tmp_path)
    notes = WRITERS["labelme"](table, tmp_path / "labelme", None, "train")
    assert notes == [
        "1 crowd regions are left out: LabelMe has none",
        "1 boxes without extent in the image are left out",
        "1 boxes are clipped to their image",
        "1 masks become polygons along their pixels",
        "1 masks lose their holes",
        "1 objects lose their mark as difficult: LabelMe has none",
        "1 objects lose their mark as ignored: LabelMe has none",
        "difficult of 7 objects is left out: LabelMe has no such values",
    ]
    read = read_images(str(tmp_path / "images"), str(tmp_path / "labelme"))
    two = coco_mask.decode(read.table.rles[1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(two, coco_mask.decode(table.rles[3]))  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_hotcoco_reads_the_same_boxes(tmp_path: Path, format: str) -> None:
    table, out = twelve(), tmp_path / "out"
    table = read_annotations(FORMATS / "coco.json", [], outlines=False)
    WRITERS[format](table, out, str(FORMATS / "images"), "train")
    if format == "voc":
        theirs = hotcoco.COCO.from_voc(str(out))
    else:
        shutil.copy(out / "data.yaml", out / "labels" / "data.yaml")
        theirs = hotcoco.COCO.from_yolo(str(out / "labels"), str(out / "images"))
    content = theirs.dataset
    image_of = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    name_of = {entry["id"]: entry["name"] for entry in content["categories"]}
    boxes = sorted(
        (image_of[one["image_id"]], name_of[one["category_id"]], np.round(one["bbox"], 3).tolist())
        for one in content["annotations"]
    )
    ours = [(Path(file).stem, name, box) for file, name, box in by_image(table)]
    assert boxes == sorted(ours)


def odd_objects(tmp_path: Path) -> AnnotationTable:
    """A crowd, a box past the border and one outside, two parts, a mask with a hole, fractions."""
    ring = np.zeros((40, 60), np.uint8)
    ring[5:20, 5:25] = 1
    ring[10:15, 10:20] = 0
    code = coco_mask.encode(np.asfortranarray(ring))["counts"].decode()
    hollow = {"size": [40, 60], "counts": code}
    two = [[1.0, 1, 9, 1, 9, 9], [20.0, 20, 30, 20, 30, 30, 20, 30]]
    objects = [
        annotation(id=1, iscrowd=1),
        annotation(id=2, bbox=[-4, 10, 20, 45], segmentation=None),
        annotation(id=3, bbox=[70, 10, 20, 20], segmentation=None),
        annotation(id=4, bbox=[1, 1, 29, 29], segmentation=two, difficult=1),
        annotation(id=5, bbox=[5, 5, 20, 15], segmentation=hollow),
        annotation(id=6, bbox=[10.4, 10.6, 20.3, 0.1], segmentation=None, ignore=1),
        annotation(id=7, bbox=[0, 0, 30, 30]),
    ]
    _, file = write_coco(tmp_path, objects)
    return read_annotations(file, [], extras=["difficult"])


def test_what_voc_can_not_hold(tmp_path: Path) -> None:
    table = odd_objects(tmp_path)
    notes = WRITERS["voc"](table, tmp_path / "voc", None, "train")
    assert notes == [
        "1 crowd regions are left out: VOC has none",
        "1 boxes without extent in the image are left out",
        "1 boxes are clipped to their image",
        "1 boxes are rounded to whole pixels",
        "4 outlines are left out: VOC's XML has boxes only",
        "1 objects lose their mark as ignored: VOC has none",
        "difficult of 7 objects is left out: VOC has no such values",
    ]
    again = read_annotations(tmp_path / "voc" / "Annotations", [])
    assert again.boxes_xywh.tolist() == [
        *([0, 10, 16, 30], [1, 1, 29, 29], [5, 5, 20, 15], [10, 10, 21, 1], [0, 0, 30, 30])
    ]
    assert again.difficult.tolist() == [False, True, False, False, False]


def test_what_yolo_can_not_hold(tmp_path: Path) -> None:
    table = odd_objects(tmp_path)
    notes = WRITERS["yolo"](table, tmp_path / "yolo", None, "train")
    assert notes == [
        "1 crowd regions are left out: YOLO has none",
        "1 boxes without extent in the image are left out",
        "1 boxes are clipped to their image",
        "1 masks become polygons along their pixels",
        "1 outlines of several parts are joined by lines without width",
        "1 masks lose their holes",
        "1 boxes move by over half a pixel: they become the extent of their polygons",
        "1 objects lose their mark as difficult: YOLO has none",
        "1 objects lose their mark as ignored: YOLO has none",
        "difficult of 7 objects is left out: YOLO has no such values",
    ]
    read = read_images(str(tmp_path / "images"), str(tmp_path / "yolo" / "labels"))
    np.testing.assert_allclose(
        read.table.boxes_xywh,
        [
            [0, 10, 16, 30],
            [1, 1, 29, 29],
            [5, 5, 20, 15],
            [10.4, 10.6, 20.3, 0.1],
            [10, 10, 20, 20],
        ],
        atol=1e-5,
    )
    joined = coco_mask.decode(read.table.rles[1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(joined, coco_mask.decode(table.rles[3]))  # type: ignore[arg-type]
    assert coco_mask.decode(read.table.rles[2]).sum() == 15 * 20  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "categories", "error"),
    [
        (["a.png", "a.jpg"], ["cat"], "image 2 (a.jpg): would have the same annotation file as"),
        (["../a.png"], ["cat"], "image 1 (../a.png): has no file name below a folder"),
        (["/a.png"], ["cat"], "has no file name below a folder"),
        ([""], ["cat"], "has no file name below a folder"),
        (["a\nb.png"], ["cat"], "has no file name below a folder"),
        (["a.png"], ["c\nat"], "the format can't hold this name; rename the class"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("format", ["labelme", "voc", "yolo"])
def test_names_that_files_can_not_have(
    tmp_path: Path, images: list[str], categories: list[str], error: str, format: str
) -> None:
    content: dict[str, Any] = {
        "images": [{"id": k, "file_name": name, "height": 40, "width": 60}
                   for k, name in enumerate(images, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
        "annotations": [],
    }  # fmt: skip
    table = read_annotations(content, [])
    with pytest.raises(UserError) as caught:
        WRITERS[format](table, tmp_path / "out", None, "train")
    assert error in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_traced_masks_are_the_masks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        blob = np.zeros((30, 40), np.uint8)
        for _ in range(3):
            y, x, h, w = rng.integers([0, 0, 1, 1], [24, 34, 12, 12])
            blob[y : y + h, x : x + w] = 1
        code = coco_mask.encode(np.asfortranarray(blob))["counts"].decode()
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [
                annotation(category_id=1, segmentation={"size": [30, 40], "counts": code})
            ],
        }
        parts, holes = trace(read_annotations(content, []), 0)
        whole = parts[0]
        for part in parts[1:]:
            whole = _join(whole, part)
        rles = coco_mask.frPyObjects([whole.reshape(-1).tolist()], 30, 40)
        drawn = coco_mask.decode(rles)[:, :, 0]
        if not holes:
            np.testing.assert_array_equal(drawn, blob)
        else:
            assert (drawn >= blob).all()


def boxes_of(table: AnnotationTable) -> dict[str, list[list[float]]]:
    """By image the boxes of single objects, in their order."""
    boxes: dict[str, list[list[float]]] = {name: [] for name in table.file_names}
    single = np.flatnonzero(~table.crowd)
    for image, box in zip(table.image_of[single], table.boxes_xywh[single].tolist(), strict=True):
        boxes[table.file_names[image]].append(box)
    return boxes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bccd", "coco128_inst", "voc2012_100"])
def test_real_sets_come_back(tmp_path: Path, shared_data: Path, name: str) -> None:
    folder = shared_data / name
    files = [f for f in sorted((folder / "annotations").glob("*.json")) if "det" not in f.name]
    assert files
    images = str(folder / "images")
    for file in files:
        table = read_images(images, str(file), outlines=False).table
        expected = boxes_of(table)
        for format, given, tolerance in (
            ("voc", "ImageSets/Main/train.txt", 1.0),  # half a pixel per side
            ("yolo", "data.yaml", 0.001),
        ):
            out = tmp_path / f"{file.stem}_{format}"
            notes = " ".join(WRITERS[format](table, out, images, "train"))
            own = str(out / "JPEGImages") if format == "voc" else str(out)
            again = boxes_of(read_images(own, str(out / given), key="data.train").table)
            found = {Path(file).name: boxes for file, boxes in again.items()}
            assert found.keys() == expected.keys()
            if "clipped" not in notes and "without extent" not in notes:
                for image, boxes in expected.items():
                    ours = np.array(found[image]).reshape(-1, 4)
                    np.testing.assert_allclose(ours, np.reshape(boxes, (-1, 4)), atol=tolerance)
        masks = read_images(images, str(file)).table
        if masks.outlines is not None and masks.has_masks:
            out = tmp_path / f"{file.stem}_masks"
            WRITERS["yolo"](masks, out, images, "train")
            again_masks = read_images(str(out), str(out / "data.yaml"), key="data.train").table
            assert again_masks.outlines is not None
            drawn = int((again_masks.outlines.kinds != BOX).sum())
            assert drawn >= 0.99 * int((~masks.crowd & (masks.outlines.kinds != BOX)).sum())


def test_small_boxes_at_the_border_stay_inside(tmp_path: Path) -> None:
    boxes = [[59.6, 1, 0.4, 5], [0, 39.7, 9, 0.3], [0.2, 0.2, 0.2, 0.2], [3.6, 3, 6.4, 7]]
    objects = [annotation(id=k, bbox=box) for k, box in enumerate(boxes, 1)]
    _, source = write_coco(tmp_path, objects)
    WRITERS["voc"](read_annotations(source, []), tmp_path / "voc", None, "train")
    back = read_annotations(tmp_path / "voc/Annotations", [])
    assert back.boxes_xywh.tolist() == [[59, 1, 1, 5], [0, 39, 9, 1], [0, 0, 1, 1], [4, 3, 6, 7]]


def test_yaml_keeps_names_of_classes(tmp_path: Path) -> None:
    names = ["😀 👩\u200d🚀", "caf\u00e9: \\u00e9", 'a "b" #c', "no"]
    for first in (0, 2):
        folder = tmp_path / str(first)
        named = dataclasses.replace(twelve(), class_names=names[first : first + 2])
        WRITERS["yolo"](named, folder, str(FORMATS / "images"), "train")
        assert read_classes(str(folder / "data.yaml"), "yolo", None)[0] == named.class_names


def test_long_outlines_are_joined_at_their_closest_points(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], np.float64)
    part = whole + np.array([20, 3])
    expected = _join(whole, part)
    monkeypatch.setattr("resdet.data.detection.writers.yolo.MOST_PAIRS", 1)
    np.testing.assert_array_equal(_join(whole, part), expected)
