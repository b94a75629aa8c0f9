"""Malformed annotations: each gives one clear finding or error, which names file, item and remedy.

Each case changes one thing in a copy of tests/data/formats; a finding leaves all other objects as
they were.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.data.detection.annotated import read_images
from resdet.data.detection.dataset import check_dataset
from resdet.data.detection.transforms import TestTransform
from resdet.errors import UserError

FORMATS = Path(__file__).resolve().parents[1] / "formats"

Edit = Callable[[Path], None]
"""Changes the copy of a format's files."""


def text(name: str, old: str | bytes, new: str | bytes) -> Edit:
    """The first `old` in a file replaced."""

    def edit(folder: Path) -> None:
        path = folder / name
        was, becomes = (x.encode() if isinstance(x, str) else x for x in (old, new))
        content = path.read_bytes()
        assert was in content, f"{was!r} is not in {name}"
        path.write_bytes(content.replace(was, becomes, 1))

    return edit


def cut(name: str, share: float = 0.5) -> Edit:
    """A file cut short."""

    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return edit


def removed(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def shape(**values: Any) -> Edit:
    """The first shape of photo_01.json changed."""

    def edit(folder: Path) -> None:
        path = folder / "labelme" / "photo_01.json"
        content = json.loads(path.read_text())
        content["shapes"][0] |= values
        path.write_text(json.dumps(content))

    return edit


def record(**values: Any) -> Edit:
    """photo_01.json changed."""

    def edit(folder: Path) -> None:
        path = folder / "labelme" / "photo_01.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def mask(name: str, change: Callable[[Any], Any], **options: Any) -> Edit:
    """A mask file changed."""

    def edit(folder: Path) -> None:
        path = next(folder.glob(name))
        with Image.open(path) as image:
            changed = Image.fromarray(change(np.array(image)))
        content = io.BytesIO()
        changed.save(content, **{"format": "PNG"} | options)
        path.write_bytes(content.getvalue())

    return edit


def smoothed(pixels: Any) -> Any:
    small = Image.fromarray(pixels).resize((48, 32), Image.Resampling.BILINEAR)
    return np.array(small.resize((96, 64), Image.Resampling.BILINEAR))


def with_colour(pixels: Any) -> Any:
    pixels[:3, :3] = (1, 2, 3)
    return pixels


LABELME = {
    "cut short": (cut("labelme/photo_01.json"), r"photo_01.json is not valid JSON .*image is left"),
    "empty": (cut("labelme/photo_01.json", 0), "photo_01.json is empty; its image is left out"),
    "another JSON": (
        lambda f: (f / "labelme/photo_01.json").write_text('{"images": []}'),
        "photo_01.json is not LabelMe's JSON: it has no list of shapes",
    ),
    "Latin-1": (
        text("labelme/photo_01.json", "round", "r\xe9".encode("latin-1")),
        "photo_01.json is not valid JSON .*; its image is left out; correct the file",
    ),
    "no image": (
        lambda f: (
            (f / "labelme/photo_01.json").rename(f / "labelme/lost.json")
            and record_of(f / "labelme/lost.json", imagePath="lost.png")
        ),
        r"image 'lost' \(lost.png\) has no file in .*images; it is left out",
    ),
    "one image twice": (
        lambda f: shutil.copy(f / "labelme/photo_01.json", f / "labelme/zz.json"),
        "image 'zz' has the file of image 'photo_01', photo_01.png; it is left out",
    ),
    "imagePath a number": (record(imagePath=5), "photo_01.json has imagePath 5; the name of"),
    "another size": (
        record(imageHeight=640),
        "image 'photo_01' .*is 96×64 pixels upright, annotated as 96×640",
    ),
    "negative size": (
        record(imageWidth=-96),
        "photo_01.json has imageHeight 64 and imageWidth -96",
    ),
    "size as text": (record(imageWidth="wide"), "imageWidth 'wide'; the size is read"),
    "NaN": (
        shape(points=[[float("nan"), 1], [5, 5], [9, 1]]),
        r"photo_01.json: shape 1 \(\w+\) has points .*nan.*, not finite numbers .*it is left out",
    ),
    "huge": (shape(points=[[1e300, 1], [5, 5], [9, 1]]), r"shape 1 .*1e\+300.*not finite numbers"),
    "text for numbers": (
        shape(points=[["a", 1], [5, 5], [9, 1]]),
        r"shape 1 \(\w+\) has points .*'a'.*, not a list of \[x, y\]",
    ),
    "three coordinates": (shape(points=[[1, 2, 3]] * 3), r"not a list of \[x, y\]; it is left out"),
    "no points": (shape(points=[]), r"is a polygon of 0 point\(s\), which encloses nothing"),
    "two points": (shape(points=[[1, 2], [3, 4]]), r"is a polygon of 2 point\(s\), which encloses"),
    "no label": (shape(label=None), "shape 1 has label None, not a name; it is left out"),
    "unknown type": (shape(shape_type="spline"), "has shape_type 'spline', none of polygon, rect"),
    "a point": (
        shape(shape_type="point", points=[[1, 2]]),
        r"shape 1 .*is a point; it is left out",
    ),
    "no mask": (
        shape(shape_type="mask", points=[[1, 1], [3, 3]], mask="@@"),
        "has a mask that is not base64",
    ),
    "outside": (
        shape(points=[[200, 200], [205, 200], [205, 210]]),
        r"annotation 1 has bbox \[200, 200, 5, 10\] outside its image of 96×64; it is left out",
    ),
}


def record_of(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


XML = "cvat/annotations.xml"
CVAT = {
    "cut short": (cut(XML), "annotations.xml: is not valid XML .*export it again"),
    "VOC's XML": (
        lambda f: shutil.copy(f / "voc/photo_01.xml", f / XML),
        "has the root element <annotation>, not <annotations>; .*set format to voc",
    ),
    "entities": (
        text(XML, "<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>'),
        "defines entities, which annotations do not need",
    ),
    "unknown label": (
        text(XML, '<polygon label="round"', '<polygon label="oval"'),
        r"image 'photo_\d\d.png': shape \d \(oval\) has a label other than 'long', 'round';",
    ),
    "no label": (
        text(XML, '<polygon label="round"', "<polygon"),
        r"shape \d has no label; it is left out",
    ),
    "no name": (
        text(XML, 'name="photo_01.png"', 'name=""'),
        "image with id '0' has no name; it is left out.*, with its objects",
    ),
    "missing image": (
        text(XML, 'name="photo_01.png"', 'name="sub/lost.png"'),
        r"image 'sub/lost.png' .*has no file in .*images; it is left out",
    ),
    "the same image again": (
        text(XML, 'name="photo_02.png"', 'name="photo_01.png"'),
        "image 'photo_01.png' has the file of image 'photo_01.png'",
    ),
    "points of one number": (
        text(XML, 'points="', 'points="7;'),
        r"has points '7;.*, not pairs x,y of finite numbers; it is left out",
    ),
    "NaN": (text(XML, 'points="', 'points="nan,1;'), "not pairs x,y of finite numbers"),
    "huge": (text(XML, 'points="', 'points="1e30,1;'), "not pairs x,y of finite numbers"),
    "runs of another size": (
        text(XML, 'rle="', 'rle="7, '),
        r"is a mask whose runs do not add up to its \d+×\d+ pixels; it is left out",
    ),
    "runs that are no numbers": (text(XML, 'rle="', 'rle="x, '), "runs do not add up to its"),
    "no width": (
        text(XML, 'width="96"', 'width="wide"'),
        "image 'photo_01.png' has height 64 and width wide; the size is read from the image",
    ),
    "a line": (
        text(XML, "<polygon label", "<polyline label"),
        r"shape 1 \(\w+\) is drawn as polyline; it is left out, as it has no closed outline; d",
    ),
    "points": (
        text(XML, "</image>", '<points label="long" points="1,2"/></image>'),
        r"shape \d \(long\) is drawn as points; it is left out, as it has no closed outline",
    ),
    "a shape of the future": (
        text(XML, "</image>", '<star label="long"/></image>'),
        r"is a star, none of box, polygon, ellipse, mask; it is left out",
    ),
}

OBJECT_MASKS = {
    "empty": (
        mask("object_masks/photo_01/*/1.png", lambda m: m * 0),
        r"photo_01/\w+/1.png has no pixel of an object; it is left out",
    ),
    "another size": (
        mask("object_masks/photo_01/*/1.png", lambda m: m[:-1]),
        r"1.png has 96×63 pixels, its image 96×64; it is left out; write the mask at the size",
    ),
    "cut short": (
        lambda f: cut(str(next(f.glob("object_masks/photo_01/*/1.png")).relative_to(f)))(f),
        r"photo_01/\w+/1.png image file is cut short|damaged image file",
    ),
    "JPEG": (
        mask("object_masks/photo_01/*/1.png", lambda m: m, format="JPEG"),
        "1.png is a JPEG file, which changes the values at borders; export the masks as PNG",
    ),
    "several objects": (
        mask("object_masks/photo_01/*/1.png", lambda m: m // 255 + np.eye(64, 96, dtype=np.uint8)),
        "has the values 1 to 2, which are several objects; .*set format to label_masks",
    ),
    "smooth": (
        mask("object_masks/photo_01/*/1.png", lambda m: smoothed(m)),
        r"has \d+ levels, as of a smooth border; pixels above half of the highest are taken",
    ),
    "without an image": (
        lambda f: shutil.copytree(f / "object_masks/photo_01/round", f / "object_masks/lost"),
        r"folder lost has \d mask\(s\) and no image of its name; it is left out",
    ),
}

LABEL = "label_masks/photo_01_masks.png"
LABEL_MASKS = {
    "empty": (mask(LABEL, lambda m: m * 0), "photo_01_masks.png has no pixel of an object; it is"),
    "another size": (
        mask(LABEL, lambda m: m[:32]),
        "has 96×32 pixels, its image 96×64; it is left",
    ),
    "unlisted object": (
        mask(LABEL, lambda m: m + (np.eye(64, 96) * 9 * (m == 0)).astype(m.dtype)),
        "photo_01_masks.png has an object 9 that classes.csv does not list; it is left out",
    ),
    "without an image": (
        lambda f: (f / LABEL).rename(f / "label_masks/lost_masks.png"),
        "lost_masks.png has no image of its name in .*images; it is left out",
    ),
    "colours": (
        mask(LABEL, lambda m: np.stack([(m > 0) * np.uint8(9), *[(m > 0) * np.uint8(8)] * 2], 2)),
        "photo_01_masks.png has colours, where a mask has one number per pixel; write it so",
    ),
    "0 and 255": (
        mask(LABEL, lambda m: (m > 0) * np.uint8(255)),
        "has the values 0 and 255 alone; .*set format to class_masks",
    ),
    "noise": (
        mask(LABEL, lambda m: np.random.default_rng(0).integers(0, 999, m.shape, np.uint16)),
        "changes its value at every second pixel, as pictures do; give the folder of the masks",
    ),
    "text for a number": (
        text("label_masks/classes.csv", "photo_01.png,301", "photo_01.png,three"),
        "classes.csv: line 2: 'photo_01.png, three.*is not image, value and class; correct it",
    ),
    "two classes": (
        text("label_masks/classes.csv", "photo_01.png,302", "photo_01.png,301"),
        "classes.csv: line 3: photo_01.png 301 is '.*', and '.*' above; keep one|does not list",
    ),
}

CLASS = "class_masks/photo_01.png"
LEGEND = "class_masks/classes.csv"
CLASS_MASKS = {
    "unknown colour": (
        mask(CLASS, with_colour),
        "photo_01.png has the colours #010203 in 9 pixels, which classes.csv does not list; they",
    ),
    "smoothed": (mask(CLASS, smoothed), "and .* more .*its borders are smoothed; write masks wit"),
    "JPEG": (mask(CLASS, lambda m: m, format="JPEG"), "photo_01.png is a JPEG file, which changes"),
    "empty": (mask(CLASS, lambda m: m * 0), "photo_01.png has no pixel of a class; it is an image"),
    "another size": (mask(CLASS, lambda m: m[:, :50]), "has 50×64 pixels, its image 96×64"),
    "no colour": (text(LEGEND, "200,40,0", "200,40"), "line 2: .*is not a class and its colour"),
    "above 255": (text(LEGEND, "200,40,0", "300,40,0"), "classes.csv: line 2: 'long, 300, 40, 0'"),
    "one colour twice": (
        text(LEGEND, "200,40,0", "0,90,255"),
        "classes.csv: line 3: 'round' has the colour of 'long'; give each class a colour",
    ),
    "no legend": (
        removed(LEGEND),
        "its masks have 2 colours beside black .*and no legend; write cl",
    ),
    "not text": (
        lambda f: (f / LEGEND).write_bytes(b"\xff\xd8\xe9"),
        "classes.csv: can't be read as text",
    ),
}

COCO = {
    "cut short": (
        cut("coco.json"),
        "coco.json: line 1, column .*: not valid JSON .*was the file cut",
    ),
    "unknown class": (
        text("coco.json", '"category_id": 2', '"category_id": 9'),
        r"annotation \d has category_id 9, which is not among the categories; it is left out",
    ),
    "unknown image": (
        text("coco.json", '"image_id": 1,', '"image_id": 99,'),
        "annotation 1 belongs to image 99, which is not in the file; it is left out",
    ),
    "three numbers": (
        text("coco.json", '"bbox": [', '"bbox": [[], '),
        "annotation 1 has bbox .*, not four finite numbers x, y, width, height",
    ),
    "the same image again": (
        text("coco.json", '{"id": 2, "file_name": "photo_02', '{"id": 2, "file_name": "photo_01'),
        "image 2 .*photo_01.png.* is also that of image 1|file of image|has the file",
    ),
}
VOC = {
    "cut short": (
        cut("voc/photo_01.xml"),
        "photo_01.xml is not valid XML .*; its image is left out",
    ),
    "no box": (
        text("voc/photo_01.xml", "bndbox", "box"),
        "photo_01.xml is not valid XML|has no bndbox; it is left out",
    ),
    "text for a number": (
        text("voc/photo_01.xml", "<xmin>", "<xmin>a"),
        r"object 1 \(\w+\) has xmin a\d+, .*, not four finite numbers",
    ),
    "minimum above maximum": (
        text("voc/photo_01.xml", "<xmin>", "<xmin>9"),
        r"object 1 \(\w+\) has xmin \d+ above xmax \d+; it is left out",
    ),
}
YOLO = {
    "text for a number": (
        text("yolo_boxes/labels/photo_01.txt", "0.", "a."),
        r"photo_01.txt.*line 1",
    ),
    "four columns": (
        lambda f: (f / "yolo_boxes/labels/photo_01.txt").write_text("0 .5 .5 .1\n"),
        r"photo_01.txt.*line 1",
    ),
    "unknown class": (
        lambda f: (f / "yolo_boxes/labels/photo_01.txt").write_text("7 .5 .5 .1 .1\n"),
        r"photo_01.txt.*line 1.* 7",
    ),
    "NaN": (
        lambda f: (f / "yolo_boxes/labels/photo_01.txt").write_text("0 nan .5 .1 .1\n"),
        r"photo_01.txt.*line 1",
    ),
}
CSV = {
    "text for a number": (
        text("boxes.csv", "photo_01.png,", "photo_01.png,a"),
        "line 2 has x1 'a36', ",
    ),
    "NaN": (
        text("boxes.csv", "photo_01.png,", "photo_01.png,nan,1,2,3,long\nphoto_01.png,"),
        "nan",
    ),
    "one cell more": (
        text("boxes.csv", "photo_01.png,", "photo_01.png,1,"),
        "line 2 has 7 cells, and the table 6 columns; it is left out",
    ),
    "no class": (text("boxes.csv", ",long\n", ",\n"), r"line \d+"),
    "missing image": (
        text("boxes.csv", "photo_01.png,", "lost.png,1,2,3,4,long\nphoto_01.png,"),
        "lost.png",
    ),
    "no header": (text("boxes.csv", "image,x1,y1,x2,y2,class", "a,b,c,d,e,f"), "boxes.csv: "),
    "corners in another order": (
        text("boxes.csv", "photo_01.png,", "photo_01.png,9,9,3,4,long\nphoto_01.png,"),
        r"line 2.*",
    ),
}

CASES = {
    "boxes.csv": CSV,
    "coco.json": COCO,
    "voc": VOC,
    "yolo_boxes/labels": YOLO,
    "labelme": LABELME,
    XML: CVAT,
    "object_masks": OBJECT_MASKS,
    "label_masks": LABEL_MASKS,
    "class_masks": CLASS_MASKS,
}


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, cases in CASES.items() for name in cases]
)
def test_malformed_annotations_give_one_finding_or_error(
    tmp_path: Path, path: str, name: str
) -> None:
    top = path.partition("/")[0]
    for file in ("coco.json", "boxes.csv"):
        shutil.copy(FORMATS / file, tmp_path)
    for folder in ("images", "voc", top):
        if not (tmp_path / folder).exists():
            shutil.copytree(FORMATS / folder, tmp_path / folder)
    edit, message = CASES[path][name]
    edit(tmp_path)
    names = {XML: "cvat", "coco.json": "coco", "boxes.csv": "csv", "yolo_boxes/labels": "yolo"}
    format = names.get(path, path)
    try:
        read = read_images(str(tmp_path / "images"), str(tmp_path / path), format=format)
        transform = TestTransform(short_edge=64, max_size=96)
        check_dataset(read, transform=transform, mask_size=None, strict=True)
    except UserError as error:
        lines = str(error).splitlines()
        findings = [line for line in lines[1:] if line.startswith("  ")] or lines
    else:
        findings = []
    found = [each.replace(f"{tmp_path}/", "") for each in findings]
    assert len(found) == 1 and re.search(message, found[0]), found
    assert ";" in found[0] and len(found[0]) < 500
