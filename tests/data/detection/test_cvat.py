"""CVAT's XML: every shape, groups, projects with subsets, and videos."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.data.detection.annotated import read_images
from resdet.data.detection.outlines import BOX, POLYGON, RLE
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import DataError, Finding


def labels(*names: str) -> str:
    return f"<labels>{''.join(f'<label><name>{name}</name></label>' for name in names)}</labels>"


def write(folder: Path, body: str, meta: str = f"<task>{labels('dog', 'cat')}</task>") -> None:
    (folder / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta>{meta}</meta>{body}</annotations>"
    )


def images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)


def read(folder: Path) -> tuple[AnnotationTable, list[Finding]]:
    found = read_images(str(folder / "images"), str(folder / "annotations.xml"))
    return found.table, found.findings


def one(shapes: str, **attributes: str) -> str:
    values = {"id": "0", "name": "a.png", "width": "60", "height": "40"} | attributes
    text = " ".join(f'{key}="{value}"' for key, value in values.items())
    return f"<image {text}>{shapes}</image>"


BOX_SHAPE = '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" occluded="1"/>'


def test_every_shape_that_has_an_area(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    shapes = (
        f'<tag label="dog"/>{BOX_SHAPE}'
        '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<polygon label="cat" points="1.0,2.0;5.0,2.0;5.0,6.0"/>'
        '<ellipse label="cat" cx="30" cy="20" rx="8" ry="4" rotation="90.0"/>'
        '<mask label="dog" rle="1, 2, 1, 2" left="7" top="3" width="3" height="2"/>'
    )
    write(tmp_path, one(shapes))
    table, findings = read(tmp_path)
    assert not findings and table.class_names == ["dog", "cat"]  # the order of the file
    assert table.outlines is not None
    assert table.outlines.kinds.tolist() == [BOX, POLYGON, POLYGON, POLYGON, RLE]
    np.testing.assert_allclose(
        table.boxes_xywh,
        [[10, 10, 20, 10], [15, 5, 10, 20], [1, 2, 4, 4], [26, 12, 8, 16], [8, 3, 2, 2]],
        atol=1e-9,
    )
    pixels = np.zeros((40, 60), np.uint8)
    pixels[3, 8:10] = pixels[4, 8:10] = 1
    assert (coco_mask.decode(table.rles[4]) == pixels).all()


def test_boxes_are_turned_clockwise(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    write(tmp_path, one('<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="30"/>'))
    table, _ = read(tmp_path)
    assert table.outlines is not None
    corners = table.outlines.polygons(0)[0]
    # the left upper corner moves up and to the right: y points down
    np.testing.assert_allclose(corners[0], [20 - 10 * 3**0.5 / 2 + 2.5, 15 - 5 - 2.5 * 3**0.5])


def test_groups_join_outlines_and_not_boxes(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    polygon = '<polygon label="{}" points="{}" group_id="{}"/>'
    shapes = "".join(
        [
            polygon.format("dog", "1,2;5,2;5,6", 1),
            polygon.format("dog", "21,22;25,22;25,26", 1),
            polygon.format("cat", "21,22;25,22;25,26", 1),
            polygon.format("dog", "1,2;5,2;5,6", 0),  # in no group
            polygon.format("dog", "1,2;5,2;5,6", 0),
            *[BOX_SHAPE.replace("occluded", 'group_id="1" occluded')] * 2,
        ]
    )
    write(tmp_path, one(shapes))
    table, _ = read(tmp_path)
    assert len(table.labels) == 6
    assert table.boxes_xywh[0].tolist() == [1, 2, 24, 24]


def test_projects_with_subsets_and_several_tasks(tmp_path: Path) -> None:
    images(tmp_path, "Train/a.png", "Test/a.png", "b.png")
    tasks = f"<task>{labels('dog')}</task><task>{labels('cat', 'dog')}</task>"
    skeleton = "<label><name>pose</name></label><label><name>1</name><parent>pose</parent></label>"
    tasks += f"<task><labels>{skeleton}</labels></task>"
    body = one(BOX_SHAPE, subset="Train") + one(BOX_SHAPE, subset="Test")
    body += one(BOX_SHAPE, subset="Test", name="b.png")
    write(tmp_path, body, f"<project><tasks>{tasks}</tasks></project>")
    table, findings = read(tmp_path)
    assert not findings and table.class_names == ["dog", "cat", "pose"]
    assert list(table.file_names) == ["Train/a.png", "Test/a.png", "b.png"]
    without = read_annotations(tmp_path / "annotations.xml", [])
    assert list(without.file_names) == ["a.png", "Test/a.png", "b.png"]
    assert read_annotations(tmp_path, []).class_names == ["dog", "cat", "pose"]


def test_an_export_as_it_unpacks(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "Train/b.png")
    body = one(BOX_SHAPE, subset="default") + one(BOX_SHAPE, name="b.png", subset="Train")
    write(tmp_path, body)
    found = read_images(str(tmp_path), str(tmp_path))
    assert list(found.table.file_names) == ["images/a.png", "images/Train/b.png"]


def test_files_without_labels_and_sizes(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    body = re.sub(r'(width|height)="\d+"', "", one(BOX_SHAPE + BOX_SHAPE.replace("dog", "ape")))
    write(tmp_path, body, "")
    table, findings = read(tmp_path)
    assert not findings and table.class_names == ["ape", "dog"]
    assert table.sizes.tolist() == [[40, 60]]


VIDEO = (
    f"<task>{labels('dog')}<start_frame>4</start_frame><stop_frame>10</stop_frame>"
    "<frame_filter>step=2</frame_filter>"
    "<original_size><width>60</width><height>40</height></original_size></task>"
)


def track(*shapes: tuple[int, int], kind: str = "box") -> str:
    """A track of (frame, outside) whose box is its frame number in width."""
    values = 'xtl="1" ytl="2" xbr="{0}.0" ybr="20"' if kind == "box" else 'points="1,2;{0},2;3,20"'
    text = "".join(
        f'<{kind} frame="{frame}" outside="{outside}" keyframe="1" {values.format(frame + 1)}/>'
        for frame, outside in shapes
    )
    return f'<track id="{shapes[0][0]}" label="dog">{text}</track>'


def test_videos(tmp_path: Path) -> None:
    images(tmp_path, *(f"frame_{number:06d}.png" for number in range(12)))
    tracks = track((4, 0), (6, 0), (8, 1)) + track((8, 0), kind="polygon")
    write(tmp_path, tracks, VIDEO)
    table, findings = read(tmp_path)
    assert not findings
    # every second frame from 4 to 10, the last of them without an object
    assert list(table.file_names) == [f"frame_{number:06d}.png" for number in (4, 6, 8, 10)]
    assert table.image_of.tolist() == [0, 1, 2]
    assert table.boxes_xywh[:, 2].tolist() == [4, 6, 8]
    assert table.sizes.tolist() == [[40, 60]] * 4
    alone = read_annotations(tmp_path / "annotations.xml", [])
    assert alone.image_ids.tolist() == ["frame_000004", "frame_000006", "frame_000008"]


def test_videos_of_key_frames_alone_are_refused(tmp_path: Path) -> None:
    images(tmp_path, *(f"v_{number}.png" for number in range(12)))
    write(tmp_path, track((4, 0), (10, 0), (12, 1)), VIDEO)
    with pytest.raises(
        DataError, match=r"1 track\(s\) have shapes in their key frames only.*again"
    ):
        read(tmp_path)
    images(tmp_path, "w_4.png")
    with pytest.raises(DataError, match=r"v_4.png and w_4.png both end with the number of frame 4"):
        read(tmp_path)
