"""What makes the files that the pages name: photos and annotations of few, small images."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from resdet.interop.cifar import CIFAR10
from resdet.interop.coco_classes import COCO_CATEGORIES
from tests.data import layouts
from tests.data.make_cls import picture, write_classes
from tests.docs.pages import PAGES, ROOT
from tests.engine.cls_data import write_cifar10

FORMATS = ROOT / "tests/data/formats"
"""Twelve photos of 96×64 pixels with objects of two classes, in many formats."""
NUM_TRAIN, NUM_PHOTOS = 8, 10
BLOOD = ["RBC", "WBC", "Platelets"]


def sorted_photos() -> list[Path]:
    return sorted((FORMATS / "images").iterdir())


def photos(path: Path) -> None:
    shutil.copytree(FORMATS / "images", path)


def some_photos(first: int, last: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for image in sorted_photos()[first:last]:
            shutil.copyfile(image, path / image.name)

    return make


def coco(first: int = 0, last: int | None = None) -> Callable[[Path], None]:
    """A COCO file of some of the photos."""

    def make(path: Path) -> None:
        data = json.loads((FORMATS / "coco.json").read_text())
        write_part(path, data, [image["id"] for image in data["images"][first:last]])

    return make


def traffic(path: Path) -> None:
    """The objects as trucks and buses; no tree was annotated."""
    data = json.loads((FORMATS / "coco.json").read_text())
    for category, name in zip(data["categories"], ("truck", "bus"), strict=True):
        category["name"] = name
    data["categories"].append({"id": 9, "name": "tree"})
    path.write_text(json.dumps(data))


def patients(path: Path) -> None:
    """The training photos, one per patient, and the annotations that name them so."""
    data = json.loads((FORMATS / "coco.json").read_text())
    data["images"] = data["images"][:NUM_TRAIN]
    path.mkdir()
    for number, image in enumerate(data["images"]):
        name = f"patient{number}_{number}.png"
        shutil.copyfile(FORMATS / "images" / image["file_name"], path / name)
        image["file_name"] = name
    (path.parent / "train.json").unlink()
    write_part(path.parent / "train.json", data, [image["id"] for image in data["images"]])


def write_part(path: Path, data: dict[str, Any], ids: Sequence[int]) -> None:
    """A COCO file with some of the images."""
    images = [image for image in data["images"] if image["id"] in ids]
    annotations = [entry for entry in data["annotations"] if entry["image_id"] in ids]
    path.write_text(json.dumps({**data, "images": images, "annotations": annotations}))


def coco_results(path: Path) -> None:
    """Detections of the photos: their objects, with a score."""
    data = json.loads((FORMATS / "coco.json").read_text())
    kept = ("image_id", "category_id", "bbox")
    rows = [{key: entry[key] for key in kept} | {"score": 0.9} for entry in data["annotations"]]
    path.write_text(json.dumps(rows[: len(rows) // 2]))


def photo(path: Path) -> None:
    picture(1, 64, 96).save(path)


def folder_of_photos(path: Path) -> None:
    """Photos to predict on, and class folders to train on."""
    path.mkdir()
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        picture(seed, 64, 96).save(path / name)
    write_classes(path / "train", {"ants": 3, "bees": 3})
    write_classes(path / "val", {"ants": 1, "bees": 1})
    write_classes(path / "new", {".": 2})


def orthophoto(path: Path) -> None:
    """With a place on earth."""
    import rasterio

    pixels = np.asarray(picture(3, 64, 96)).transpose(2, 0, 1)
    size = {"height": 64, "width": 96, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32632", transform=place, **size
    ) as file:
        file.write(pixels)


def video(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (96, 64))
    for seed in range(3):
        writer.write(np.asarray(picture(seed, 64, 96)))
    writer.release()


def yolo(path: Path) -> None:
    """data.yaml, and images and labels for training and validation in the folder yolo_files."""
    root = path.parent / "yolo_files"
    images = sorted_photos()
    for part, chosen in (("train", images[:NUM_TRAIN]), ("val", images[NUM_TRAIN:NUM_PHOTOS])):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for image in chosen:
            shutil.copyfile(image, root / "images" / part / image.name)
            label = FORMATS / "yolo_boxes/labels" / f"{image.stem}.txt"
            shutil.copyfile(label, root / "labels" / part / label.name)
    names = "names: [long, round]\n"
    path.write_text(f"path: yolo_files\ntrain: images/train\nval: images/val\n{names}")


def labelme(first: int, last: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for file in sorted((FORMATS / "labelme").iterdir())[first:last]:
            shutil.copyfile(file, path / file.name)

    return make


def science_bowl(path: Path) -> None:
    """ID/images/ID.png, and its objects in ID/masks."""
    for image in sorted_photos():
        (path / image.stem / "images").mkdir(parents=True)
        shutil.copyfile(image, path / image.stem / "images" / image.name)
        (path / image.stem / "masks").mkdir()
        masks = (FORMATS / "object_masks" / image.stem).rglob("*.png")
        for number, mask in enumerate(sorted(masks)):
            shutil.copyfile(mask, path / image.stem / "masks" / f"{number}.png")


def class_table(path: Path) -> None:
    """A table of the photos with classes."""
    rows = [f"{image.name},{('cat', 'dog')[i % 2]}\n" for i, image in enumerate(sorted_photos())]
    path.write_text("".join(rows))


def parquet_table(path: Path) -> None:
    """As Hugging Face stores images and labels."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": image.read_bytes(), "path": image.name}, "label": ("cat", "dog")[i % 2]}
        for i, image in enumerate(sorted_photos()[:4])
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def nuclei(path: Path) -> None:
    """Some images of the sample set, and those that pages name."""
    source = ROOT / "datasets/nuclei"
    named = {name for page in PAGES for name in re.findall(r"\w{16}\.png", page.read_text())}
    for part, count in (("train", 4), ("val", 2)):
        data = json.loads((source / f"annotations/{part}.json").read_text())
        images = sorted(data["images"], key=lambda image: image["file_name"])
        chosen = [image for image in images if image["file_name"] in named]
        chosen += [image for image in images if image not in chosen][: count - len(chosen)]
        (path / "annotations").mkdir(parents=True, exist_ok=True)
        (path / "images").mkdir(exist_ok=True)
        write_part(path / f"annotations/{part}.json", data, [image["id"] for image in chosen])
        for image in chosen:
            name = image["file_name"]
            shutil.copyfile(source / "images" / name, path / "images" / name)


