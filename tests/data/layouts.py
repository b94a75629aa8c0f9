"""Small data sets in official folder layouts: VOCdevkit, ImageNet DET and ImageNet CLS-LOC.

Each writer returns the folder that holds the layout. Objects are given as continuous boxes, from
0, and written as the formats have them: VOC from 1, ImageNet from 0, both with the last pixel
inside.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
]  # fmt: skip

DET_WNIDS = {"n02672831": "accordion", "n02691156": "airplane", "n02084071": "dog"}
"""Three of the 200; their numbers are 1, 2 and 58."""

LOC_NUMBERS = {"n01440764": 449, "n01443537": 450, "n02123045": 69}
"""Three of the 1,000 classes and numbers for them, which are not in the order of the wnids."""


@dataclass
class Thing:
    """One object of a picture."""

    name: str
    box: tuple[float, float, float, float]
    """Continuous xyxy pixels from 0."""
    difficult: bool = False


@dataclass
class Picture:
    """An image with its objects."""

    name: str
    """File name without its suffix; it may contain folders."""
    size: tuple[int, int] = (80, 100)
    """(height, width) in pixels."""
    things: list[Thing] = field(default_factory=list)
    file: Path | None = None
    """An image to copy; None draws one."""


def xml_text(picture: Picture, *, one_based: bool, suffix: str = "") -> str:
    """The annotation of a picture as VOC (counting from 1) and ImageNet (from 0) write it."""
    height, width = picture.size
    objects = []
    for thing in picture.things:
        x1, y1, x2, y2 = thing.box
        shift = 1 if one_based else 0
        corners = (x1 + shift, y1 + shift, x2 - 1 + shift, y2 - 1 + shift)
        keys = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        sides = "".join(f"\t\t\t<{key}>{value:g}</{key}>\n" for key, value in keys)
        objects.append(
            f"\t<object>\n\t\t<name>{escape(thing.name)}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>0</truncated>\n\t\t<difficult>{int(thing.difficult)}</difficult>\n"
            f"\t\t<bndbox>\n{sides}\t\t</bndbox>\n\t</object>\n"
        )
    return (
        f"<annotation>\n\t<folder>{escape(Path(picture.name).parent.name or 'images')}</folder>\n"
        f"\t<filename>{escape(Path(picture.name).name + suffix)}</filename>\n"
        "\t<source>\n\t\t<database>test</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n"
        f"\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n{''.join(objects)}"
        "</annotation>\n"
    )


def write_image(path: Path, picture: Picture) -> None:
    """Copies the picture's file, or draws grey with one bright rectangle per object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.file is not None:
        shutil.copyfile(picture.file, path)
        return
    pixels = np.full((*picture.size, 3), 90, np.uint8)
    for thing in picture.things:
        x1, y1, x2, y2 = (round(value) for value in thing.box)
        pixels[y1:y2, x1:x2, len(thing.name) % 3] = 255 - len(thing.name)
    Image.fromarray(pixels).save(path, "JPEG")


def write_xml(path: Path, picture: Picture, **options: object) -> None:
    """See `xml_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(xml_text(picture, **options))  # type: ignore[arg-type]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """A list file, one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_voc(
    devkit: Path,
    pictures: Sequence[Picture],
    lists: Mapping[str, Sequence[str]] | None = None,
    *,
    year: str = "VOC2007",
) -> Path:
    """`devkit`/`year` with JPEGImages, Annotations and ImageSets/Main.

    `lists` are names by list; None puts all in trainval and test, the even ones in train and the
    others in val. Each list has its lists per class, `CLASS_LIST.txt`, with 1, 0 (all difficult)
    or -1 after each name.
    """
    folder = devkit / year
    names = [picture.name for picture in pictures]
    if lists is None:
        lists = {"trainval": names, "train": names[::2], "val": names[1::2], "test": names}
    for picture in pictures:
        write_image(folder / "JPEGImages" / f"{picture.name}.jpg", picture)
        write_xml(
            folder / "Annotations" / f"{picture.name}.xml", picture, one_based=True, suffix=".jpg"
        )
    main = folder / "ImageSets" / "Main"
    classes = sorted({thing.name for picture in pictures for thing in picture.things})
    things = {picture.name: picture.things for picture in pictures}
    for name, listed in lists.items():
        write_lines(main / f"{name}.txt", listed)
        for cls in classes:
            flags = ([t.difficult for t in things[one] if t.name == cls] for one in listed)
            marks = (-1 if not each else 0 if all(each) else 1 for each in flags)
            lines = [f"{one} {mark:2d}" for one, mark in zip(listed, marks, strict=True)]
            write_lines(main / f"{cls}_{name}.txt", lines)
    return folder


