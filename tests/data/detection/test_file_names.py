"""Image files by the names of other machines: one certain file, or none."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from resdet.data.detection.file_names import ImageFolder
from resdet.files.findings import DataError, summarize_findings
from tests.data.make import annotation, dataset, write_coco

ACCENT = "é 1.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "images"
    files = ["p1.png", "p 2.png", "P3.PNG", ACCENT, "sub/p4.png", "a+b.png", "50%.png", "two.JPG"]
    for file in [*files, "Two.jpg", "sub/images/p5.png", "x.jpg", "x.png", "p#1.png"]:
        path = folder / unicodedata.normalize("NFD", file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder.parent / "secret.png").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (r"images\p1.png", "p1.png"),
        (r".\sub\p4.png", "sub/p4.png"),
        ("images/images/p1.png", "p1.png"),
        ("data/images/sub/p4.png", "sub/p4.png"),
        (r"C:\Users\me\pictures\p1.png", "p1.png"),
        ("d:/p1.png", "p1.png"),
        ("/home/me/sub/p4.png", "sub/p4.png"),
        ("p%202.png", "p 2.png"),
        ("p+2.png", "p 2.png"),
        ("a%2Bb.png", "a+b.png"),
        ("50%25.png", "50%.png"),
        ("http://host/val2017/p1.png", "p1.png"),
        ("https://host:80/x/p%202.png?size=l#top", "p 2.png"),
        ("s3://bucket/sub/p4.png", "sub/p4.png"),
        ("file:///home/me/p1.png", "p1.png"),
        (" p1.png\n", "p1.png"),
        ("p1.png/", "p1.png"),
        ("../images/p1.png", "p1.png"),
        ("sub/../p1.png", "p1.png"),
        ("p3.png", "P3.PNG"),
        ("SUB/P4.png", "sub/p4.png"),
        ("É 1.PNG", unicodedata.normalize("NFD", ACCENT)),
        ("p1", "p1.png"),
        ("images/0a1b2c3d-p1.png", "p1.png"),
        ("/data/upload/1/0a1b2c3d-p%202.png", "p 2.png"),
        ("0a1b2c3d-P1.png", "p1.png"),
        # nothing is certain about these
        ("0a1b2c3d-two.jpg", None),
        ("0a1b2c3d-", None),
        ("0a1b2c3-p1.png", None),
        ("0a1b2c3d-p4.png", None),  # in a subfolder
        ("TWO.jpg", None),  # two.JPG or Two.jpg
        ("x", None),  # x.jpg or x.png
        ("val/p1.png", None),
        ("p5.png", None),
        ("p1.jpg", None),
        ("../secret.png", None),
        ("../../images/../secret.png", None),
        ("https://host/", None),
        ("/", None),
        ("..", None),
        ("\0.png", None),
        ("a" * 300, None),
    ],
)
def test_names_of_other_machines(folder: Path, name: str, expected: str | None) -> None:
    files = ImageFolder(folder)
    if expected is None or ".." in name or name.endswith("\n"):
        assert not files.has(name)
    assert files.locate(name) == expected


def test_names_as_they_are(folder: Path) -> None:
    files = ImageFolder(folder)
    for name in ("p1.png", "./p1.png", "sub/p4.png", "p#1.png", "a+b.png"):
        assert files.has(name)
    for name in (f"{folder}/p1.png", "../images/p1.png", "sub/../p1.png", "p1.png/x", "none"):
        assert not files.has(name)
    assert files.locate(f"{folder}/p1.png") == "p1.png"
    assert files.near("p1.jpg") == "p1.png" and files.near("none.jpg") is None
    assert ImageFolder(folder / "none").locate("p1.png") is None


def test_a_file_is_taken_for_one_image_only(tmp_path: Path) -> None:
    images = [
        {"id": i, "file_name": name, "height": 40, "width": 60}
        for i, name in enumerate(["1.png", "images\\2.png", "/a/3.png", "/b/3.png", "IMAGES/1.png"])
    ]
    entries = [annotation(id=i + 1, image_id=i) for i in range(5)]
    for name in ("1.png", "2.png", "3.png"):
        write_coco(tmp_path, [], images=[{"file_name": name}])
    pictures, file = write_coco(tmp_path, entries, images=[])
    text = Path(file).read_text().replace('"images": []', f'"images": {images}'.replace("'", '"'))
    Path(file).write_text(text)
    data = dataset(pictures, file)
    assert data.image_ids == [0, 1] and data.path(1) == Path(pictures) / "2.png"
    lines = summarize_findings(data.findings)
    assert len(lines) == 2
    assert lines[0].endswith(
        "is 2.png in " + pictures + "; this file is taken; correct the file_name"
    )
    assert ": 3× image 2 (/a/3.png) has no file in" in lines[1] and "(but 3.png)" in lines[1]
    with pytest.raises(DataError, match=r"is 2\.png in"):
        dataset(pictures, file, strict=True)


def test_one_folder_for_two_files(tmp_path: Path) -> None:
    first = write_coco(tmp_path, [annotation()], name="a.json")
    image = {"id": 5, "file_name": "1.png", "height": 40, "width": 60}
    second = write_coco(tmp_path, [annotation(image_id=5)], name="b.json", images=[image])
    second_text = Path(second[1]).read_text().replace('"1.png"', '"images/1.png"')
    Path(second[1]).write_text(second_text)
    data = dataset([first[0], second[0]], [first[1], second[1]])
    assert data.image_ids == [1, 5] and data.path(0) == data.path(1)
    assert "image 5 (images/1.png) is 1.png in" in str(data.findings[0])