def write_boxes(
    images: Path, annotations: Path, names: Sequence[str], *, count: int, start: int = 0
) -> None:
    """Drawn images of two objects each as COCO, with the ids that COCO's categories have."""
    ids = {name: number for number, name in COCO_CATEGORIES}
    categories = [{"id": ids.get(name, i), "name": name} for i, name in enumerate(names, 1)]
    images.mkdir(parents=True, exist_ok=True)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    listed, objects = [], []
    for i in range(start, start + count):
        name, pixels = f"{images.name}_{i:012d}.jpg", np.array(picture(i, 96, 128))
        listed.append({"id": i + 1, "file_name": name, "height": 96, "width": 128})
        for k, (x, y) in enumerate([(8, 8), (70, 40)]):
            label = (i + k) % len(names)
            pixels[y : y + 40, x : x + 44] = (90 * label) % 256
            box = {"bbox": [x, y, 44, 40], "area": 1760, "iscrowd": 0}
            outline = [[x, y, x + 44, y, x + 44, y + 40, x, y + 40]]
            entry = {"id": len(objects) + 1, "image_id": i + 1, **box, "segmentation": outline}
            objects.append(entry | {"category_id": categories[label]["id"]})
        Image.fromarray(pixels).save(images / name)
    data = {"images": listed, "annotations": objects, "categories": categories}
    annotations.write_text(json.dumps(data))


def coco_folder(path: Path) -> None:
    """The folders of 2017 and 2014 and their files, with minival and test-dev."""
    names = [name for _, name in COCO_CATEGORIES]
    counts = {"train2017": 4, "val2017": 1, "train2014": 4, "val2014": 2}
    for split, count in counts.items():
        file, start = path / f"annotations/instances_{split}.json", 4 if "val" in split else 0
        write_boxes(path / split, file, names, count=count, start=start)
    data = json.loads((path / "annotations/instances_val2014.json").read_text())
    for name, image in (("minival", 5), ("valminusminival", 6)):
        write_part(path / f"annotations/instances_{name}2014.json", data, [image])
    file = path / "annotations/image_info_test-dev2015.json"
    write_boxes(path / "test2015", file, names, count=2, start=8)
    data = json.loads(file.read_text())
    del data["annotations"]
    file.write_text(json.dumps(data))


