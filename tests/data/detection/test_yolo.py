"""YOLO data sets in the layouts of the tools that write them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.data.detection.annotated import AnnotatedImages, read_images
from resdet.data.detection.readers import read_annotations, read_classes
from resdet.files.findings import DataError
from tests.data.make import dataset

WIDTH, HEIGHT = 60, 40
BOX = "0 0.5 0.5 0.2 0.4\n"
BOX_XYWH = [24.0, 12.0, 12.0, 16.0]
POLYGON = "1 0.1 0.1 0.3 0.1 0.3 0.5\n"
NAMES = "names: [cat, no]\n"


def write(root: Path, files: Mapping[str, str | bytes | None]) -> str:
    """Writes texts and bytes, and a gray image of 60×40 for None."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 99, np.uint8)).save(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def load(root: Path, annotations: str, images: str = ".", key: str = "data.train") -> Any:
    return read_images(str(root / images), str(root / annotations), key=key)


def found(read: AnnotatedImages, root: Path) -> str:
    return "\n".join(map(str, read.findings)).replace(f"{root}/", "")


@pytest.fixture
def roboflow(tmp_path: Path) -> Path:
    """An export as it unpacks: data.yaml's paths start one folder too high."""
    files: dict[str, str | None] = {"README.roboflow.txt": "hello", "README.dataset.txt": "0"}
    files["data.yaml"] = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['cat', no]\n\nroboflow:\n  workspace: here\n  version: 3\n"
    )
    for part in ("train", "valid", "test"):
        for stem, label in (("a_jpg.rf.0a1b", BOX + POLYGON), ("b_png.rf.2c3d", ""), ("c", None)):
            files[f"{part}/images/{part}_{stem}.jpg"] = None
            if label is not None:
                files[f"{part}/labels/{part}_{stem}.txt"] = label
    write(tmp_path, files)
    return tmp_path


@pytest.mark.parametrize(("key", "part"), [("train", "train"), ("val", "valid")])
@pytest.mark.parametrize("annotations", ["data.yaml", "."])
def test_roboflow_as_it_unpacks(roboflow: Path, key: str, part: str, annotations: str) -> None:
    read = load(roboflow, annotations, key=f"data.{key}")
    table = read.table
    assert table.class_names == ["cat", "no"]
    assert table.category_ids == [0, 1]
    stems = ("a_jpg.rf.0a1b", "b_png.rf.2c3d", "c")
    assert list(table.file_names) == [f"{part}/images/{part}_{stem}.jpg" for stem in stems]
    assert table.sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    np.testing.assert_allclose(table.boxes_xywh, [BOX_XYWH, [6, 4, 12, 16]])
    assert table.labels.tolist() == [0, 1]
    assert table.image_of.tolist() == [0, 0]
    assert table.outlines is not None
    np.testing.assert_allclose(table.outlines.polygons(1)[0], [[6, 4], [18, 4], [18, 20]])
    assert found(read, roboflow) == (
        f"{annotations}: 1 of 2 objects are boxes among polygons; training takes the box as mask, "
        "evaluation of masks counts it as missed"
    ).replace(".: ", f"{roboflow}: ", annotations == ".")


@pytest.mark.parametrize("images", [".", "test", "test/images"])
@pytest.mark.parametrize("annotations", ["test/labels", "test"])
def test_one_part_of_roboflow(roboflow: Path, images: str, annotations: str) -> None:
    table = load(roboflow, annotations, images, key="data.val").table
    before = {".": "test/images/", "test": "images/", "test/images": ""}[images]
    assert list(table.file_names)[2] == f"{before}test_c.jpg"
    assert len(table.labels) == 2


def test_parts_that_are_not_there(roboflow: Path) -> None:
    with pytest.raises(DataError, match=r"valid/images is not in the image folder .*/train; give"):
        load(roboflow, "data.yaml", "train", key="data.val")
    with pytest.raises(DataError, match=r"has several parts \(train, val, test\); give the folder"):
        read_annotations(roboflow / "data.yaml", [])
    write(roboflow, {"data.yaml": "train: train/images\n" + NAMES})
    with pytest.raises(DataError, match=r"data.yaml: has no val \(train\)"):
        load(roboflow, "data.yaml", key="data.val")
    assert len(read_annotations(roboflow / "data.yaml", []).labels) == 2
    write(roboflow, {"data.yaml": "train: training\n" + NAMES})
    with pytest.raises(DataError, match=r"train: no folder or list training below .*; correct"):
        load(roboflow, "data.yaml")
    write(roboflow, {"data.yaml": NAMES})
    with pytest.raises(DataError, match=r"has no train, val or test; give a folder of labels"):
        load(roboflow, "data.yaml")


