"""Files to time a COCO evaluation on: real objects, and detections made from them by a seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from resdet.data.detection.outlines import POLYGON
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable

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
    into its box. Objects without outlines get wavy ones. Raises UserError for a file that is not
    a COCO annotation file.
    """
    truth = read_annotations(annotations, [])
    truth = truth.select_images(np.arange(len(truth.image_ids)) < images)
    ids = truth.image_ids.tolist()
    objects: list[list[int]] = [[] for _ in ids]
    for index, row in enumerate(truth.image_of.tolist()):
        objects[row].append(index)
    sizes = [_size(truth, row, inside) for row, inside in enumerate(objects)]
    outlines = _outlines(truth, seed) if "segm" in kinds else None
    ground_truth = folder / "ground_truth.json"
    _write_truth(ground_truth, truth, sizes, outlines)
    results = {}
    for kind in kinds:
        results[kind] = folder / f"{kind}_results.json"
        with results[kind].open("w", encoding="utf-8") as file:
            file.write("[")
            for row, image in enumerate(ids):
                rng = np.random.default_rng((seed, row))
                made = _detect(
                    truth.boxes_xywh, truth.labels, objects[row], sizes[row], detections, rng
                )
                records = _records(made, kind, image, truth.category_ids, sizes[row], outlines)
                file.write((", " if row else "") + json.dumps(records)[1:-1])
            file.write("]\n")
    return EvalFiles(ground_truth, results, len(ids), len(truth.labels), len(ids) * detections)


def _size(truth: AnnotationTable, row: int, inside: Sequence[int]) -> tuple[int, int]:
    height, width = truth.sizes[row].tolist()
    if height and width:
        return height, width
    corners = truth.boxes_xywh[inside, :2] + truth.boxes_xywh[inside, 2:]
    right, bottom = np.ceil(corners.max(axis=0, initial=0)).astype(int).tolist()
    return max(LEAST_SIZE[0], bottom), max(LEAST_SIZE[1], right)


def _outlines(truth: AnnotationTable, seed: int) -> list[list[Polygon]]:
    """Polygons of each object within the unit square that stands for its box."""
    assert truth.outlines is not None
    shapes = []
    for index, (x, y, width, height) in enumerate(truth.boxes_xywh.tolist()):
        if truth.outlines.kinds[index] == POLYGON and width > 0 and height > 0:
            polygons = truth.outlines.polygons(index)
            shapes.append([(polygon - (x, y)) / (width, height) for polygon in polygons])
        else:
            shapes.append([_wavy(np.random.default_rng((seed, index + 1, 1)))])
    return shapes


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
    truth: AnnotationTable,
    sizes: list[tuple[int, int]],
    outlines: list[list[Polygon]] | None,
) -> None:
    """Write the annotation file with the original ids."""
    ids = truth.image_ids.tolist()
    annotations = []
    for index, box in enumerate(truth.boxes_xywh.tolist()):
        annotations.append(
            {
                "id": index + 1,
                "image_id": ids[truth.image_of[index]],
                "category_id": truth.category_ids[truth.labels[index]],
                "bbox": box,
                "area": float(truth.areas[index]),
                "iscrowd": int(truth.crowd[index]),
            }
        )
        if outlines is not None:
            annotations[-1]["segmentation"] = _polygons(outlines[index], box)
    images = [
        {"id": image, "height": height, "width": width}
        for image, (height, width) in zip(ids, sizes, strict=True)
    ]
    names = zip(truth.category_ids, truth.class_names, strict=True)
    categories = [{"id": category, "name": name} for category, name in names]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


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
    """(N,) labels."""
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
    categories = classes[others] if len(classes) else others
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
    categories = [category_ids[label] for label in made.categories.tolist()]
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