def small_voc(devkit: Path, *, year: str = "VOC2007", count: int = 8) -> Path:
    """A drawn VOC year with one to three objects of VOC's classes per image, some difficult."""
    rng = np.random.default_rng(int(year[-4:]))
    pictures = []
    for i in range(count):
        name = f"{i + 1:06d}" if year == "VOC2007" else f"2008_{i + 1:06d}"
        size = (80, 100) if i % 3 else (100, 75)
        things = [
            Thing(VOC_CLASSES[int(rng.integers(20))], _box(rng, size), i % 4 == 3 and one > 0)
            for one in range(1 + i % 3)
        ]
        pictures.append(Picture(name, size, things))
    return write_voc(devkit, pictures, year=year)


def voc2012_100(
    shared_data: Path, devkit: Path, lists: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """The 100 real images of VOC 2012 as VOCdevkit; returns `devkit`/VOC2012."""
    source = shared_data / "voc2012_100"
    data = json.loads((source / "annotations" / "instances.json").read_text())
    name_of = {category["id"]: category["name"] for category in data["categories"]}
    pictures = {
        image["id"]: Picture(
            Path(image["file_name"]).stem,
            (image["height"], image["width"]),
            file=source / "images" / image["file_name"],
        )
        for image in data["images"]
    }
    for entry in data["annotations"]:
        x, y, w, h = entry["bbox"]
        thing = Thing(
            name_of[entry["category_id"]], (x, y, x + w, y + h), bool(entry.get("difficult"))
        )
        pictures[entry["image_id"]].things.append(thing)
    return write_voc(devkit, list(pictures.values()), lists, year="VOC2012")


def small_det(root: Path) -> Path:
    """`root`/ILSVRC with Data/DET, Annotations/DET and ImageSets/DET.

    val: six images, all in val.txt, four in val1.txt and two in val2.txt, unsorted; the last one
    has no object. train: two images per class of `DET_WNIDS` in ILSVRC2013_train/WNID, one with
    two classes in ILSVRC2014_train_0000, and two negatives without XML in
    ILSVRC2013_train_extra0. Lists of both development kits: train_pos_N.txt and train_neg_N.txt
    of 2014, train_N.txt with 1, 0, -1 of 2015.
    """
    folder, rng = root / "ILSVRC", np.random.default_rng(3)
    images, annotations, lists = (
        folder / kind / "DET" for kind in ("Data", "Annotations", "ImageSets")
    )
    wnids = list(DET_WNIDS)
    years = [2012, 2012, 2012, 2013, 2013, 2013]
    val = [f"ILSVRC{year}_val_{i + 5:08d}" for i, year in enumerate(years)]
    for i, name in enumerate(val):
        size = (80, 100) if i % 2 else (90, 70)
        things = [Thing(wnids[(i + k) % 3], _box(rng, size)) for k in range((1 + i % 2) * (i < 5))]
        picture = Picture(name, size, things)
        write_image(images / "val" / f"{name}.JPEG", picture)
        write_xml(annotations / "val" / f"{name}.xml", picture, one_based=False)
    write_lines(lists / "val.txt", [f"{name} {i + 1}" for i, name in enumerate(val)])
    write_lines(lists / "val1.txt", [val[i] for i in (4, 0, 2, 5)])
    write_lines(lists / "val2.txt", [val[i] for i in (3, 1)])
    positives: dict[str, list[str]] = {wnid: [] for wnid in wnids}
    for wnid in wnids:
        for i in range(2):
            name = f"ILSVRC2013_train/{wnid}/{wnid}_{10 * i + 7}"
            _train_pair(images, annotations, Picture(name, things=[Thing(wnid, _box(rng))]))
            positives[wnid].append(name)
    both = "ILSVRC2014_train_0000/ILSVRC2014_train_00000012"
    things = [Thing(wnid, _box(rng)) for wnid in wnids[:2]]
    _train_pair(images, annotations, Picture(both, things=things))
    negatives = [f"ILSVRC2013_train_extra0/ILSVRC2013_train_0000000{i}" for i in (1, 2)]
    for name in negatives:
        write_image(images / "train" / f"{name}.JPEG", Picture(name))
    for wnid, number in zip(wnids, (1, 2, 58), strict=True):
        own = positives[wnid] + ([both] if wnid in wnids[:2] else [])
        # the lists of 2014 name the folders of an older packaging
        old = [name.removeprefix("ILSVRC2013_train/") for name in own]
        write_lines(lists / f"train_pos_{number}.txt", old)
        write_lines(lists / f"train_neg_{number}.txt", [n.rsplit("/")[-1] for n in negatives])
        marked = [f"{name} 1" for name in own] + [f"{name} -1" for name in negatives]
        write_lines(lists / f"train_{number}.txt", marked)
    return folder


def small_loc(root: Path, *, per_class: int = 2) -> Path:
    """`root`/ILSVRC with CLS-LOC for train and val, and Kaggle's tables and the kit's beside it.

    train: `per_class` annotated images per class of `LOC_NUMBERS`, and one without XML; val:
    `per_class` per class in one folder, one of them with two objects. Beside ILSVRC:
    LOC_train_solution.csv, LOC_val_solution.csv, and ILSVRC2012_devkit_t12/data with
    map_clsloc.txt and ILSVRC2012_validation_ground_truth.txt (of as many images).
    """
    folder, rng = root / "ILSVRC", np.random.default_rng(4)
    images, annotations, lists = (
        folder / kind / "CLS-LOC" for kind in ("Data", "Annotations", "ImageSets")
    )
    train: list[str] = []
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for wnid in LOC_NUMBERS:
        for i in range(per_class):
            picture = Picture(f"{wnid}/{wnid}_{9 - i}", things=[Thing(wnid, _box(rng))])
            _train_pair(images, annotations, picture)
            train.append(picture.name)
            rows["train"].append(_kaggle_row(picture))
        write_image(images / "train" / wnid / f"{wnid}_100.JPEG", Picture(wnid))
    numbers = []
    for i in range(per_class * len(LOC_NUMBERS)):
        wnid = list(LOC_NUMBERS)[(2 * i + 1) % 3]
        things = [Thing(wnid, _box(rng)) for _ in range(2 if i == 1 else 1)]
        picture = Picture(f"ILSVRC2012_val_{i + 1:08d}", things=things)
        write_image(images / "val" / f"{picture.name}.JPEG", picture)
        write_xml(annotations / "val" / f"{picture.name}.xml", picture, one_based=False)
        rows["val"].append(_kaggle_row(picture))
        numbers.append(str(LOC_NUMBERS[wnid]))
    val = [row.split(",")[0] for row in rows["val"]]
    write_lines(lists / "train_loc.txt", [f"{name} {i + 1}" for i, name in enumerate(train)])
    write_lines(lists / "val.txt", [f"{name} {i + 1}" for i, name in enumerate(val)])
    for name, lines in rows.items():  # Kaggle's rows are in no order
        table = root / f"LOC_{name}_solution.csv"
        write_lines(table, ["ImageId,PredictionString", *reversed(lines)])
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    write_lines(kit / "map_clsloc.txt", [f"{w} {n} thing_{n}" for w, n in LOC_NUMBERS.items()])
    write_lines(kit / "ILSVRC2012_validation_ground_truth.txt", numbers)
    return folder


def _train_pair(images: Path, annotations: Path, picture: Picture) -> None:
    write_image(images / "train" / f"{picture.name}.JPEG", picture)
    write_xml(annotations / "train" / f"{picture.name}.xml", picture, one_based=False)


def _kaggle_row(picture: Picture) -> str:
    cells = []
    for thing in picture.things:
        x1, y1, x2, y2 = (round(value) for value in thing.box)
        cells.append(f"{thing.name} {x1} {y1} {x2 - 1} {y2 - 1} ")
    return f"{Path(picture.name).name},{''.join(cells)}"


def _box(
    rng: np.random.Generator, size: tuple[int, int] = (80, 100)
) -> tuple[float, float, float, float]:
    """Whole xyxy pixels inside an image of (height, width), 16 or more on each side."""
    height, width = size
    x1, y1 = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
    x2, y2 = int(rng.integers(x1 + 16, width + 1)), int(rng.integers(y1 + 16, height + 1))
    return float(x1), float(y1), float(x2), float(y2)
