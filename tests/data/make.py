"""Small COCO sets made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.resizes import ShortEdge
from resdet.data.detection.transforms import TestTransform, TrainTransform

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


def annotation(**changes: Any) -> dict[str, Any]:
    """A sound annotation of image 1; a change to None removes the key."""
    entry = {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10, 10, 20, 20],
        "segmentation": [SQUARE],
        "area": 400,
        "iscrowd": 0,
        **changes,
    }
    return {key: value for key, value in entry.items() if value is not None}


def write_coco(
    folder: Path,
    annotations: list[dict[str, Any]],
    *,
    name: str = "a.json",
    images: list[dict[str, Any]] | None = None,
    categories: list[dict[str, Any]] | None = None,
) -> tuple[str, str]:
    """Writes the JSON, and a gray 60×40 (width×height) image file for each image that has none."""
    pictures = folder / "images"
    pictures.mkdir(exist_ok=True)
    if images is None:
        images = [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}]
    for image in images:
        file = pictures / str(image.get("file_name", "unnamed.png"))
        if not file.exists():
            Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(file)
    if categories is None:
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(data))
    return str(pictures), str(folder / name)


def dataset(images: Any, annotations: Any, **options: Any) -> DetectionDataset:
    """With a test transform that leaves the 40 pixels of height as they are."""
    options.setdefault("transform", TestTransform(short_edge=40, max_size=1000))
    return read_dataset(images, annotations, **options)


def train_transform(**options: Any) -> TrainTransform:
    """Short edges of 96 to 128 pixels, small and quick."""
    options.setdefault("resize", ShortEdge([96, 112, 128], 200))
    return TrainTransform(**options)
