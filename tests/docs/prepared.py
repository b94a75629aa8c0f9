"""A working folder with everything that the pages name, as small as it can be.

A row of `FILES` is a path that a page shows, and what makes it. A page that needs another file gets
a row here; a run with another kind of model gets one in `tests.docs.runs`.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import Affine

from resdet.interop.coco_classes import COCO_CATEGORIES
from tests.data import layouts
from tests.data.make_cls import picture, write_classes
from tests.docs.pages import ROOT
from tests.engine.cls_data import write_cifar10

FORMATS = ROOT / "tests/data/formats"
"""Twelve photos of 96×64 pixels with objects of two classes, in many formats."""
NUM_TRAIN, NUM_PHOTOS = 8, 10
BLOOD = ["RBC", "WBC", "Platelets"]
SYSTEM = {"/elsewhere/": "elsewhere/", "/data/": "data/"}
"""Folders at the root of the file system in the pages, and where they are here."""


def prepare(folder: Path) -> Path:
    """Fill the folder: configs and tools of the checkout, and every row of `FILES`."""
    link_configs(folder)
    for name in ("tools", "pyproject.toml", "constraints.txt", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "datasets").mkdir()
    for path in (ROOT / "datasets").glob("*.py"):
        shutil.copyfile(path, folder / "datasets" / path.name)
    for name, make in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name)
    return folder


def link_configs(folder: Path) -> None:
    (folder / "configs").mkdir()
    for path in (ROOT / "configs").iterdir():
        (folder / "configs" / path.name).symlink_to(path)


def link(source: Path, folder: Path) -> None:
    """Fill the folder with links to a prepared one; what commands write into is copied."""
    shutil.copytree(source / "datasets/ILSVRC", folder / "datasets/ILSVRC")
    for path in [*source.iterdir(), *(source / "datasets").iterdir()]:
        place = folder / path.relative_to(source)
        if path.suffix == ".py":
            shutil.copyfile(path, place)
        elif path.name != "runs" and not place.exists():
            place.symlink_to(path)


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


def geotiff(path: Path) -> None:
    pixels = np.asarray(picture(2, 64, 96)).transpose(2, 0, 1)
    shape = {"count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(pixels)


def folder_of_photos(path: Path) -> None:
    """Photos to predict on, and class folders to train on."""
    path.mkdir()
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        picture(seed, 64, 96).save(path / name)
    write_classes(path / "train", {"ants": 3, "bees": 3})
    write_classes(path / "val", {"ants": 1, "bees": 1})
    write_classes(path / "new", {".": 2})


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
    """Some images of the sample set."""
    source = ROOT / "datasets/nuclei"
    for part, count in (("train", 4), ("val", 2)):
        data = json.loads((source / f"annotations/{part}.json").read_text())
        chosen = sorted(data["images"], key=lambda image: image["file_name"])[:count]
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
    for split, start in (("train2017", 0), ("val2017", 4), ("train2014", 0), ("val2014", 4)):
        file = path / f"annotations/instances_{split}.json"
        write_boxes(path / split, file, names, count=4 if start == 0 else 2, start=start)
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


MINE = """\
_base_: configs/own_data.yaml
model:
  backbone: {name: golden_tiny, weights: null, freeze_at: 0}
  fpn: {out_channels: 16}
  rpn: {post_nms_topk_train: 50, post_nms_topk_test: 20}
  roi:
    num_samples: 16
    box_head: {fc_dim: 16}
    mask_head: {num_convs: 1, conv_dim: 8}
  detections_per_image: 10
data:
  train: {images: my/photos, annotations: my/train.json}
  val: {images: my/photos, annotations: my/val.json}
"""
"""mine.yaml on pages that do not show it: a Mask R-CNN of few parameters."""
RESNET = """\
_base_: mine.yaml
model:
  backbone: {name: resnet18, norm: bn}
  roi: {mask_head: {num_convs: 4}}
"""
"""The same with a network that other toolkits have, and other processes."""
MODULE = """\
from resdet import register_backbone
from resdet.backbones import build_backbone


@register_backbone
def my_backbone():
    return build_backbone("resnet18", {})
"""

FILES: dict[str, Callable[[Path], None]] = {
    "mine.yaml": text(MINE),
    "resnet.yaml": text(RESNET),
    "my_module.py": text(MODULE),
    "my_backbone.py": text(MODULE),
    "my/photos": photos,
    "my/more_photos": some_photos(NUM_TRAIN, NUM_PHOTOS),
    "my/train.json": coco(0, NUM_TRAIN),
    "my/val.json": coco(NUM_TRAIN, NUM_PHOTOS),
    "my/annotations.json": coco(),
    "my/data.yaml": yolo,
    "my/yolo/data.yaml": yolo,
    "my/annotations.xml": lambda path: shutil.copyfile(FORMATS / "cvat/annotations.xml", path),
    "my/labels": labelme(0, NUM_TRAIN),
    "my/more_labels": labelme(NUM_TRAIN, NUM_PHOTOS),
    "my/train.csv": class_table,
    "my/val-00000.parquet": parquet_table,
    "stage1_train": science_bowl,
    "site_a/photos": some_photos(0, 6),
    "site_a/train.json": coco(0, 6),
    "site_b/photos": some_photos(6, 12),
    "site_b/train.json": coco(6),
    "elsewhere/images": photos,
    "photos": folder_of_photos,
    "slides": some_photos(0, 2),
    "slide.tif": photo,
    "orthophoto.tif": geotiff,
    "a.jpg": photo,
    "b.jpg": photo,
    "cells.png": photo,
    "street.jpg": photo,
    "clip.mp4": video,
    "val.json": coco(NUM_TRAIN, NUM_PHOTOS),
    "other.json": coco(NUM_TRAIN, NUM_PHOTOS),
    "GT.json": coco(NUM_TRAIN, NUM_PHOTOS),
    "R.json": coco_results,
    "results.json": coco_results,
    "results/VOC2007/Main": voc_results,
    "VOCdevkit": voc_devkit,
    "ILSVRC": ilsvrc,
    "ILSVRC2014_det_validation_blacklist.txt": text("3 n02691156\n"),
    "predictions.txt": text("1 1 0.9 5 5 40 40\n4 2 0.5 5 5 40 40\n"),
    "imagenet": imagenet,
    "datasets/nuclei": nuclei,
    "datasets/coco": coco_folder,
    "datasets/VOCdevkit": voc_devkit,
    "datasets/bccd": blood,
    "datasets/imagenet": imagenet,
    "datasets/ILSVRC": ilsvrc,
    "datasets/cifar10": lambda path: write_cifar10(path, per_batch=4),
    "datasets/mine/val": photos,
    "datasets/mine/val.json": coco(),
    "served": served,
}
