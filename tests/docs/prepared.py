"""A working folder with everything that the pages name, as small as it can be.

A row of `FILES` is a path that a page shows, and what makes it. A page that needs another file gets
a row here; a run with another kind of model gets one in `tests.docs.runs`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.docs import makers
from tests.docs.makers import FORMATS, NUM_PHOTOS, NUM_TRAIN
from tests.docs.pages import ROOT

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
    "mine.yaml": makers.text(MINE),
    "resnet.yaml": makers.text(RESNET),
    "my_module.py": makers.text(MODULE),
    "my_backbone.py": makers.text(MODULE),
    "my/photos": makers.photos,
    "my/more_photos": makers.some_photos(NUM_TRAIN, NUM_PHOTOS),
    "my/train.json": makers.coco(0, NUM_TRAIN),
    "my/val.json": makers.coco(NUM_TRAIN, NUM_PHOTOS),
    "my/annotations.json": makers.coco(),
    "my/data.yaml": makers.yolo,
    "my/yolo/data.yaml": makers.yolo,
    "my/annotations.xml": lambda path: shutil.copyfile(FORMATS / "cvat/annotations.xml", path),
    "my/labels": makers.labelme(0, NUM_TRAIN),
    "my/more_labels": makers.labelme(NUM_TRAIN, NUM_PHOTOS),
    "my/train.csv": makers.class_table,
    "my/val-00000.parquet": makers.parquet_table,
    "stage1_train": makers.science_bowl,
    "site_a/photos": makers.some_photos(0, 6),
    "site_a/train.json": makers.coco(0, 6),
    "site_b/photos": makers.some_photos(6, 12),
    "site_b/train.json": makers.coco(6),
    "elsewhere/images": makers.photos,
    "photos": makers.folder_of_photos,
    "photo.jpg": makers.photo,
    "slide.tif": makers.photo,
    "orthophoto.tif": makers.orthophoto,
    "slides": makers.some_photos(0, 2),
    "a.jpg": makers.photo,
    "b.jpg": makers.photo,
    "cells.png": makers.photo,
    "street.jpg": makers.photo,
    "clip.mp4": makers.video,
    "val.json": makers.coco(),
    "other.json": makers.coco(NUM_TRAIN, NUM_PHOTOS),
    "GT.json": makers.coco(),
    "R.json": makers.coco_results,
    "results.json": makers.coco_results,
    "results/VOC2007/Main": makers.voc_results,
    "VOCdevkit": makers.voc_devkit,
    "ILSVRC": makers.ilsvrc,
    "ILSVRC2014_det_validation_blacklist.txt": makers.text("4 n02691156\n"),
    "predictions.txt": makers.text("2 1 0.9 5 5 40 40\n4 2 0.5 5 5 40 40\n"),
    "imagenet": makers.imagenet,
    "datasets/nuclei": makers.nuclei,
    "datasets/coco": makers.coco_folder,
    "datasets/VOCdevkit": makers.voc_devkit,
    "datasets/bccd": makers.blood,
    "datasets/imagenet": makers.imagenet,
    "datasets/ILSVRC": makers.ilsvrc,
    "datasets/cifar10": makers.cifar10,
    "datasets/mine/val": makers.photos,
    "datasets/mine/val.json": makers.coco(),
    "served": makers.served,
}
