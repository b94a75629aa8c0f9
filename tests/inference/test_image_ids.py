"""Image ids of an annotation file, by file name: what fits, and what is named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from resdet.errors import UserError
from resdet.files.writing import write_json
from resdet.inference.image_ids import check_categories, find_ids, read_truth
from resdet.inference.sources import Source


def truth(path: Path, names: dict[Any, str], categories: tuple[str, ...] = ("cell",)) -> Path:
    """A COCO file with these images."""
    images = [{"id": i, "file_name": name, "width": 9, "height": 9} for i, name in names.items()]
    return write_json(
        path,
        {
            "images": images,
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(categories, 7)],
        },
    )


def source(root: Path, name: str) -> Source:
    return Source(root / name, name, root / f"{name}.drawn", name.endswith(".mp4"))


def ids(path: Path, sources: list[Source]) -> list[int | str | None]:
    return list(find_ids(read_truth(path), sources).values())


def test_names_fit_as_a_whole_by_their_end_or_alone(tmp_path: Path) -> None:
    names = {5: "a.jpg", 7: "val/b.jpg", 9: "deep/c.jpg", "x1": "train\\d.jpg", 11: "e\u0301.jpg"}
    path = truth(tmp_path / "gt.json", {3: "other/b.jpg"} | names)
    folder = tmp_path / "val"
    given = ["a.jpg", "b.jpg", "c.jpg", "train/d.jpg", "\u00e9.jpg"]
    assert ids(path, [source(folder, name) for name in given]) == [5, 7, 9, "x1", 11]


def test_what_does_not_fit_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = {1: "one/a.jpg", 2: "two/a.jpg", 3: "b.jpg", 4: "c.jpg", 5: "absent.jpg"}
    path = truth(tmp_path / "gt.json", names)
    given = ["a.jpg", "x/b.jpg", "y/b.jpg", "c.jpg", "z/c.jpg", "new.jpg", "clip.mp4"]
    with caplog.at_level(logging.WARNING, "resdet"):
        assert ids(path, [source(tmp_path, name) for name in given]) == [
            *(None, None, None, 4, None, None, None)
        ]
    text = caplog.text
    assert "1× input 'a.jpg' is the file_name of 2 images" in text
    assert "3× input 'x/b.jpg' is not the only input that can be image 3" in text
    assert "1× input 'clip.mp4' is a video" in text or "2× input 'new.jpg'" in text
    assert "4 of its 5 images are not among the inputs" in text


def test_files_that_give_no_ids(tmp_path: Path) -> None:
    path = truth(tmp_path / "gt.json", {1: "a.jpg"})
    with pytest.raises(UserError, match=r"none of the 1 inputs \(b\.jpg, …\) has the file_name"):
        find_ids(read_truth(path), [source(tmp_path, "b.jpg")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--ids-from: .*: an empty folder; give the annotations"):
        read_truth(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file"):
        read_truth(tmp_path / "absent.json")


XML = (
    "<annotation><filename>{0}</filename><size><width>9</width><height>9</height></size><object>"
    "<name>{1}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    "</object></annotation>"
)


@pytest.mark.parametrize("name", ["cat", "n02129604"])
def test_ids_of_xml_files_are_the_names_of_pictures(tmp_path: Path, name: str) -> None:
    """PASCAL VOC's and ImageNet's, whatever the suffix of the pictures; of a list its own."""
    folder = tmp_path / "VOC2007" / "Annotations"
    folder.mkdir(parents=True)
    for image in ("000001", "000002", "000003"):
        (folder / f"{image}.xml").write_text(XML.format(f"{image}.jpg", name))
    given = [source(tmp_path, each) for each in ("000002.png", "x/000001.JPEG", "000009.jpg")]
    assert ids(folder, given) == ["000002", "000001", None]
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("000002\n")
    assert ids(lists / "val.txt", given) == ["000002", None, None]


def test_ids_of_kaggles_table_are_the_names_of_pictures(tmp_path: Path) -> None:
    table = tmp_path / "LOC_val_solution.csv"
    table.write_text("ImageId,PredictionString\nILSVRC2012_val_00000007,n01440764 1 2 20 30 \n")
    image = source(tmp_path, "ILSVRC2012_val_00000007.JPEG")
    assert ids(table, [image]) == ["ILSVRC2012_val_00000007"]


def test_other_category_ids_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read_truth(truth(tmp_path / "gt.json", {1: "a.jpg"}, ("cell", "dirt")))
    check_categories(table, ["cell", "dirt"], [7, 8])
    check_categories(table, ["n01440764"], [])
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    check_categories(table, ["dirt", "cell"], [1, 7])
    assert "other category ids than the model for 1 classes: dirt (1 and 8)" in caplog.text


def test_a_file_in_no_format_is_named_without_keys_that_predict_has_not(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(UserError, match=r"notes\.md: it is in no known format.*the formats are"):
        read_truth(tmp_path / "notes.md")
