"""Tables of boxes: their columns, what rows may hold, classes, sizes and parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.data.detection.annotated import AnnotatedImages, read_images
from resdet.data.detection.readers import read_annotations, read_classes
from resdet.files.findings import DataError
from tests.data.make import dataset

HEADER = "image,x1,y1,x2,y2,class\n"
ROW = "a.png,10,5,30,25,dog\n"
XYWH = [10.0, 5.0, 20.0, 20.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images a, b and c of 60×40 in photos."""
    (tmp_path / "photos").mkdir()
    for name in "abc":
        Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(tmp_path / f"photos/{name}.png")
    return tmp_path


def load(folder: Path, text: str | bytes, name: str = "t.csv", **options: Any) -> AnnotatedImages:
    content = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(content)
    return read_images(str(folder / "photos"), str(folder / name), **options)


def found(read: AnnotatedImages) -> str:
    return "\n".join(map(str, read.findings))


@pytest.mark.parametrize(
    "text",
    [
        HEADER + ROW,
        ROW,
        b"\xef\xbb\xbf" + (HEADER + ROW).encode(),
        (HEADER + ROW).encode("utf-16"),
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,60,40,dog,10,5,30,25\n",
        "Image Path;X_Min;Y_Min;X_Max;Y_Max;Label\r\n'a.png';10;5;30;25;dog\r\n".replace("'", '"'),
        "label\tleft\ttop\tright\tbottom\tfile\ndog\t10\t5\t3e1\t25.0\ta.png\n",
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
        "dog,10,5,20,20,a.png,60,40\n",
        "image_id,category_id,category_name,x,y,w,h\na,7,dog,10,5,20,20\n",
        "image, x1, y1, x2, y2, class, score\n\nphotos/a.png, 10, 5, 30, 25, dog, .5\n\n",
        "photos\\a.png,10,5,30,25,dog\n",
        "sep=;\r\nimage;x1;y1;x2;y2;class\r\na.png;10;5;30;25;dog\r\n",
        '\ufeff"sep=,"\n' + HEADER + ROW,
        "SEP=|\n" + (HEADER + ROW).replace(",", "|"),
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"
        f"a,x,dog,1,{10 / 60},.5,.125,.625,-1,0\n",
        f"image,xmin_norm,ymin_norm,xmax_norm,ymax_norm,class\na.png,{10 / 60},.125,.5,.625,dog\n",
    ],
)
def test_columns_by_their_names(folder: Path, text: str | bytes) -> None:
    read = load(folder, text)
    table = read.table
    assert found(read) == ""
    assert list(table.file_names) == ["a.png"]
    np.testing.assert_allclose(table.boxes_xywh, [XYWH], atol=1e-6)
    assert (table.class_names, table.labels.tolist()) == (["dog"], [0])
    assert table.sizes.tolist() == [[40, 60]]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("b.png,10,x,30,25,cat", "has x1 '10', y1 'x', x2 '30', y2 '25', not four numbers"),
        ("b.png,10,,30,25,cat", "y1 '', x2 '30', y2 '25', not four numbers"),
        ("b.png,1_0,5,30,25,cat", "not four numbers"),
        ("b.png,inf,5,30,25,cat", "not four numbers"),
        ("b.png,10,5,1e12,25,cat", "not four numbers"),
        ("b.png,30,5,10,25,cat", "has x1 '30', y1 '5', x2 '10', y2 '25', in the wrong order"),
        ("b.png,10,5,30,25,", "has a box and no class"),
        ("b.png,,,,,cat", "has a class and no box"),
    ],
)
def test_rows_that_are_no_objects(folder: Path, row: str, what: str) -> None:
    read = load(folder, f"{HEADER}{ROW}{row}\na.png,1,2\n{ROW}")
    first, second = map(str, read.findings)
    texts = (first, second)
    assert any(f"line 3 {what}" in text or (what in text and "line 3" in text) for text in texts)
    assert any("line 4 has 3 cells, and the table 6 columns" in text for text in texts)
    assert list(read.table.file_names) == ["a.png", "b.png"]
    assert len(read.table.labels) == 2


def test_images_without_objects(folder: Path) -> None:
    read = load(folder, f"{ROW}b.png,,,,,\nc.png,,,,,\nc.png,1,2,3,4,cat\n")
    assert found(read) == ""
    assert list(read.table.file_names) == ["a.png", "b.png", "c.png"]
    assert read.table.image_of.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is empty; write one row per object: image, x1, y1"),
        ("image,x1,y1,x2,class\na,1,2,3,b\n", "no column y2 (there are image, x1, y1, x2, class)"),
        ("image_id,width,height,bbox,source\n", "no column class and no x1 and no y1"),
        ("a.png,1,2,3,4\n", "no column image and no class"),
        ("image,x_center,y_center,width,height,class\n", "no column x1 and no y1 and no x2"),
        ("image,x1_norm,y1,x2,y2,class\n", "some columns of the box are named as fractions"),
        (HEADER + ",1,2,3,4,dog\n", "line 2: names no image; every row has one"),
        (HEADER + "a.png,,,,,\n", "no row has a class; fill in that column"),
        ("a\0b", "is not text; give a table with commas"),
        (f"image,{'x' * 200_000},x1\n", "line 1: can't be read (field larger than"),
    ],
)
def test_tables_that_can_not_be_used(folder: Path, text: str, error: str) -> None:
    with pytest.raises(DataError) as caught:
        load(folder, text)
    assert error in str(caught.value)
    assert str(folder / "t.csv") in str(caught.value)


