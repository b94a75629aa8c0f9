"""LabelMe's JSON: every shape, groups, how images are found, and what other versions write."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.data.detection.annotated import read_images
from resdet.data.detection.checks import check_presence
from resdet.data.detection.outlines import BOX, POLYGON, RLE
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import DataError, Finding

SQUARE = [[1.0, 2.0], [11.0, 2.0], [11.0, 12.0], [1.0, 12.0]]


def shape(
    label: str = "dog", kind: str | None = "polygon", points: Any = SQUARE, **more: Any
) -> Any:
    return {"label": label, "shape_type": kind, "points": points, **more}


def write(folder: Path, name: str, shapes: list[Any], **more: Any) -> None:
    """photo NAME.png of 60×40 pixels in images/, and NAME.json in labels/."""
    path = folder / "labels" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"imagePath": f"{name}.png", "imageHeight": 40, "imageWidth": 60, "shapes": shapes}
    path.write_text(json.dumps({k: v for k, v in (content | more).items() if v != "absent"}))
    image = folder / "images" / f"{name}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(image)


def read(folder: Path, **options: Any) -> tuple[AnnotationTable, list[Finding]]:
    found = read_images(str(folder / "images"), str(folder / "labels"), **options)
    return check_presence(found.table, found.folders, found.findings), found.findings


def png(bitmap: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.array(bitmap, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_every_shape_that_has_an_area(tmp_path: Path) -> None:
    bitmap = [[0, 255, 255], [255, 255, 0]]
    shapes = [
        shape(),
        shape("cat", "rectangle", [[30, 20], [20, 5]]),
        shape("cat", "circle", [[30.0, 20.0], [30.0, 26.0]]),
        shape("cat", "mask", [[10, 7], [12, 8]], mask=png(bitmap)),
        shape("cat", "rotation", [[20, 10], [25, 15], [20, 20], [15, 15]]),
        shape("cat", None, SQUARE),  # versions before 3.16 write no type
    ]
    write(tmp_path, "a", shapes)
    table, findings = read(tmp_path)
    assert not findings and table.class_names == ["cat", "dog"]
    assert table.outlines is not None
    assert table.outlines.kinds.tolist() == [POLYGON, BOX, POLYGON, RLE, POLYGON, POLYGON]
    np.testing.assert_allclose(
        table.boxes_xywh,
        [
            [1, 2, 10, 10],
            [20, 5, 10, 15],
            [24, 14, 12, 12],
            [10, 7, 3, 2],
            [15, 10, 10, 10],
            [1, 2, 10, 10],
        ],
        atol=1e-9,
    )
    assert table.areas[0] == 100 and table.areas[3] == 4
    circle = table.outlines.polygons(2)[0] - (30, 20)
    sides = circle + np.diff(circle, axis=0, append=circle[:1]) / 2
    assert np.hypot(*sides.T).min() > 6 - 0.05  # the stated error
    full = np.zeros((40, 60), np.uint8)
    full[7:9, 10:13] = np.array(bitmap) > 0
    assert (coco_mask.decode(table.rles[3]) == full).all()


def test_groups_are_one_object(tmp_path: Path) -> None:
    far = [[20.0, 20.0], [30.0, 20.0], [30.0, 30.0]]
    shapes = [
        shape(group_id=1),
        shape(points=far, group_id=1),
        shape("cat", points=far, group_id=1),  # of another label
        shape("cat", "rectangle", [[40, 5], [50, 9]], group_id="x"),
        shape("cat", "rectangle", [[44, 7], [55, 30]], group_id="x"),
        shape("cat", points=far, group_id=2),
        shape("cat", "mask", [[0, 0], [1, 0]], mask=png([[1, 1]]), group_id=2),
    ]
    write(tmp_path, "a", shapes)
    write(tmp_path, "b", [shape(group_id=1)])  # another image
    table, _ = read(tmp_path)
    assert table.outlines is not None
    assert table.image_of.tolist() == [0, 0, 0, 0, 1]
    assert [table.class_names[label] for label in table.labels] == [
        "dog",
        "cat",
        "cat",
        "cat",
        "dog",
    ]
    assert table.boxes_xywh[:4].tolist() == [
        [1, 2, 29, 28],
        [20, 20, 10, 10],
        [40, 5, 15, 25],
        [0, 0, 30, 30],
    ]
    assert table.outlines.kinds.tolist() == [POLYGON, POLYGON, BOX, RLE, POLYGON]
    assert len(table.outlines.polygons(0)) == 2
    whole = coco_mask.decode(table.rles[3])
    assert whole[0, :2].tolist() == [1, 1] and whole[21, 28] == 1


@pytest.mark.parametrize(
    ("image_path", "json_name", "image_name"),
    [
        ("..\\images\\a.png", "a", "a.png"),
        ("C:\\Users\\me\\shots\\a.png", "a", "a.png"),
        ("../../elsewhere/a.png", "a", "a.png"),
        ("a.jpg", "a", "a.png"),  # converted since
        ("renamed.png", "a", "a.png"),  # the JSON file was renamed with the image
        (None, "a", "a.png"),
        ("../images/deep/a.png", "x", "deep/a.png"),
    ],
)
def test_how_images_are_found(
    tmp_path: Path, image_path: str | None, json_name: str, image_name: str
) -> None:
    write(tmp_path, json_name, [shape()], imagePath="absent" if image_path is None else image_path)
    (tmp_path / "images" / f"{json_name}.png").rename(tmp_path / "moved.png")
    target = tmp_path / "images" / image_name
    target.parent.mkdir(exist_ok=True)
    (tmp_path / "moved.png").rename(target)
    table, findings = read(tmp_path)
    assert list(table.file_names) == [image_name]
    assert not findings


def test_files_beside_images_and_by_one_path(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape()], imagePath="..\\images\\a.png")
    shutil.copy(tmp_path / "labels" / "a.json", tmp_path / "images" / "a.json")
    for folder in (tmp_path / "images", tmp_path):  # both files in one folder, or folders in one
        if folder == tmp_path:
            (tmp_path / "images" / "a.json").unlink()
        found = read_images(str(folder), str(folder))
        name = "a.png" if folder != tmp_path else "images/a.png"
        assert not found.findings and list(found.table.file_names) == [name]


def test_folders_in_folders_and_one_file(tmp_path: Path) -> None:
    write(tmp_path, "one/a", [shape()])
    write(tmp_path, "two/a", [shape("cat")], imagePath="a.png")
    table, findings = read(tmp_path)
    assert not findings
    assert table.image_ids.tolist() == ["one/a", "two/a"]
    assert list(table.file_names) == ["one/a.png", "two/a.png"]
    alone = read_annotations(tmp_path / "labels" / "one" / "a.json", [])
    assert alone.image_ids.tolist() == ["a"] and alone.class_names == ["dog"]
    with pytest.raises(DataError, match="no JSON file in it; give the folder of LabelMe's files"):
        read_annotations(tmp_path / "images", [], format="labelme")


def test_sizes_that_are_missing_are_read(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape()], imageHeight="absent", imageWidth=None)
    table, findings = read(tmp_path)
    assert not findings and table.sizes.tolist() == [[40, 60]] and table.areas.tolist() == [100]


def test_what_other_tools_write(tmp_path: Path) -> None:
    pixels = base64.b64encode(b"x" * 10_000).decode()
    shapes = [shape(5, points=SQUARE), shape("__ignore__"), shape("  dog ", group_id="")]
    write(tmp_path, "a", shapes, imageData=pixels)
    path = tmp_path / "labels" / "a.json"
    content = json.loads(path.read_text())
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content, sort_keys=True).encode())
    table, findings = read(tmp_path)  # recognised, although imageData comes first
    assert table.class_names == ["5", "dog"]
    assert [finding.what for finding in findings] == ["is __ignore__"]
    path.write_text(json.dumps(content), encoding="utf-16")
    assert read(tmp_path, format="labelme")[0].class_names == ["5", "dog"]


def test_classes_of_the_config_are_added(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape()])
    table, findings = read(tmp_path, classes=["dog", "cat"])
    assert table.class_names == ["dog", "cat"]
    assert "class 'cat' is in data.classes, but no object has it" in str(findings[0])


def test_no_file_is_labelmes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match=r"no file in it is LabelMe's JSON: .*no list of shapes"):
        read_annotations(tmp_path, [], format="labelme")


def test_whole_numbers_without_end(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape(points=[[10**400, 1], [2, 2], [3, 1]]), shape()])
    table, findings = read(tmp_path)
    assert len(table.labels) == 1 and len(findings) == 1
    assert not math.isinf(table.boxes_xywh.max())


def test_names_that_no_file_has(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape()], imagePath="x\0y/b.png")
    (tmp_path / "images/a.png").rename(tmp_path / "images/c.png")
    table, findings = read(tmp_path)
    assert not len(table.image_ids)
    assert "has no file in" in str(findings[0])


def test_coco_may_speak_of_shapes(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    category = {"id": 1, "name": "dog", "supercategory": "shapes"}
    image = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}
    file.write_text(json.dumps({"categories": [category], "images": [image], "annotations": []}))
    assert read_annotations(file, []).class_names == ["dog"]
