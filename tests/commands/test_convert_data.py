"""`resdet convert-data`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from resdet import cli
from resdet.commands.convert_data import convert_data
from resdet.data.detection.annotated import read_images
from resdet.errors import UserError
from tests.data.make import annotation, write_coco

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
IMAGES = str(FORMATS / "images")


@pytest.mark.parametrize(
    "source", ["coco.json", "voc", "yolo_boxes/labels", "boxes.csv", "labelme",
               "cvat/annotations.xml", "object_masks"],
)  # fmt: skip
def test_every_format_to_coco(tmp_path: Path, source: str, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "out.json")
    given = [str(FORMATS / source), out, "--to", "coco", "--images", IMAGES, "--strict"]
    assert cli.main(["convert-data", *given]) == 0
    said = capsys.readouterr().out
    assert f"to {out} (coco): 12 images, 38 objects, 2 classes" in said
    table = read_images(IMAGES, out).table
    assert (len(table.image_ids), len(table.labels)) == (12, 38)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """A set with two parts, whose images are beside the labels."""
    root = tmp_path / "set"
    for part, stems in (("train", "0123"), ("valid", "45")):
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            (root / part / kind).mkdir(parents=True)
            for stem in stems:
                name = f"photo_{int(stem) + 1:02}.{suffix}"
                folder = FORMATS / ("images" if kind == "images" else "yolo_boxes/labels")
                shutil.copy(folder / name, root / part / kind / name)
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnames: [long, round]\n"
    )
    return root


def test_parts_and_links(yolo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has several parts \(train, val\)"):
        convert_data(yolo / "data.yaml", tmp_path / "a.json", "coco")
    for part, count in (("train", 4), ("val", 2)):
        for target in ("voc", "yolo"):
            out = tmp_path / f"{target}_{part}"
            lines = convert_data(yolo / "data.yaml", out, target, part=part)
            assert f"({target}): {count} images" in lines[0]
            assert lines[1:] == []
            given = f"ImageSets/Main/{part}.txt" if target == "voc" else "data.yaml"
            images = str(out / "JPEGImages") if target == "voc" else str(out)
            read = read_images(images, str(out / given), key=f"data.{part}")
            assert len(read.table.image_ids) == count
            assert read.table.sizes.min() > 0 and read.findings == []
            folder = out / ("JPEGImages" if target == "voc" else "images")
            assert folder.is_symlink() and folder.resolve() == yolo.resolve()


def test_names_and_sizes_of_the_files(tmp_path: Path) -> None:
    """Names as Label Studio writes them become those of the files, and sizes are theirs."""
    pictures, file = write_coco(tmp_path, [annotation(segmentation=None)])
    content = json.loads(Path(file).read_text())
    content["images"] = [{"id": 1, "file_name": "images\\0a1b2c3d-1.png"}]
    Path(file).write_text(json.dumps(content))
    assert len(convert_data(file, tmp_path / "yolo", "yolo", images=pictures)) == 1
    assert (tmp_path / "yolo/labels/1.txt").read_text() == "0 0.33333333 0.5 0.33333333 0.5\n"
    assert (tmp_path / "yolo/train.txt").read_text() == "./images/1.png\n"
    Path(pictures, "1.png").unlink()
    with pytest.raises(UserError, match=r"1 images have no width and height; give --images"):
        convert_data(file, tmp_path / "other", "yolo")
    lines = convert_data(file, tmp_path / "voc", "voc")
    assert f"none of the images is in {tmp_path}: give --images" in lines[-1]
    assert not (tmp_path / "voc" / "JPEGImages").is_symlink()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = FORMATS / "coco.json"
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    for out, target, error in (
        ("there.json", "coco", "exists, and nothing is overwritten; give another OUT"),
        ("full", "voc", "exists, and nothing is overwritten"),
        ("dead", "yolo", "exists, and nothing is overwritten"),
        ("labels.txt", "coco", "COCO's annotations are one file; give OUT the ending .json"),
        ("labels.json", "yolo", "yolo has a file per image; give OUT the name of a folder"),
        ("no/where.json", "coco", "no such folder; make it first"),
        ("x", "kitti", "--to kitti: expected one of coco, labelme, voc, yolo"),
    ):
        with pytest.raises(UserError) as caught:
            convert_data(source, tmp_path / out, target, images=IMAGES)
        assert error in str(caught.value)
    assert (tmp_path / "there.json").read_text() == "{}"
    convert_data(source, tmp_path / "empty", "voc", images=IMAGES)
    assert len(list((tmp_path / "empty" / "Annotations").iterdir())) == 12


def test_findings_stop_only_with_strict(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    objects = [annotation(), annotation(id=2, image_id=9), annotation(id=3, iscrowd=1)]
    pictures, file = write_coco(tmp_path, objects)
    given = [file, str(tmp_path / "out"), "--to", "yolo", "--images", pictures]
    assert cli.main(["convert-data", *given, "--strict"]) == 2
    assert "belongs to image 9, which is not in the file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["convert-data", *given]) == 0
    assert "1 crowd regions are left out: YOLO has none" in capsys.readouterr().out


def test_lost_boxes_of_broken_images_are_findings(
    yolo: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    (yolo / "train/images/photo_02.png").write_bytes(b"no image")
    given = [str(yolo / "data.yaml"), str(tmp_path / "a.json"), "--to", "coco", "--part", "train"]
    assert cli.main(["convert-data", *given, "--strict"]) == 2
    assert "photo_02.png) has no size, and can't be read" in capsys.readouterr().err
    assert cli.main(["convert-data", *given]) == 0
    assert "photo_02.png) has no size, and can't be read" in caplog.text + capsys.readouterr().err
