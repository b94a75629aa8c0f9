"""VOC's layout: the same objects as COCO's file of them, its quirks, and what users get wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.readers import read_annotations, read_classes
from resdet.data.detection.readers.voc import VOC_CLASSES
from resdet.data.detection.transforms import TestTransform
from resdet.files.findings import DataError, Finding
from tests.data import layouts
from tests.data.layouts import Picture, Thing

EXACT = TestTransform(short_edge=80, max_size=1000)
ONE = [Thing("dog", (10, 20, 30, 50))]


def load(folder: Path, listed: str = "ImageSets/Main/trainval.txt", **options) -> DetectionDataset:
    options.setdefault("transform", EXACT)
    return read_dataset(
        str(folder / "JPEGImages"), str(folder / listed), format="voc", mask_size=None, **options
    )


def messages(data: DetectionDataset) -> list[str]:
    return [str(finding) for finding in data.findings]


@pytest.fixture
def year(tmp_path: Path) -> Path:
    """Three images of 80×100, one dog each; a cat in the last."""
    pictures = [Picture(f"00000{i}", things=[*ONE]) for i in (1, 2, 3)]
    pictures[2].things.append(Thing("cat", (0, 0, 100, 80), difficult=True))
    return layouts.write_voc(tmp_path / "VOCdevkit", pictures)


def edit(year: Path, old: str, new: str, name: str = "000002") -> None:
    file = year / "Annotations" / f"{name}.xml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_equals_the_coco_file_of_the_same_images(shared_data: Path, tmp_path: Path) -> None:
    year = layouts.voc2012_100(shared_data, tmp_path)
    coco = shared_data / "voc2012_100" / "annotations" / "instances.json"
    findings: list[Finding] = []
    ours = read_annotations(year / "ImageSets/Main/trainval.txt", findings, format="voc")
    theirs = read_annotations(coco, [])
    assert not findings
    for key in ("boxes_xywh", "labels", "difficult", "sizes", "image_of", "areas", "crowd"):
        np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key), key)
    assert list(ours.file_names) == list(theirs.file_names)
    assert ours.class_names == theirs.class_names == list(VOC_CLASSES) == layouts.VOC_CLASSES
    assert ours.category_ids == theirs.category_ids
    difficult = [entry.get("difficult", 0) for entry in json.loads(coco.read_text())["annotations"]]
    assert ours.difficult.sum() == sum(difficult) == 38
    assert ours.image_ids.tolist()[:2] == ["2007_000027", "2007_000032"]
    # all XML files of the folder, which are in the order of the list
    folder = read_annotations(year / "Annotations", [], format="voc")
    assert folder.image_ids == ours.image_ids
    np.testing.assert_array_equal(folder.boxes_xywh, ours.boxes_xywh)


def test_years_by_lists(tmp_path: Path) -> None:
    years = [layouts.small_voc(tmp_path, year=name) for name in ("VOC2007", "VOC2012")]
    lists = [str(year / "ImageSets/Main/trainval.txt") for year in years]
    folders = [str(year / "JPEGImages") for year in years]
    data = read_dataset(folders, lists, transform=EXACT, format="voc", mask_size=None, strict=True)
    assert len(data) == 16
    assert data.image_ids.tolist()[::8] == ["000001", "2008_000001"]
    assert data.class_names == list(VOC_CLASSES)
    assert data.path(8) == years[1] / "JPEGImages" / "2008_000001.jpg"
    table = data.table
    assert 0 < table.difficult.sum() == len(table.labels) - len(data.rows)


def test_difficult_objects_are_kept_for_evaluation_and_on_demand(year: Path) -> None:
    data = load(year)
    assert data.table.difficult.tolist() == [False, False, False, True]
    assert data.rows.tolist() == [0, 1, 2]
    assert len(data[(0, 2)].target.boxes) == 1
    assert load(year, keep_difficult=True).rows.tolist() == [0, 1, 2, 3]


def test_boxes_count_from_one_and_include_the_last_pixel(year: Path) -> None:
    text = (year / "Annotations/000003.xml").read_text()
    for corner in ("xmin>11<", "ymin>21<", "xmax>30<", "ymax>50<", "xmax>100<", "ymax>80<"):
        assert corner in text
    assert load(year).table.boxes_xywh[2:].tolist() == [[10, 20, 20, 30], [0, 0, 100, 80]]


PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<object>", f"<object>{PART}</bndbox></part>"),
        ("</bndbox>", f"</bndbox>{PART}</bndbox></part>"),
        ("<xmin>11</xmin>", "<xmin> 11.0\n</xmin>"),
        ("\t\t\t<difficult>0</difficult>\n".strip(), ""),
        ("<difficult>0</difficult>", "<difficult> 0 </difficult>"),
        ("<annotation>", '\ufeff<?xml version="1.0" encoding="UTF-8"?>\n<annotation>'),
        ("<annotation>", "\n\n<!-- by hand --><annotation verified='yes'>"),
        ("\t<filename>000002.jpg</filename>\n", ""),
        ("<name>dog</name>", "<name>\n dog </name>"),
        ("\n", "\r\n"),
    ],
)
def test_quirks_that_change_nothing(year: Path, old: str, new: str) -> None:
    edit(year, old, new)
    data = load(year, strict=True)
    assert data.table.boxes_xywh[1].tolist() == [10, 20, 20, 30]
    assert data.table.labels.tolist() == [11, 11, 11, 7]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("<xmin>11<", "<xmin>31<", "object 1 (dog) has xmin 31 above xmax 30"),
        ("<ymax>50<", "<ymax>5<", "object 1 (dog) has ymin 21 above ymax 5"),
        ("<xmin>11<", "<xmin>nan<", "not four finite numbers"),
        ("<xmin>11<", "<xmin>1e400<", "not four finite numbers"),
        ("<xmin>11</xmin>", "", "has xmin None, ymin 21"),
        ("<xmin>11<", "<xmin>left<", "has xmin left"),
        ("<xmin>11<", "<xmin>1_1<", "has xmin 1_1"),
        ("<xmin>11<", f"<xmin>{'9' * 5000}<", f"has xmin {'9' * 40},"),
        ("<name>dog</name>", "", "object 1 has no name"),
        ("<name>dog</name>", "<name> </name>", "object 1 has no name"),
        ("bndbox>\n\t\t\t<xmin", "box>\n\t\t\t<xmin", "is not valid XML"),
        ("<difficult>0", "<difficult>maybe", "has difficult 'maybe', not 0 or 1"),
        ("<xmin>11<", "<xmin>111<", "above xmax"),
        ("<width>100<", "<width>90<", "annotated as 90×80"),
        ("<width>100<", "<width>-1<", "has height 80 and width -1; the size is read"),
        ("<size>", "<sizes><size/></sizes><other>", "is not valid XML"),
        ("</annotation>", "", "is not valid XML"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', "defines entities"),
    ],
)
def test_each_fault_is_a_finding(year: Path, old: str, new: str, what: str) -> None:
    edit(year, old, new)
    data = load(year)
    found = [message for message in messages(data) if what in message]
    assert len(found) == 1, messages(data)
    assert "000002" in found[0]
    with pytest.raises(DataError, match="finding"):
        load(year, strict=True)


def test_sizes_of_zero_are_read_from_the_images(year: Path) -> None:
    edit(year, "<width>100</width>", "<width>0</width>")
    edit(year, "<height>80</height>", "<height>0</height>")
    data = load(year)
    assert data.sizes.tolist() == [[80, 100]] * 3
    assert "has no height and width; they are read from the file" in messages(data)[0]


@pytest.mark.parametrize(
    "content", [b"", b"  \n", b"<html/>", b"\x00\x01\x02", b"\xff\xd8\xff\xe0"]
)
def test_broken_files(year: Path, content: bytes) -> None:
    (year / "Annotations/000002.xml").write_bytes(content)
    data = load(year)
    assert data.image_ids.tolist() == ["000001", "000003"]
    (message,) = messages(data)
    assert "000002.xml" in message and "its image is left out" in message


def test_utf16_is_read_and_its_entities_refused(year: Path) -> None:
    file = year / "Annotations/000002.xml"
    text = file.read_text()
    file.write_bytes(text.encode("utf-16"))
    assert len(load(year, strict=True)) == 3
    bomb = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;&b;">]>'
    file.write_bytes((bomb + text.replace("dog", "&d;")).encode("utf-16"))
    assert "defines entities" in messages(load(year))[0]


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "cp1252"])
def test_stated_encodings(year: Path, encoding: str) -> None:
    file = year / "Annotations/000002.xml"
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n{file.read_text()}'
    file.write_bytes(text.replace("</annotation>", "<owner>中</owner></annotation>").encode(
        encoding, "replace"))  # fmt: skip
    assert len(load(year, strict=True)) == 3


def test_images_with_names_longer_than_any_file_are_left_out(year: Path) -> None:
    listed = year / "ImageSets" / "Main" / "trainval.txt"
    with listed.open("a") as file:
        file.write("x" * 5000 + "\n" + "y" * 300 + " 1\n")
    found = messages(load(year))
    assert ["can't be read (File name too long); its image is left" in each for each in found] == [
        True,
        True,
    ]


def test_missing_and_extra_files(year: Path) -> None:
    (year / "Annotations/000001.xml").unlink()
    (year / "JPEGImages/000002.jpg").rename(year / "JPEGImages/other.jpg")
    data = load(year)
    assert data.image_ids.tolist() == ["000003"]
    missing, no_image = messages(data)
    assert "image '000001' has no file 000001.xml; it is left out; add the file" in missing
    assert "image '000002' (000002.jpg) has no file in" in no_image
    layouts.write_lines(year / "ImageSets/Main/trainval.txt", ["9", "10"])
    with pytest.raises(DataError, match=r"none of its 2 images has an XML file in .*Annotations"):
        load(year)


def test_lists_as_they_come(year: Path) -> None:
    whole = load(year)
    listed = year / "ImageSets/Main/own.txt"
    for content in (
        b"000001\r\n000002\r\n000003",
        b"\xef\xbb\xbf000001\n\n000002 \n  000003\n",
        b"000001  1\n000002 -1\n000003  0\n",
        b"000001.jpg\n000002.jpg\n000003.jpg\n",
    ):
        listed.write_bytes(content)
        assert load(year, "ImageSets/Main/own.txt", strict=True).image_ids == whole.image_ids
    listed.write_bytes(b"000001\n000001\n")
    (message,) = messages(load(year, "ImageSets/Main/own.txt"))
    assert "image '000001' is listed twice; it is read once" in message
    assert load(year, "ImageSets/Main/dog_trainval.txt").image_ids == whole.image_ids
    listed.write_bytes(b"000001\n000002 " + b"9" * 5000)  # no mark
    (message,) = messages(load(year, "ImageSets/Main/own.txt"))
    assert "999.xml; it is left out" in message or "can't be read" in message


def test_odd_names(tmp_path: Path) -> None:
    names = ["my photo 1", "größe & <b>", "a.b.c", "sub/inner", "-1"]
    year = layouts.write_voc(tmp_path / "kit", [Picture(name, things=[*ONE]) for name in names])
    data = load(year, strict=True)
    assert sorted(data.image_ids.tolist()) == sorted(names)
    assert all(data.path(i).is_file() for i in range(len(data)))
    assert sorted(load(year, "Annotations").image_ids.tolist()) == sorted(names)


def test_other_image_formats_and_flat_folders(tmp_path: Path) -> None:
    """As annotation tools write them: XML files beside PNG images, in one folder."""
    for i in range(3):
        picture = Picture(f"shot{i}", things=[Thing("screw", (1, 2, 30, 40))])
        layouts.write_image(tmp_path / f"shot{i}.png", picture)
        layouts.write_xml(tmp_path / f"shot{i}.xml", picture, one_based=True, suffix=".png")
    data = read_dataset(
        str(tmp_path), str(tmp_path), format="voc", transform=EXACT, mask_size=None, strict=True
    )
    assert data.class_names == ["screw"]
    assert [data.path(i).name for i in range(3)] == ["shot0.png", "shot1.png", "shot2.png"]


def own_classes(folder: Path) -> Path:
    names = ["nut", "screw", "dog"]
    pictures = [Picture(f"{i}", things=[Thing(names[i], (1, 1, 9, 9))]) for i in range(3)]
    return layouts.write_voc(folder, pictures, {"train": ["1", "0"], "val": ["2"]})


def test_own_classes_are_those_of_the_whole_folder(tmp_path: Path) -> None:
    year = own_classes(tmp_path)
    for name in ("train", "Annotations"):
        listed = "Annotations" if name == "Annotations" else f"ImageSets/Main/{name}.txt"
        assert load(year, listed).class_names == ["dog", "nut", "screw"]
    listed = str(year / "ImageSets/Main/train.txt")
    assert read_classes(listed, "voc", None)[0] == ["dog", "nut", "screw"]
    # all of its objects have names of VOC
    assert load(year, "ImageSets/Main/val.txt").class_names == list(VOC_CLASSES)


def test_classes_that_a_list_lacks_can_be_given(tmp_path: Path) -> None:
    year = own_classes(tmp_path)
    data = load(year, classes=["screw", "washer"], listed="ImageSets/Main/train.txt")
    assert data.class_names == ["screw", "washer"]
    assert "class 'washer' is in data.classes, but in no XML file" in messages(data)[0]


def test_test_images_have_no_annotations(year: Path) -> None:
    for name in ("000001", "000002"):
        (year / f"Annotations/{name}.xml").unlink()
    data = load(year, "ImageSets/Main/test.txt")
    assert len(data) == 3 and not len(data.table.labels)
    assert not data.table.has_annotations
    assert data.class_names == list(VOC_CLASSES)


def test_numbers_of_objects_as_extras(year: Path) -> None:
    edit(year, "<truncated>0", "<truncated>1")
    data = load(year, extras=["truncated"])
    assert data.table.extras["truncated"].tolist() == [0, 1, 0, 0]
    assert data[(0, 1)].target.extra["truncated"].tolist() == [1]
    with pytest.raises(DataError, match=r"data\.extras: occluded: no annotation has this key"):
        load(year, extras=["occluded"])


def remove_annotations(year: Path) -> None:
    shutil.rmtree(year / "Annotations")


@pytest.mark.parametrize(
    ("listed", "change", "error"),
    [
        ("", None, r"holds ImageSets/; give a list, .*trainval\.txt"),
        ("JPEGImages", None, "no XML file in this folder"),
        (
            "ImageSets/Main/trainval.txt",
            lambda year: shutil.rmtree(year / "Annotations"),
            "no folder Annotations beside",
        ),
        ("ImageSets/Main/absent.txt", None, "no such file or folder: .*absent.txt"),
        ("Annotations/000001.xml", None, "not a list of images; give a text file"),
        ("JPEGImages/000001.jpg", None, "not a list of images"),
        ("empty.txt", lambda year: (year / "empty.txt").touch(), "lists no images"),
    ],
)
def test_wrong_paths(year: Path, listed: str, change, error: str) -> None:
    if change is not None:
        change(year)
    with pytest.raises(DataError, match=error):
        load(year, listed)


def test_the_format_is_recognised(year: Path) -> None:
    for listed in ("Annotations", "ImageSets/Main/trainval.txt"):
        assert read_annotations(year / listed, []).class_names == list(VOC_CLASSES)
        with pytest.raises(DataError, match=r"; it looks like voc: set format to voc"):
            read_annotations(year / listed, [], format="coco")
    with pytest.raises(DataError, match="give the folder of all of them"):
        read_annotations(year / "Annotations/000001.xml", [])
    with pytest.raises(DataError, match="no such file"):
        read_annotations(year / "absent.txt", [])
    coco = year / "coco.txt"
    coco.write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}')
    assert read_annotations(coco, []).class_names == ["a"]


def test_suffixes_in_capitals(year: Path) -> None:
    """Of all files, or of some; by a list and by the folder."""
    expected = read_annotations(year / "Annotations", [])
    for name in ("000001", "000003"):
        (year / f"Annotations/{name}.xml").rename(year / f"Annotations/{name}.XML")
    for given in ("Annotations", "ImageSets/Main/trainval.txt"):
        findings: list[Finding] = []
        read = read_annotations(year / given, findings, format="voc")
        assert not findings
        assert list(read.image_ids) == list(expected.image_ids)
        np.testing.assert_array_equal(read.boxes_xywh, expected.boxes_xywh)
        assert read.class_names == expected.class_names
    shutil.copy(year / "Annotations/000001.XML", year / "Annotations/000001.xml")
    with pytest.raises(DataError, match=r"has 000001\.xml and a file that differs in the case"):
        read_annotations(year / "Annotations", [])


@pytest.mark.parametrize(
    "text",
    ["train:\n  epochs: 3\ndata: {}\n", "train: {epochs: 3}\n", "# names: x\nclasses: [dog]\n"],
)
def test_other_yaml_files_do_not_matter(year: Path, text: str) -> None:
    """The config of a run beside annotations is not YOLO's data.yaml."""
    (year / "Annotations/config.yaml").write_text(text)
    assert len(read_annotations(year / "Annotations", []).labels) == 4
    (year / "Annotations/config.yaml").write_text("path: .\ntrain: images\nnames: [dog]\n")
    with pytest.raises(DataError, match="looks like voc and like yolo"):
        read_annotations(year / "Annotations", [])