COCO8 = {f"images/{name}.jpg": None for name in ("train/x/1", "train/2", "val/3")} | {
    f"labels/{name}.txt": BOX for name in ("train/x/1", "train/2", "val/3")
}


@pytest.mark.parametrize(
    ("yaml", "names"),
    [
        ("path: ../datasets/coco8\ntrain: images/train\nval: images/val\n", ["2", "x/1"]),
        ("path: ROOT\ntrain: [images/train, images/val]\n", ["2", "x/1", "val/3"]),
        ("path: .\ntrain: ['images/train/x', images/val]\n", ["x/1", "val/3"]),
        ("train: C:\\work\\coco8\\images\\train\\\nval: images/val\n", ["2", "x/1"]),
        ("train: /content/coco8/images/train\ntest: # optional\n", ["2", "x/1"]),
        ("path: /content/coco8\ntrain: train.txt\n", ["2", "x/1"]),
        ("train: windows.txt\n", ["2", "x/1"]),
    ],
)
def test_paths_of_ultralytics(tmp_path: Path, yaml: str, names: list[str]) -> None:
    lists = {
        "train.txt": "./images/train/2.jpg\n./images/train/x/1.jpg\n",
        "windows.txt": "D:\\data\\images\\train\\2.jpg\r\nD:\\data\\images\\train\\x\\1.jpg\r\n",
        "coco8.yaml": yaml.replace("ROOT", str(tmp_path)) + "names:\n  0: cat\n  1: dog\n",
    }
    write(tmp_path, COCO8 | lists)
    read = load(tmp_path, "coco8.yaml")
    stems = [name.removeprefix("images/").removeprefix("train/") for name in read.table.file_names]
    assert [stem.removesuffix(".jpg") for stem in stems] == names
    assert sorted(read.table.image_of) == list(range(len(names)))
    assert len(dataset(str(tmp_path), str(tmp_path / "labels"), mask_size=None)) == 3


def test_folders_of_other_tools(tmp_path: Path) -> None:
    label_studio = {"images/0a1b2c3d-one.png": None, "labels/0a1b2c3d-one.txt": BOX,
                    "classes.txt": "cat\ndog\n", "notes.json": '{"categories": []}'}  # fmt: skip
    cvat = {"obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n",
            "obj.names": "cat\ndog", "train.txt": "data/obj_train_data/a b.jpg\n",
            "obj_train_data/a b.jpg": None, "obj_train_data/a b.txt": BOX}  # fmt: skip
    beside = {"one.jpg": None, "one.txt": BOX, "_darknet.labels": "cat\ndog\n"}
    for name, files, given in (
        ("label_studio", label_studio, [".", "labels"]),
        ("cvat", cvat, [".", "obj.data", "train.txt", "obj_train_data"]),
        ("beside", beside, ["."]),
    ):
        write(tmp_path / name, files)
        for one in given:
            table = load(tmp_path / name, one).table
            assert table.class_names == ["cat", "dog"]
            assert len(table.image_ids) == 1
            np.testing.assert_allclose(table.boxes_xywh, [BOX_XYWH])
    assert read_classes(str(tmp_path / "cvat"), None, None) == (["cat", "dog"], [0, 1])


def rows(tmp_path: Path, text: str | bytes, yaml: str = NAMES) -> AnnotatedImages:
    """One image with these rows, and three that are in order."""
    files: dict[str, str | bytes | None] = {"data.yaml": yaml}
    for number, label in enumerate((text, BOX, BOX, BOX)):
        files |= {f"images/{number}.jpg": None, f"labels/{number}.txt": label}
    write(tmp_path, files)
    return load(tmp_path, "labels")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("2 .5 .5 .1 .1", "has class 2, and the classes are 0 to 1"),
        ("-1 .5 .5 .1 .1", "has class -1, and"),
        ("0.5 .5 .5 .1 .1", "has class 0.5, and"),
        ("cat .5 .5 .1 .1", "is 'cat .5 .5 .1 .1', not numbers with spaces between"),
        ("0,.5,.5,.1,.1", "is '0,.5,.5,.1,.1', not numbers with spaces between"),
        ("0 .5 .5 .1 1_0", "is '0 .5 .5 .1 1_0', not numbers"),
        ("0 .5 .5 nan .1", "has a number that is not finite"),
        ("0 .5 .5 inf .1", "has inf, and fractions are within 0..1"),
        ("0 320 200 64 64", "has 320, and fractions are within 0..1"),
        ("0 .5 .5 -.1 .1", "has a negative width or height"),
        ("0 .5 .5 .1", "has 4 numbers, not 5 (a box) or 7, 9, … (a polygon); it is left out"),
        ("0 .5 .5 .1 .1 .93", "a sixth is the confidence or track of a prediction"),
        ("0 .5 .5 .1 .1" + " .3 .3 2" * 3, "has 14 numbers"),
        ("0 .5 .5 .1 .1" + " .3 .3 2" * 3, "keypoints need kpt_shape in data.yaml"),
    ],
)
def test_rows_that_are_no_objects(tmp_path: Path, row: str, what: str) -> None:
    read = rows(tmp_path, f"{BOX}\n{row}\n")
    assert len(read.table.labels) == 4
    (text,) = map(str, read.findings)
    assert f"{tmp_path}/labels/0.txt: line 3 {what}" in text or what in text


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf0 0.5 0.5 0.2 0.4",
        b"0 0.5 0.5 0.2 0.4\r\n\r\n",
        b"0\t0.5  0.5 .2 4e-1 \r",
        b"0.0 0.5 0.5 0.2 0.4\n\n",
        ("0 0.5 0.5 0.2 0.4\n").encode("utf-16"),
    ],
)
def test_text_files_of_all_kinds(tmp_path: Path, text: bytes) -> None:
    read = rows(tmp_path, text)
    assert read.findings == []
    np.testing.assert_allclose(read.table.boxes_xywh, [BOX_XYWH] * 4)