def voc_devkit(path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        layouts.small_voc(path, year=year, count=4)


def voc_results(path: Path) -> None:
    path.mkdir()
    for name in layouts.VOC_CLASSES:
        (path / f"comp4_det_test_{name}.txt").write_text("000001 0.9 10 10 40 40\n")


def ilsvrc(path: Path) -> None:
    layouts.small_det(path.parent)
    layouts.small_loc(path.parent)


def imagenet(path: Path) -> None:
    classes = dict.fromkeys(layouts.LOC_NUMBERS, 2)
    for part in ("train", "val"):
        write_classes(path / part, classes, ".JPEG")


def blood(path: Path) -> None:
    for part, count, start in (("train", 6, 0), ("val", 2, 6)):
        file = path / f"annotations/{part}.json"
        write_boxes(path / "images", file, BLOOD, count=count, start=start)


def cifar10(path: Path) -> None:
    """With the names of its classes."""
    write_cifar10(path, per_batch=4)
    names = [name.encode() for name in CIFAR10]
    meta = path / "cifar-10-batches-py/batches.meta"
    meta.write_bytes(pickle.dumps({b"label_names": names}, protocol=2))


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def served(path: Path) -> None:
    """What the stand-ins for curl and git find: the archives of public data sets, by name."""
    path.mkdir()
    years = {"VOCtrainval_06-Nov-2007": "VOC2007", "VOCtest_06-Nov-2007": "VOC2007"}
    for name, year in {**years, "VOCtrainval_11-May-2012": "VOC2012"}.items():
        layouts.small_voc(path / "VOCdevkit", year=year, count=2)
        pack(path / f"{name}.tar", path / "VOCdevkit")
    coco_folder(path / "coco")
    for name in ("train2017", "val2017", "annotations"):
        file = {"annotations": "annotations_trainval2017"}.get(name, name)
        with zipfile.ZipFile(path / f"{file}.zip", "w") as archive:
            for one in sorted((path / "coco" / name).iterdir()):
                archive.write(one, f"{name}/{one.name}")
    shutil.rmtree(path / "coco")
    write_cifar10(path / "cifar", per_batch=4)
    pack(path / "cifar-10-python.tar.gz", path / "cifar/cifar-10-batches-py", "w:gz")
    shutil.rmtree(path / "cifar")
    things = [
        layouts.Thing(name, (10 + 20 * k, 10, 30 + 20 * k, 40)) for k, name in enumerate(BLOOD)
    ]
    pictures = [layouts.Picture(f"BloodImage_{i:05d}", things=things) for i in range(3)]
    layouts.write_voc(path / "BCCD_Dataset", pictures, year="BCCD")


def pack(path: Path, folder: Path, mode: Any = "w") -> None:
    """The folder as a tar archive; the folder is removed."""
    with tarfile.open(path, mode) as archive:
        archive.add(folder, folder.name)
    shutil.rmtree(folder)


def imagenet_archives(path: Path) -> None:
    """The three files of image-net.org: an archive of archives, a flat one, and the kit."""
    root = path.parent
    write_classes(root / "classes", dict.fromkeys(layouts.LOC_NUMBERS, 2), ".JPEG")
    for wnid in layouts.LOC_NUMBERS:
        with tarfile.open(root / f"{wnid}.tar", "w") as archive:
            for image in sorted((root / "classes" / wnid).iterdir()):
                archive.add(image, f"{wnid}_{image.name}")
    with tarfile.open(path, "w") as archive:
        for wnid in layouts.LOC_NUMBERS:
            archive.add(root / f"{wnid}.tar", f"{wnid}.tar")
            (root / f"{wnid}.tar").unlink()
    shutil.rmtree(root / "classes")
    layouts.small_loc(root / "kit")
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for image in sorted((root / "kit/ILSVRC/Data/CLS-LOC/val").iterdir()):
            archive.add(image, image.name)
    pack(root / "ILSVRC2012_devkit_t12.tar.gz", root / "kit/ILSVRC2012_devkit_t12", "w:gz")
    shutil.rmtree(root / "kit")