def test_classes(folder: Path) -> None:
    rows = [f"a.png,{k},1,9,9,{name}\n" for k, name in enumerate(["10", "9", "cat", "2"])]
    table = load(folder, "".join(rows)).table
    assert table.class_names == ["2", "9", "10", "cat"]
    assert table.category_ids == [1, 2, 3, 4]
    read = load(folder, ROW, classes=["dog", "cat"])
    assert read.table.class_names == ["dog", "cat"]
    assert "class 'cat' is in data.classes, but in no row" in found(read)
    (folder / "classes.csv").write_text("zebra,0\ndog,3\ncat,1\n")
    read = load(folder, ROW + ROW.replace("dog", "cow"))
    assert (read.table.class_names, read.table.category_ids) == (["zebra", "cat", "dog"], [0, 1, 3])
    assert read.table.labels.tolist() == [2]
    assert "classes cow are not in the table of classes; their objects" in found(read)
    assert read_classes(str(folder / "t.csv"), None, None)[0] == ["zebra", "cat", "dog"]
    (folder / "classes.csv").write_text("/m/0bt9lr,Dog\n/m/01yrx,Cat\n")
    assert load(folder, ROW.replace("dog", "/m/01yrx")).table.class_names == ["Dog", "Cat"]


@pytest.mark.parametrize(
    ("classes", "named", "names", "ids"),
    [
        ("name,id\ndog,0\ncat,1\n", "dog", ["dog", "cat"], [0, 1]),
        ("Class ID,Class Name\n7,dog\n8,cat\n", "7", ["dog", "cat"], [1, 2]),
        ("LabelName,DisplayName\n/m/1,Cat\n/m/2,Dog\n", "/m/2", ["Cat", "Dog"], [1, 2]),
        ("name,1\nlabel,2\n", "label", ["name", "label"], [1, 2]),
    ],
)
def test_tables_of_classes_with_a_header(
    folder: Path, classes: str, named: str, names: list[str], ids: list[int]
) -> None:
    (folder / "classes.csv").write_text(classes)
    table = load(folder, HEADER + ROW.replace("dog", named)).table
    assert (table.class_names, table.category_ids) == (names, ids)
    assert len(table.labels) == 1


def test_sizes_and_further_columns(folder: Path) -> None:
    header = HEADER.replace("class", "class,width,height,difficult,crowd,age")
    rows = ["a.png,1,2,3,4,dog,60,40,0,0,1.5\n", "a.png,1,2,3,4,dog,50,40,1,TRUE,\n",
            "b.png,1,2,3,4,dog,,,maybe,,old\n"]  # fmt: skip
    read = load(folder, header + "".join(rows), extras=["age"])
    table, text = read.table, found(read)
    assert table.sizes.tolist() == [[40, 60], [40, 60]]
    assert table.measured is not None
    assert table.measured.tolist() == [False, True]
    assert table.difficult.tolist() == [False, True, False]
    assert table.crowd.tolist() == [False, True, False]
    assert table.extras["age"].tolist() == [1.5, 0, 0]
    assert "line 3 (a.png) has another size than the image has before; the first" in text
    assert "line 4 has difficult 'maybe', not 0 or 1; 0 is taken" in text
    assert "line 4 has age 'old', not a number" in text
    with pytest.raises(DataError, match=r"data\.extras: weight: no annotation has this key"):
        load(folder, header + rows[0], extras=["weight"])
    load(folder, header + "".join(rows))
    assert read_annotations(folder / "t.csv", []).sizes.tolist() == [[40, 60], [0, 0]]


def test_parts(folder: Path) -> None:
    rows = ["a.png,1,2,3,4,dog,TRAIN\n", "b.png,1,2,3,4,dog,Validation\n", "c.png,,,,,,train\n"]
    text = HEADER.replace("class", "class,split") + "".join(rows)
    assert list(load(folder, text, key="data.train").table.file_names) == ["a.png", "c.png"]
    assert list(load(folder, text, key="data.val").table.file_names) == ["b.png"]
    assert len(load(folder, text).table.file_names) == 3
    with pytest.raises(DataError, match=r"no row of val, only of train"):
        load(folder, text.replace("Validation", "train"), key="data.val")
    other = text.replace("TRAIN", "night")
    assert len(load(folder, other, key="data.val").table.file_names) == 3


def test_a_folder_with_one_table(folder: Path) -> None:
    (folder / "photos" / "_annotations.csv").write_text(ROW)
    (folder / "photos" / "_classes.csv").write_text("dog,0\n")
    data = dataset(str(folder / "photos"), str(folder / "photos"), mask_size=None, strict=True)
    assert data.table.category_ids == [0]
    listed = folder / "boxes.txt"
    listed.write_text(ROW)
    assert len(dataset(str(folder / "photos"), str(listed), mask_size=None)) == 1


def test_fractions_of_images_under_another_name(folder: Path) -> None:
    (folder / "t.csv").write_text(
        "image,rel_x1,rel_y1,rel_x2,rel_y2,class\nA.PNG,0.5,0.5,1,1,dog\nb.png,0.5,0.5,1,1,dog\n"
    )
    data = dataset(str(folder / "photos"), str(folder / "t.csv"), mask_size=None)
    assert list(data.table.file_names) == ["a.png", "b.png"]
    assert data.table.boxes_xywh.tolist() == [[30, 20, 30, 20]] * 2