def test_keypoints_turned_boxes_and_borders(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    pose = NAMES + "kpt_shape: [2, 2]\n"
    table = rows(tmp_path, "1 .5 .5 .2 .4 .1 .1 .2 .2\n", pose).table
    np.testing.assert_allclose(table.boxes_xywh[0], BOX_XYWH)
    assert table.outlines is not None
    assert not table.outlines.kinds.any()
    assert "keypoints of 1 objects are left out, and their boxes are taken" in caplog.text
    turned = rows(tmp_path, "1 .5 .3 .6 .5 .5 .7 .4 .5\n").table
    np.testing.assert_allclose(turned.boxes_xywh[0], BOX_XYWH)
    # rounding moves boxes at the border a little past it: they are clipped without a word
    write(tmp_path, {"labels/0.txt": "0 0.05 0.05 0.100012 0.100012\n"})
    data = dataset(str(tmp_path), str(tmp_path / "labels"), mask_size=None)
    assert data.findings == []
    assert data[0, 0].target.boxes.min() == 0


def test_whole_sets_in_other_numbers(tmp_path: Path) -> None:
    pixels = "".join(f"0 {10 + k} 20 8 9\n" for k in range(9))
    with pytest.raises(DataError, match="9 of 12 rows have numbers above 1, as pixels are; divide"):
        rows(tmp_path, pixels)
    corners = "".join(f"0 0.{k} 0.{k} 0.{k + 2} 0.9\n" for k in range(1, 7)) * 60
    assert "boxes look like corners x1 y1 x2 y2; they are used as" in found(
        rows(tmp_path, corners), tmp_path
    )


@pytest.mark.parametrize(
    ("yaml", "error"),
    [
        ("train: a\n", "has no names of classes; YOLO's data.yaml has names, train, val"),
        ("names: [a\n", "is not valid YAML"),
        ("names: 5\n", "names: '5' is not a list of class names"),
        ("names: {a: b}\n", "names: a: 'b' is no number and name"),
        ("names: [[a]]\n", "no number and name"),
        ("nc: many\n", "nc: 'many' is no number of classes"),
        ("names: [a]\ntrain: {a: b}\n", "is not a path or a list"),
        ("names: [a]\npath: [b]\n", r"path: \['b'\] is no folder"),
        ("names: [a]\nkpt_shape: 17\n", r"kpt_shape: '17' is not \[keypoints, 2 or 3\]"),
        ("\0", "is not valid YAML"),
    ],
)
def test_descriptions_that_can_not_be_used(tmp_path: Path, yaml: str, error: str) -> None:
    write(tmp_path, COCO8 | {"data.yaml": yaml})
    with pytest.raises(DataError, match=rf"data\.yaml: .*{error}"):
        load(tmp_path, "data.yaml")


def test_names_of_classes(tmp_path: Path) -> None:
    read = rows(tmp_path, BOX, "names: {3: dog, 0: cat, 1: 'cat', 7: }\nnc: 9\n")
    assert read.table.class_names == ["cat", "cat (1)", "dog", "7"]
    assert read.table.category_ids == [0, 1, 3, 7]
    text = found(read, tmp_path)
    assert "nc 9 is not the number of names, 4; the names are taken" in text
    assert "class 1 has the name of class 0, 'cat'; they count as two classes" in text
    write(tmp_path, {"data.yaml": "train: x\nnc: 2\n"})
    assert load(tmp_path, "labels").table.class_names == ["class 0", "class 1"]
    (tmp_path / "data.yaml").unlink()
    read = load(tmp_path, "labels")
    assert read.table.class_names == ["0"]
    assert "classes 0 have no names; the numbers are their names; put data.yaml" in found(
        read, tmp_path
    )


def test_images_and_labels_that_do_not_match(tmp_path: Path) -> None:
    read = rows(tmp_path, BOX)
    write(tmp_path, {"images/0.png": None, "labels/gone.txt": BOX, "labels/classes.txt": "cat"})
    (tmp_path / "images/3.jpg").unlink()
    read = load(tmp_path, "labels")
    text = found(read, tmp_path)
    assert "labels/gone.txt belongs to no image; it is left out" in text
    assert "image 'images/0.png' has the label file of another image with that name" in text
    assert len(read.table.image_ids) == 4
    (tmp_path / "images/1.jpg").write_bytes(b"no image")
    data = dataset(str(tmp_path), str(tmp_path / "labels"), mask_size=None)
    assert "image 'images/1.jpg' (images/1.jpg) can't be read (not an image" in "\n".join(
        map(str, data.findings)
    )
    for number in range(7):
        write(tmp_path, {f"images/more{number}.jpg": None})
    text = found(load(tmp_path, "labels"), tmp_path)
    assert "7 of 11 images have no label file in labels ('images/more0.jpg' is the first)" in text
    with pytest.raises(DataError, match=r"none of its 11 images has a label file in .*; check"):
        write(tmp_path, {"empty/labels/README.txt": ""})
        read_images(str(tmp_path / "images"), str(tmp_path / "empty/labels"), format="yolo")
    with pytest.raises(DataError, match="no images beside the labels in"):
        read_images(str(tmp_path / "labels"), str(tmp_path / "labels"))


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from resdet.files import images

    rows(tmp_path, BOX)
    read_header, count = images.read_header, []
    monkeypatch.setattr(
        images,
        "read_header",
        lambda *args: count.append(1) or read_header(*args),  # type: ignore[func-returns-value]
    )
    assert len(dataset(str(tmp_path), str(tmp_path / "labels"), mask_size=None)) == 4
    assert len(count) == 4


def test_lines_are_counted_in_files_of_every_system(tmp_path: Path) -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        text = (BOX * 2 + "0 1 1 1\n").encode().replace(b"\n", end)
        assert "line 3 has 4 numbers" in found(rows(tmp_path, text), tmp_path)


def test_paths_with_a_tilde(tmp_path: Path) -> None:
    write(tmp_path, {"images/a.png": None, "labels/a.txt": BOX})
    write(tmp_path, {"data.yaml": f"{NAMES}train: ~nobody_at_all/images\n"})
    with pytest.raises(DataError, match="no folder or list ~nobody_at_all/images"):
        load(tmp_path, "data.yaml")
    write(tmp_path, {"train.txt": "images/a.png\n~$b.png\n"})
    assert list(load(tmp_path, "train.txt").table.file_names) == ["images/a.png", "~$b.png"]


@pytest.mark.parametrize("other", ["iris.data", "numbers.data/x"])
def test_other_data_beside_the_labels(tmp_path: Path, other: str) -> None:
    write(tmp_path, {"images/a.png": None, "labels/a.txt": BOX, "classes.txt": "cat\n"})
    write(tmp_path, {other: "1,2,3\n"})
    assert load(tmp_path, "labels", "images").table.class_names == ["cat"]


@pytest.mark.parametrize("listed", ["images/a.PNG", "Images/A.png", "D:\\set\\IMAGES\\A.PNG"])
def test_images_under_another_name_keep_their_objects(tmp_path: Path, listed: str) -> None:
    write(tmp_path, {"images/a.png": None, "images/b.png": None, "data.yaml": NAMES})
    write(tmp_path, {"labels/a.txt": BOX, "labels/b.txt": BOX})
    write(tmp_path, {"train.txt": f"{listed}\nimages/b.png\n"})
    data = dataset(str(tmp_path), str(tmp_path / "train.txt"), mask_size=None)
    assert list(data.table.file_names) == ["images/a.png", "images/b.png"]
    assert data.table.boxes_xywh.round(6).tolist() == [BOX_XYWH] * 2
    assert "is images/a.png in" in " ".join(map(str, data.findings))


def test_photos_that_are_called_as_lists_are(tmp_path: Path) -> None:
    files = {f"images/{stem}.png": None for stem in ("train", "notes", "readme_1", "a")}
    labels = {f"labels/{stem}.txt": BOX for stem in ("train", "notes", "readme_1", "a")}
    write(tmp_path, {**files, **labels, "data.yaml": NAMES, "labels/val.txt": "images/a.png\n"})
    data = load(tmp_path, "labels", "images")
    assert data.table.image_of.tolist() == [0, 1, 2, 3] and not data.findings
