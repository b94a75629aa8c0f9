"""Files to time a COCO evaluation on: real objects, and detections made from them by a seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from resdet.evaluation.coco_input import GroundTruth, prepare_ground_truth

Polygon = NDArray[np.float64]
"""(P, 2) xy, within the unit square or in pixels."""
Floats = NDArray[np.float64]

FOUND = 0.9
"""Share of the objects with a close detection."""
CLOSE, WIDE = 0.04, 0.22
"""Jitter of a close detection and of a repeated one, in parts of the box."""
OTHER_CLASS = 0.2
"""Share of the repeated detections that name another class."""
LEAST_SIZE = (480, 640)
"""(height, width) in pixels of images whose file does not say, unless an object reaches further."""


@dataclass
class EvalFiles:
    """Where the files are, and how much is in them."""

    ground_truth: Path
    results: dict[str, Path]
    """A file of result records by kind: boxes alone, or masks alone as compressed RLE."""
    images: int
    objects: int
    detections: int


def write_eval_files(
    annotations: str | Path,
    folder: Path,
    *,
    kinds: Sequence[str],
    images: int,
    detections: int,
    seed: int,
) -> EvalFiles:
    """Write ground truth of at most `images` images and `detections` detections for each.

    Most objects of `annotations` get a close detection; the rest repeat objects loosely or are
    false, and scores fall with the distance. A detection's mask is an object's, moved and scaled
    into its box. Objects without outlines get wavy ones. Raises UserError for a file that is no
    COCO annotation file.
    """
    truth = prepare_ground_truth(annotations)
    ids = list(truth.image_rank)[:images]
    objects: dict[int, list[int]] = {truth.image_rank[image]: [] for image in ids}
    for index, annotation in enumerate(truth.annotations):
        if annotation["image_id"] in objects:
            objects[annotation["image_id"]].append(index)
    sizes = {rank: _size(truth, rank, inside) for rank, inside in objects.items()}
    outlines = _outlines(truth, seed) if "segm" in kinds else None
    category_ids = list(truth.category_rank)
    all_boxes = np.array([a["bbox"] for a in truth.annotations], np.float64).reshape(-1, 4)
    classes = np.array([a["category_id"] for a in truth.annotations], np.int64)
    ground_truth = folder / "ground_truth.json"
    written = _write_truth(ground_truth, truth, ids, objects, sizes, outlines)
    results = {}
    for kind in kinds:
        results[kind] = folder / f"{kind}_results.json"
        with results[kind].open("w", encoding="utf-8") as file:
            file.write("[")
            for number, image in enumerate(ids):
                rank = truth.image_rank[image]
                rng = np.random.default_rng((seed, rank))
                made = _detect(all_boxes, classes, objects[rank], sizes[rank], detections, rng)
                records = _records(made, kind, image, category_ids, sizes[rank], outlines)
                file.write((", " if number else "") + json.dumps(records)[1:-1])
            file.write("]\n")
    return EvalFiles(ground_truth, results, len(ids), written, len(ids) * detections)


def _size(truth: GroundTruth, rank: int, inside: Sequence[int]) -> tuple[int, int]:
    if rank in truth.sizes:
        return truth.sizes[rank]
    boxes = [truth.annotations[index]["bbox"] for index in inside]
    return (
        max([LEAST_SIZE[0], *(math.ceil(y + h) for _, y, _, h in boxes)]),
        max([LEAST_SIZE[1], *(math.ceil(x + w) for x, _, w, _ in boxes)]),
    )


def _outlines(truth: GroundTruth, seed: int) -> list[list[Polygon]]:
    """Polygons of each annotation within the unit square that stands for its box."""
    found = []
    for annotation, segmentation in zip(truth.annotations, truth.segmentations, strict=True):
        x, y, width, height = annotation["bbox"]
        if isinstance(segmentation, list) and width > 0 and height > 0:
            parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in segmentation]
            found.append([(part - (x, y)) / (width, height) for part in parts])
        else:
            found.append([_wavy(np.random.default_rng((seed, annotation["id"], 1)))])
    return found


def _wavy(rng: np.random.Generator) -> Polygon:
    """A closed curve around the middle that touches all sides of the unit square."""
    angles = np.linspace(0, 2 * np.pi, int(rng.integers(16, 48)), endpoint=False)
    waves = np.arange(2, 7)
    heights = rng.normal(0, 0.18, 5) / np.sqrt(waves)
    turns = rng.uniform(0, 2 * np.pi, 5)
    radius = np.maximum(0.3, 1 + (heights * np.cos(angles[:, None] * waves + turns)).sum(1))
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]
    points -= points.min(axis=0)
    return points / points.max(axis=0)


def _write_truth(
    path: Path,
    truth: GroundTruth,
    ids: Sequence[int | str],
    objects: dict[int, list[int]],
    sizes: dict[int, tuple[int, int]],
    outlines: list[list[Polygon]] | None,
) -> int:
    """Write the annotation file with the original ids; returns the number of its objects."""
    category_ids = list(truth.category_rank)
    annotations = []
    for image in ids:
        for index in objects[truth.image_rank[image]]:
            annotation = dict(truth.annotations[index])
            annotation["image_id"] = image
            annotation["category_id"] = category_ids[annotation["category_id"] - 1]
            if outlines is not None:
                annotation["segmentation"] = truth.segmentations[index] or _polygons(
                    outlines[index], annotation["bbox"]
                )
            annotations.append(annotation)
    images = [
        {"id": image, "height": height, "width": width}
        for image, (height, width) in zip(ids, sizes.values(), strict=True)
    ]
    names = zip(category_ids, truth.class_names, strict=True)
    categories = [{"id": category, "name": name} for category, name in names]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return len(annotations)


def _polygons(outline: list[Polygon], box: Sequence[float]) -> list[list[float]]:
    """The outline in pixels, to hundredths, as COCO writes it."""
    x, y, width, height = box
    return [(part * (width, height) + (x, y)).round(2).ravel().tolist() for part in outline]


@dataclass
class _Made:
    """N detections of one image."""

    boxes: Floats
    """(N, 4) xywh pixels."""
    categories: NDArray[np.int64]
    """(N,) category ranks."""
    scores: Floats
    shapes: NDArray[np.int64]
    """(N,) annotations whose outlines they have."""


def _detect(
    all_boxes: Floats,
    classes: NDArray[np.int64],
    inside: list[int],
    size: tuple[int, int],
    count: int,
    rng: np.random.Generator,
) -> _Made:
    height, width = size
    boxes = _anywhere(size, count, rng)
    shapes = rng.integers(0, max(1, len(classes)), count)
    # classes as often as they occur
    others = rng.integers(0, max(1, len(classes)), count)
    categories = classes[others] if len(classes) else others + 1
    scores = rng.uniform(0, 1, count) ** 3 * 0.7
    if inside:
        found = [index for index in inside if rng.uniform() < FOUND][:count]
        repeated = rng.choice(inside, (count - len(found)) // 2).tolist()
        copied = np.array(found + repeated, dtype=np.int64)
        near = slice(0, len(copied))
        originals = all_boxes[copied]
        jitter = np.where(np.arange(len(copied)) < len(found), CLOSE, WIDE)
        boxes[near], distance = _moved(originals, jitter, rng)
        same = (np.arange(len(copied)) < len(found)) | (rng.uniform(size=len(copied)) > OTHER_CLASS)
        categories[near] = np.where(same, classes[copied], categories[near])
        shapes[near] = copied
        noise = rng.normal(0, 0.1, len(copied))
        scores[near] = np.clip(np.exp(-4 * distance) * 0.95 + noise, 0.01, 0.999)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    corners = corners.clip(0, (width, height, width, height))
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return _Made(boxes, categories, scores, shapes)


def _anywhere(size: tuple[int, int], count: int, rng: np.random.Generator) -> Floats:
    """(N, 4) boxes over the image, most of them small as COCO's are."""
    height, width = size
    sides = np.exp(rng.normal(-2, 0.9, (count, 2))).clip(0.01, 1) * (width, height)
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ((width, height) - sides), sides], 1)


