"""Images, objects and weights that every detector of the benchmark gets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from resdet.commands.convert import convert
from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_to_dict, load_config
from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.files.pixels import resize_exactly
from resdet.files.walk import walk
from resdet.interop.convert import to_resdet
from resdet.interop.weights import read_weights
from tools.benchmark import detectron2_side
from tools.benchmark.detectors import SOURCE, save_seeded_weights, score_at

logger = logging.getLogger("resdet")

ENDINGS = (".jpg", ".jpeg", ".png")
SEEDED_CLASSES = 80
CANDIDATES = 1000
"""Scores above the threshold an image, with random weights; trained ones leave hundreds."""
OURS = "coco_mask_rcnn_r50_1x"


class SceneOptions(TypedDict, total=False):
    """Those of `write_scene` that a user of the benchmark may choose."""

    size: tuple[int, int]
    objects: int
    weights: str | None
    images: str | Path | None
    tiles: int
    score_thresh: float | None
    depth: int


def write_scene(
    folder: Path,
    *,
    batch_size: int,
    size: tuple[int, int] = (800, 1216),
    objects: int = 8,
    weights: str | None = None,
    images: str | Path | None = None,
    tiles: int = 1,
    score_thresh: float | None = None,
    num_classes: int = SEEDED_CLASSES,
    depth: int = 50,
    seed: int = 0,
) -> Path:
    """Write what `load_scene` reads into `folder`; returns its file.

    A batch of at least two images of `size` (height, width) in pixels: each is made of `tiles`² of
    those in the folder `images`, resized, or of noise without a folder. Each has `objects` seeded
    boxes to train on. `weights` is a Mask R-CNN R50-FPN that `read_weights` accepts; without it
    they are random, for a ResNet of `depth` and `num_classes`. `score_thresh` None is .05, or with
    random weights a threshold that `CANDIDATES` scores per image pass.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    count = max(batch_size, 2)
    path = folder / "weights.pth"
    if weights is None:
        save_seeded_weights(path, num_classes, depth, seed)
    else:
        convert(weights, path, target="torchvision")
    loaded = read_weights(str(path), SOURCE)
    num_classes = len(loaded.class_names)
    theirs = None
    if detectron2_side.is_installed():
        theirs = folder / "weights.pkl"
        # the same network by the conventions of Detectron2, which resdet's own configs have
        ours = load_config(OURS, [f"model.num_classes={num_classes}"], schema=DetectionConfig)
        torch.save(to_resdet(replace(loaded, config=config_to_dict(ours))), folder / "ours.pt")
        convert(str(folder / "ours.pt"), theirs, target="detectron2")
    if images is None:
        noise = rng.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
        pixels = torch.from_numpy(noise)
    else:
        pixels = _tiled(Path(images), size, count, tiles)
    scene: dict[str, Any] = {
        "images": pixels,
        "batch_size": batch_size,
        "weights": str(path),
        "detectron2": None if theirs is None else str(theirs),
        "num_classes": num_classes,
        "depth": depth,
        "score_thresh": 0.05 if score_thresh is None else score_thresh,
        "boxes": _boxes(rng, count, objects, size),
        "labels": torch.from_numpy(rng.integers(0, num_classes, (count, objects))),
    }
    if weights is None and score_thresh is None:
        scene["score_thresh"] = score_at(scene, CANDIDATES)
    file = folder / "scene.pt"
    torch.save(scene, file)
    return file


def _tiled(folder: Path, size: tuple[int, int], count: int, tiles: int) -> Tensor:
    paths = list(walk(folder, ENDINGS))
    if not paths:
        raise UserError(
            f"--images {folder}: no {', '.join(ENDINGS)} in it; give a folder of images"
        )
    height, width = size[0] // tiles, size[1] // tiles
    scenes = np.zeros((count, *size, 3), np.uint8)
    for number, place in enumerate(np.ndindex(count, tiles, tiles)):
        image = read_image(paths[number % len(paths)])
        row, top, left = place[0], place[1] * height, place[2] * width
        scenes[row, top : top + height, left : left + width] = resize_exactly(image, height, width)
    return torch.from_numpy(scenes).permute(0, 3, 1, 2).contiguous()


def _boxes(rng: np.random.Generator, count: int, objects: int, size: Sequence[int]) -> Tensor:
    """(count, objects, 4) xyxy: sides between a twentieth and half of the image's."""
    limits = np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(0.05), np.log(0.5), (count, objects, 2))) * limits
    corner = rng.uniform(0, 1, (count, objects, 2)) * (limits - sides)
    return torch.from_numpy(np.concatenate([corner, corner + sides], axis=2)).float()
