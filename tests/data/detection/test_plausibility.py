"""Boxes in another convention are noticed, on real annotations; honest ones are left alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.data.detection.annotated import read_images
from resdet.data.detection.plausibility import check_annotations, check_boxes, describe_boxes
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import DataError, Finding
from tests.data.make import annotation, dataset, write_coco

CORNERS = r"look like boxes given as corners \[x1, y1, x2, y2\]"
FRACTIONS = r"are within 0\.\.1: they look like fractions of their image"


def table_of(file: Path) -> AnnotationTable:
    return read_annotations(str(file), [], format="coco", outlines=False)


@pytest.fixture(scope="module")
def street(shared_data: Path) -> AnnotationTable:
    """166 objects in 26 photos of many sizes."""
    return table_of(shared_data / "coco128_inst" / "annotations" / "val.json")


def converted(table: AnnotationTable) -> dict[str, Any]:
    """The boxes of a table as other conventions have them."""
    x, y, w, h = table.boxes_xywh.T
    height, width = table.sizes[table.image_of].T
    xyxy = np.stack([x, y, x + w, y + h], 1)
    sides = np.stack([width, height, width, height], 1)
    return {
        "corners": xyxy,
        "corners, y first": xyxy[:, [1, 0, 3, 2]],
        "centers": np.stack([x + w / 2, y + h / 2, w, h], 1),
        "y, x, height, width": np.stack([y, x, h, w], 1),
        "fractions": table.boxes_xywh / sides,
        "YOLO": np.stack([x + w / 2, y + h / 2, w, h], 1) / sides,
        "fractions of corners": xyxy / sides,
        "percent": 100 * table.boxes_xywh / sides,
        "thousandths": 1000 * table.boxes_xywh / sides,
        "thousandths of corners": 1000 * xyxy / sides,
        "larger images": 3 * table.boxes_xywh,
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("corners", rf"^\d+ of 166 boxes pass the border of their image: they {CORNERS}$"),
        ("corners, y first", r"corners \[y1, x1, y2, x2\]$"),
        ("centers", r"given as \[center x, center y, width, height\]$"),
        ("y, x, height, width", r"given as \[y, x, height, width\]$"),
        ("fractions", rf"^all 166 boxes {FRACTIONS}$"),
        ("YOLO", rf"{FRACTIONS} given as \[center x, center y, width, height\]$"),
        ("fractions of corners", rf"{FRACTIONS} given as corners"),
        ("percent", r"^all 166 boxes look like percent of their image \(0\.\.100\)$"),
        ("thousandths", r"^all 166 boxes look like thousandths of their image \(0\.\.1000\)$"),
        ("thousandths of corners", r"thousandths .* given as corners \[x1, y1, x2, y2\]$"),
        ("larger images", r"of larger images \(edges reach 3\.0 × the width, 3\.0 × the height\)"),
    ],
)
def test_other_conventions_are_named(street: AnnotationTable, name: str, words: str) -> None:
    found = describe_boxes(converted(street)[name], street.sizes[street.image_of])
    assert found is not None
    assert re.search(words, " ".join(found)), found


@pytest.mark.parametrize(
    "file",
    [
        *(f"coco128_inst/annotations/{part}.json" for part in ("train", "val")),
        *(f"bccd/annotations/{part}.json" for part in ("train", "val")),
        *(f"nuclei_dsb2018_256/annotations/{part}.json" for part in ("train", "val")),
        "voc2012_100/annotations/instances.json",
        "eval_fixtures/instances_val2014_100.json",
        "eval_fixtures/lvis_val_100.json",
    ],
)
def test_real_annotations_and_parts_of_them_have_no_finding(shared_data: Path, file: str) -> None:
    table = table_of(shared_data / file)
    findings: list[Finding] = []
    check_annotations(table, findings)
    assert findings == []
    sizes, rng = table.sizes[table.image_of], np.random.default_rng(0)
    for count in (1, 3, 5, 12, 30):
        for _ in range(20):
            rows = rng.choice(len(sizes), min(count, len(sizes)), replace=False)
            assert describe_boxes(table.boxes_xywh[rows], sizes[rows], table.areas[rows]) is None


def test_odd_but_honest_boxes() -> None:
    sizes = np.tile([[480, 640]], (50, 1)).astype(np.int32)
    whole = np.tile([0.0, 0, 640, 480], (50, 1))
    assert describe_boxes(whole, sizes) is None
    # objects in one corner, of one size, and some that pass the border by a little
    corner = np.tile([10.0, 10, 60, 60], (50, 1))
    assert describe_boxes(corner, sizes) is None
    passing = np.tile([300.0, 200, 345, 285], (50, 1))
    assert describe_boxes(passing, sizes) is None
    # tiny images, and hardly any boxes
    assert describe_boxes(np.array([[0.0, 0, 1, 1]]), np.array([[4, 4]], np.int32)) is None
    assert describe_boxes(np.zeros((0, 4)), np.zeros((0, 2), np.int32)) is None
    two = np.array([[300.0, 200, 620, 470], [10, 10, 20, 20]])
    assert describe_boxes(two, sizes[:2]) is None


def test_areas_show_corners_that_stay_inside() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(5, 50, (6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (6, 2))], axis=1)
    sizes, areas = np.full((6, 2), 400, np.int32), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert describe_boxes(boxes, sizes, boxes[:, 2:].prod(axis=1)) is None
    found = describe_boxes(boxes, sizes, areas)
    assert found == ("all 6 boxes", "look like boxes given as corners [x1, y1, x2, y2]")


def test_each_file_is_looked_at_alone(tmp_path: Path) -> None:
    """One of two sources gives fractions, as 5 % of a file of both also would."""
    parts = []
    for name, box in (("pixels", [10, 10, 20, 20]), ("fractions", [0.1, 0.1, 0.2, 0.2])):
        objects = [annotation(id=k + 1, bbox=box, segmentation=None) for k in range(4)]
        parts.append(write_coco(tmp_path, objects, name=f"{name}.json"))
    read = read_images([p[0] for p in parts], [p[1] for p in parts])
    findings: list[Finding] = []
    check_boxes(read.table, findings)
    (found,) = findings
    assert found.file.endswith("fractions.json")
    assert str(found).endswith(
        "all 4 boxes are within 0..1: they look like fractions of their image; bbox is "
        "[x, y, width, height] in pixels: convert the boxes; they are used as they are"
    )


def test_the_cause_is_named_where_nothing_is_left(tmp_path: Path) -> None:
    objects = [annotation(id=k + 1, bbox=[200 + k, 300, 90, 90]) for k in range(6)]
    images, file = write_coco(tmp_path, objects)
    with pytest.raises(DataError, match=r"all 6 boxes .* look like boxes of larger images"):
        dataset(images, file, keep_empty=False, mask_size=None)


def test_one_file_listed_twice(tmp_path: Path) -> None:
    names = [{"id": k, "file_name": f, "height": 40, "width": 60}
             for k, f in ((1, "1.png"), (2, "2.png"), (3, "./1.png"))]  # fmt: skip
    objects = [annotation(id=k, image_id=k) for k in (1, 2, 3)]
    images, file = write_coco(tmp_path, objects, images=names)
    found = [str(each) for each in dataset(images, file).findings]
    assert len(found) == 1
    assert "image 3 (./1.png) has the file of image 1 (1.png); both are used" in found[0]
    # the same folder by another path, in two files
    (tmp_path / "link").symlink_to(images)
    data = dataset([images, str(tmp_path / "link")], [file, file])
    assert sum("has the file of" in str(each) for each in data.findings) == 4


def test_class_names_are_compared(tmp_path: Path) -> None:
    classes = [{"id": 3, "name": "racoon"}, {"id": 4, "name": "raccoon"}]
    images, file = write_coco(tmp_path, [annotation()], categories=classes)
    (found,) = dataset(images, file).findings
    assert "classes 'racoon' and 'raccoon' differ by one letter; they count as two" in str(found)
    with pytest.raises(DataError, match="racoon"):
        dataset(images, file, strict=True)
    assert json.loads(Path(file).read_text())["categories"] == classes