def _moved(boxes: Floats, jitter: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The boxes moved and scaled by `jitter` (N,) of their size, and by how much (N,)."""
    noise = rng.normal(0, 1, (len(boxes), 4)) * jitter[:, None]
    sides = boxes[:, 2:] * np.exp(noise[:, 2:])
    middles = boxes[:, :2] + boxes[:, 2:] / 2 + noise[:, :2] * boxes[:, 2:]
    return np.concatenate([middles - sides / 2, sides], axis=1), np.abs(noise).mean(axis=1)


def _records(
    made: _Made,
    kind: str,
    image: int | str,
    category_ids: Sequence[int],
    size: tuple[int, int],
    outlines: list[list[Polygon]] | None,
) -> list[dict[str, Any]]:
    """Result records; numbers are written as float32 values are, in full."""
    boxes = made.boxes.astype(np.float32).tolist()
    scores = made.scores.astype(np.float32).tolist()
    categories = [category_ids[rank - 1] for rank in made.categories.tolist()]
    if kind == "bbox":
        places: Iterator[Any] = iter(boxes)
    else:
        assert outlines is not None
        chosen = [outlines[index] if outlines else _SQUARE for index in made.shapes.tolist()]
        places = (
            _rle(_polygons(outline, box), size) for outline, box in zip(chosen, boxes, strict=True)
        )
    key = "bbox" if kind == "bbox" else "segmentation"
    return [
        {"image_id": image, "category_id": category, key: place, "score": score}
        for category, place, score in zip(categories, places, scores, strict=True)
    ]


_SQUARE: list[Polygon] = [np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])]


def _rle(polygons: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    rle = mask_utils.merge(mask_utils.frPyObjects(polygons, *size))
    return {"size": rle["size"], "counts": rle["counts"].decode()}
