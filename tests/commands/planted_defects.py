"""A part of BCCD with one defect of each kind, as users bring them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

Coco = dict[str, Any]

TRAIN, VAL = 70, 24
"""Images of the part."""


class Part:
    """One COCO file and its images."""

    def __init__(self, content: Coco, count: int) -> None:
        self.images: list[Coco] = content["images"][:count]
        ids = {image["id"] for image in self.images}
        self.categories: list[Coco] = content["categories"]
        self.objects = [each for each in content["annotations"] if each["image_id"] in ids]
        self.next = 1_000_000

    def content(self) -> Coco:
        keys = {"images": self.images, "categories": self.categories}
        return {**keys, "annotations": self.objects}

    def of(self, image: int) -> list[Coco]:
        """The objects of an image by its place."""
        key = self.images[image]["id"]
        return [each for each in self.objects if each["image_id"] == key]

    def add_object(self, image: Any, box: list[float], category: int = 1) -> Coco:
        self.next += 1
        area = box[2] * box[3]
        new = {"id": self.next, "image_id": image, "category_id": category, "bbox": box}
        self.objects.append(new | {"area": area, "iscrowd": 0})
        return self.objects[-1]

    def add_image(self, name: str, size: tuple[int, int] = (640, 480), key: Any = None) -> Any:
        """An image with one object; returns its id."""
        self.next += 1
        key = self.next if key is None else key
        image = {"id": key, "file_name": name, "width": size[0], "height": size[1]}
        self.images.append(image)
        self.add_object(key, [60.0, 50.0, 90.0, 80.0])
        return key


class Planted:
    """A folder with images/, train.json and val.json."""

    clean: Planted
    """As it was before."""

    def __init__(self, source: Path, folder: Path, train: int = TRAIN, val: int = VAL) -> None:
        self.folder, self.images = folder, folder / "images"
        self.images.mkdir(parents=True)
        parts = []
        for name, count in (("train", train), ("val", val)):
            part = Part(json.loads((source / "annotations" / f"{name}.json").read_text()), count)
            for image in part.images:
                shutil.copyfile(
                    source / "images" / image["file_name"], self.images / image["file_name"]
                )
            parts.append(part)
        self.train, self.val = parts

    def copy(self) -> Planted:
        """The same images with annotations of its own."""
        return copy.deepcopy(self)

    def write(self, name: str = "") -> list[str]:
        """Writes the annotations; returns the four paths."""
        paths = []
        for part, key in ((self.train, "train"), (self.val, "val")):
            file = self.folder / f"{name}{key}.json"
            file.write_text(json.dumps(part.content()))
            paths += [str(self.images), str(file)]
        return paths

    def path(self, image: int) -> Path:
        return self.images / self.train.images[image]["file_name"]

    def pixels(self, image: int) -> np.ndarray:
        return np.asarray(Image.open(self.path(image)).convert("RGB"))

    def save(self, name: str, pixels: np.ndarray, quality: int = 90, **options: Any) -> str:
        Image.fromarray(pixels).save(self.images / name, quality=quality, **options)
        return name


def plant_all(data: Planted) -> None:
    """Every defect that leaves the others to be found."""
    for plant in PLANTED.values():
        plant[0](data)


def _scaled(data: Planted, name: str, image: int, scale: float = 0.6) -> str:
    pixels = data.pixels(image)
    return data.save(name, cv2.resize(pixels, None, fx=scale, fy=scale), quality=60)


def _shared(data: Planted) -> None:
    data.val.images.append({**data.train.images[1], "id": 900_001})
    data.val.add_object(900_001, [50.0, 60.0, 70.0, 80.0])


def _equal_in_both(data: Planted) -> None:
    shutil.copyfile(data.path(2), data.images / "val_copy.jpg")
    data.val.add_image("val_copy.jpg")


def _near_in_both(data: Planted) -> None:
    data.val.add_image(_scaled(data, "val_scaled.jpg", 3), (384, 288))


def _equal_within(data: Planted) -> None:
    shutil.copyfile(data.path(4), data.images / "copy.jpg")
    data.train.add_image("copy.jpg")


def _near_within(data: Planted) -> None:
    data.train.add_image(_scaled(data, "scaled.jpg", 5), (384, 288))


def _listed_twice(data: Planted) -> None:
    data.train.add_image(data.train.images[6]["file_name"])


def _same_id(data: Planted) -> None:
    for name in ("one.jpg", "two.jpg"):
        data.save(name, np.roll(data.pixels(7), 99 if name == "one.jpg" else 320, axis=1))
        data.train.add_image(name, key=777_777)


def _class_of(name: str) -> Callable[[Planted], None]:
    def plant(data: Planted) -> None:
        key = 100 + len(data.train.categories)
        for part in (data.train, data.val):
            part.categories.append({"id": key, "name": name})
        for image in range(25):
            part = data.train
            part.add_object(part.images[image]["id"], [200.0 + image, 210.0, 61.0, 57.0], key)

    return plant


def _wrong_size(data: Planted) -> None:
    data.train.images[8] |= {"width": 1280, "height": 960}


def _turned(data: Planted) -> None:
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.roll(data.pixels(9), 222, axis=1)
    data.save("turned.jpg", pixels, exif=exif.tobytes())
    data.train.add_image("turned.jpg")


def _outside(data: Planted) -> None:
    data.train.add_object(data.train.images[10]["id"], [700.0, 500.0, 40.0, 40.0])


def _past(data: Planted) -> None:
    data.train.add_object(data.train.images[11]["id"], [600.0, 400.0, 90.0, 60.0])


def _flat(data: Planted) -> None:
    data.train.add_object(data.train.images[12]["id"], [30.0, 30.0, 0.0, 40.0])


def _negative(data: Planted) -> None:
    data.train.add_object(data.train.images[13]["id"], [30.0, 30.0, -20.0, 40.0])


def _negative_area(data: Planted) -> None:
    data.train.of(14)[0]["area"] = -5.0


def _text_ids(data: Planted) -> None:
    for each in data.train.of(15):
        each["image_id"] = str(each["image_id"])


def _renamed(data: Planted) -> None:
    data.train.images[16]["file_name"] = f"C:\\cells\\{data.train.images[16]['file_name']}"


def _missing(data: Planted) -> None:
    data.train.add_image("nowhere.jpg")


def _cut(data: Planted) -> None:
    data.path(17).write_bytes(data.path(17).read_bytes()[:5000])


def _crowds(data: Planted) -> None:
    for each in [each for each in data.train.objects if each["id"] < 1_000_000][::3]:
        each["iscrowd"] = 1


def _repeated(data: Planted) -> None:
    first = next(each for each in data.train.of(18) if not each["iscrowd"])
    data.train.add_object(first["image_id"], list(first["bbox"]), first["category_id"])


def _dark(data: Planted) -> None:
    data.save("dark.jpg", (np.roll(data.pixels(19), 250, axis=1) * 0.12).astype(np.uint8))
    data.train.add_image("dark.jpg")


def _bright(data: Planted) -> None:
    pixels = 235 + np.roll(data.pixels(20), 250, axis=1) // 13
    data.save("bright.jpg", pixels.astype(np.uint8))
    data.train.add_image("bright.jpg")


def _blurred(data: Planted) -> None:
    pixels = np.roll(data.pixels(21), 250, axis=1)
    data.save("blurred.jpg", cv2.GaussianBlur(pixels, (0, 0), 5))
    data.train.add_image("blurred.jpg")


def _gray(data: Planted) -> None:
    gray = np.roll(data.pixels(22), 250, axis=1).mean(axis=2, keepdims=True)
    data.save("gray.jpg", gray.repeat(3, axis=2).astype(np.uint8))
    data.train.add_image("gray.jpg")


def _odd_size(data: Planted) -> None:
    data.save("strip.jpg", np.roll(data.pixels(23), 250, axis=1)[100:200])
    data.train.add_image("strip.jpg", (640, 100))
    data.train.objects[-1]["bbox"] = [50.0, 20.0, 60.0, 60.0]


def _tiny(data: Planted) -> None:
    for image in range(20, 45):
        data.train.add_object(data.train.images[image]["id"], [300.0, 200.0 + image, 2.0, 2.0])


def _huge(data: Planted) -> None:
    data.train.add_object(data.train.images[24]["id"], [0.0, 0.0, 640.0, 479.0], 3)


def _rare(data: Planted) -> None:
    for part in (data.train, data.val):
        part.categories.append({"id": 50, "name": "Blast"})
    data.train.add_object(data.train.images[25]["id"], [100.0, 100.0, 70.0, 70.0], 50)


def _untrained(data: Planted) -> None:
    for part in (data.train, data.val):
        part.categories.append({"id": 51, "name": "Parasite"})
    data.val.add_object(data.val.images[0]["id"], [100.0, 100.0, 70.0, 70.0], 51)


def _crowded(data: Planted) -> None:
    key = data.train.images[26]["id"]
    for row in range(10):
        for column in range(12):
            data.train.add_object(key, [5.0 + 52 * column, 4.0 + 47 * row, 40.0, 38.0])


PLANTED: dict[str, tuple[Callable[[Planted], None], str]] = {
    "an image in both sets": (_shared, r"images \(image 900001 .*are also in"),
    "equal files in both sets": (_equal_in_both, r"val_copy.jpg.*are byte for byte equal to files"),
    "near-duplicates in both sets": (_near_in_both, r"val_scaled.*show the same as images of"),
    "equal files in a set": (_equal_within, r"\(copy.jpg\) is byte for byte image 5 "),
    "near-duplicates in a set": (_near_within, r"\(scaled.jpg\) shows the same as image 6 "),
    "an image listed twice": (_listed_twice, r"has the file of image 7 "),
    "two images with one id": (_same_id, r"image 777777 is the id of 2 images"),
    "class names: case": (_class_of("rbc"), r"classes 'RBC' and 'rbc' differ by case, spaces"),
    "class names: spaces": (_class_of(" WBC"), r"classes 'WBC' and ' WBC' differ by case, spaces"),
    "class names: a letter": (_class_of("Platelet"), r"'Platelets' and 'Platelet' differ by one"),
    "an annotated size that is not the file's": (_wrong_size, r"is 640×480 .*as 1280×960"),
    "EXIF orientation": (_turned, r"turned.jpg.*480×640 pixels upright \(its EXIF orientation"),
    "a box outside its image": (_outside, r"\[700, 500, 40, 40\] outside its image"),
    "a box past the border": (_past, r"\[600, 400, 90, 60\] past its image"),
    "a box without area": (_flat, r"bbox \[30, 30, 0, 40\] without width"),
    "a negative side": (_negative, r"\[30(.0)?, 30(.0)?, -20(.0)?, 40(.0)?\]"),
    "a negative area": (_negative_area, r"with an 'area' that is negative"),
    "ids as text": (_text_ids, r"'image_id' is an image's id as a number only"),
    "a file name of another machine": (_renamed, r"C:\\.*is BloodImage_000\d\d.jpg in"),
    "a missing image": (_missing, r"nowhere.jpg\) has no file in"),
    "an image cut short": (_cut, r"can't be read \(damaged image file"),
    "many crowd regions": (_crowds, r"are crowd regions \(iscrowd 1\)"),
    "an object twice": (_repeated, r"have the image, class and bbox of another one"),
    "a very dark image": (_dark, r"\(dark.jpg\) is very dark"),
    "a very bright image": (_bright, r"\(bright.jpg\) is very bright"),
    "a blurred image": (_blurred, r"\(blurred.jpg\) is blurred"),
    "a gray image among colours": (
        _gray,
        r"1 of \d+ images \(image \d+ \(gray.jpg\)\) are gray, and",
    ),
    "an odd size": (_odd_size, r"strip.jpg\) has the odd size 640×100"),
    "tiny objects": (_tiny, r"are less than 4 pixels wide or high"),
    "a huge object": (_huge, r"cover more than 90% of their image"),
    "a rare class": (_rare, r"'Blast' has 1"),
    "a class without training objects": (
        _untrained,
        r"data.train has none of \('Parasite'\)|classes \('Parasite'\) have no object",
    ),
    "crowding": (_crowded, r"have more than 100 objects, up to 1\d\d"),
}
"""What is planted, and the finding that names it."""


def _fractions(data: Planted) -> None:
    for each in data.train.objects:
        each["bbox"] = [
            value / side for value, side in zip(each["bbox"], (640, 480) * 2, strict=True)
        ]


def _corners(data: Planted) -> None:
    for each in data.train.objects:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x, y, x + width, y + height]


def _centers(data: Planted) -> None:
    for each in data.train.objects:
        x, y, width, height = each["bbox"]
        each["bbox"] = [x + width / 2, y + height / 2, width, height]


def _all_crowds(data: Planted) -> None:
    for each in data.val.objects:
        each["iscrowd"] = 1


WHOLE: dict[str, tuple[Callable[[Planted], None], str]] = {
    "boxes as fractions": (_fractions, r"boxes are within 0..1: they look like fractions"),
    "boxes as corners": (_corners, r"look like boxes given as corners \[x1, y1, x2, y2\]"),
    "boxes with centers": (_centers, r"look like boxes given as \[center x, center y, width"),
    "crowd regions alone": (_all_crowds, r"all \d+ objects are crowd regions"),
}
"""What can only be wrong with all boxes of a file."""
