"""Which detections overlap which objects of their image and class by half or more, and how much.

The numbers are those of pycocotools to the last bit: `bbIou` in the same order of operations, and
for masks a quotient of two counts of pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.coco_input import GroundTruth
from resdet.files.rle import Rle

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_IOU = 0.5
"""The first of the thresholds: below it a pair cannot match."""
_PAIRS_AT_ONCE = 1 << 18
_GROUPS_AT_ONCE = 64
_MASKS = 255
"""pycocotools 2.0.11 raises OverflowError for the areas of more."""
_MOST_THREADS = 4


@dataclass
class Objects:
    """G objects by image and class, within these as in the file."""

    order: Ints
    """(G,) places in `truth.annotations`."""
    keys: Ints
    """(G,) image rank × stride + category rank, ascending."""
    categories: Ints
    boxes: Floats
    """(G, 4) xywh pixels."""
    areas: Floats
    crowd: Bools


@dataclass
class Found:
    """D detections by image and class, within these by score; those beyond the cap are left out."""

    order: Ints
    """(D,) places in the table."""
    keys: Ints
    categories: Ints
    scores: Floats
    ranks: Ints
    """(D,) 0 for the best of its image and class."""
    boxes: Floats
    areas: Floats
    """(D,) px²: of the box, or of the mask."""


@dataclass
class Pairs:
    """P pairs of a detection and an object of its image and class that overlap by half."""

    found: Ints
    """(P,) places in `Found`."""
    objects: Ints
    """(P,) places in `Objects`."""
    ious: Floats


def sort_objects(truth: GroundTruth) -> Objects:
    records = truth.annotations
    count = len(records)

    def column(key: str, dtype: type) -> np.ndarray:
        return np.fromiter((record[key] for record in records), dtype=dtype, count=count)

    categories = column("category_id", np.int64)
    keys = column("image_id", np.int64) * _stride(truth) + categories
    boxes = np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4)
    areas, crowd = column("area", np.float64), column("iscrowd", np.bool_)
    order = np.argsort(keys, kind="stable")
    return Objects(order, keys[order], categories[order], boxes[order], areas[order], crowd[order])


def sort_found(truth: GroundTruth, table: DetectionTable, cap: int) -> Found:
    """`cap` detections an image and class are kept; areas are those of the boxes."""
    keys = table.images * _stride(truth) + table.categories
    # stable, as pycocotools' sort: of equal scores the first in the file comes first
    order = np.lexsort((-table.scores, keys))
    ranks = ranks_within(keys[order])
    kept = ranks < cap
    order, ranks = order[kept], ranks[kept]
    boxes = table.boxes[order]
    return Found(
        order,
        keys[order],
        table.categories[order],
        table.scores[order],
        ranks,
        boxes,
        boxes[:, 2] * boxes[:, 3],
    )


def _stride(truth: GroundTruth) -> int:
    return len(truth.class_names) + 1


def ranks_within(groups: Ints) -> Ints:
    """(N,) 0, 1, 2… within each run of equal values."""
    places = np.arange(len(groups))
    is_first = np.diff(groups, prepend=-1) != 0
    return places - np.maximum.accumulate(np.where(is_first, places, 0))


def mask_areas(rles: list[Rle]) -> Floats:
    """(N,) px²."""
    starts = range(0, len(rles), _MASKS)
    parts = [np.asarray(mask_utils.area(rles[at : at + _MASKS])) for at in starts]
    return np.concatenate(parts).astype(float) if parts else np.zeros(0)


def box_pairs(found: Found, objects: Objects) -> Pairs:
    parts = []
    for detection, thing in _same_image_and_class(found, objects):
        ious = box_iou(found.boxes[detection], objects.boxes[thing], objects.crowd[thing])
        parts.append((detection, thing, ious))
    return _over_half(parts)


def box_iou(boxes: Floats, others: Floats, crowd: Bools) -> Floats:
    """(P,) overlap of (P, 4) xywh pairs; where `crowd`, over the first's area alone."""
    ends, other_ends = boxes[:, 2:] + boxes[:, :2], others[:, 2:] + others[:, :2]
    sides = np.minimum(ends, other_ends) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides[:, 0] * sides[:, 1]
    shared[(sides <= 0).any(axis=1)] = 0
    area, other = boxes[:, 2] * boxes[:, 3], others[:, 2] * others[:, 3]
    union = np.where(crowd, area, area + other - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _same_image_and_class(found: Found, objects: Objects) -> Iterator[tuple[Ints, Ints]]:
    """All pairs, some at a time."""
    first = np.searchsorted(objects.keys, found.keys, side="left")
    counts = np.searchsorted(objects.keys, found.keys, side="right") - first
    detections = np.flatnonzero(counts)
    first, counts = first[detections], counts[detections]
    totals = np.cumsum(counts)
    last = int(totals[-1]) if len(totals) else 0
    cuts = np.searchsorted(totals, np.arange(_PAIRS_AT_ONCE, last, _PAIRS_AT_ONCE), side="right")
    for part in np.split(np.arange(len(detections)), cuts):
        repeats = counts[part]
        starts = np.repeat(first[part] - (np.cumsum(repeats) - repeats), repeats)
        yield np.repeat(detections[part], repeats), starts + np.arange(len(starts))


def mask_pairs(found: Found, objects: Objects, rles: list[Rle], object_rles: list[Rle]) -> Pairs:
    """`rles` in the order of the table, `object_rles` in that of the annotations."""
    # it brings OpenCV, which boxes do without
    from faster_coco_eval.core import mask as library

    keys, starts = np.unique(found.keys, return_index=True)
    ends = np.append(starts, len(found.keys))[1:]
    first = np.searchsorted(objects.keys, keys, side="left")
    last = np.searchsorted(objects.keys, keys, side="right")
    shared = np.flatnonzero(last > first)
    groups = np.stack([starts, ends, first, last], axis=1)[shared].tolist()
    order, object_order = found.order.tolist(), objects.order.tolist()
    crowd = objects.crowd.astype(int).tolist()

    def overlaps(groups: list[list[int]]) -> tuple[Ints, Ints, Floats]:
        parts = []
        for start, end, low, high in groups:
            mine = [rles[i] for i in order[start:end]]
            theirs = [object_rles[i] for i in object_order[low:high]]
            ious = np.asarray(library.iou(mine, theirs, crowd[low:high]))
            rows, columns = np.nonzero(ious >= LEAST_IOU)
            parts.append((rows + start, columns + low, ious[rows, columns]))
        pairs = _over_half(parts)
        return pairs.found, pairs.objects, pairs.ious

    chunks = [groups[i : i + _GROUPS_AT_ONCE] for i in range(0, len(groups), _GROUPS_AT_ONCE)]
    # threads do: the library counts pixels without Python's lock
    with ThreadPoolExecutor(min(_cores(), _MOST_THREADS)) as threads:
        return _over_half(list(threads.map(overlaps, chunks)))


def _over_half(parts: list[tuple[Ints, Ints, Floats]]) -> Pairs:
    if not parts:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    kept = []
    for detection, thing, ious in parts:
        over = ious >= LEAST_IOU
        kept.append((detection[over], thing[over], ious[over]))
    return Pairs(*(np.concatenate(column) for column in zip(*kept, strict=True)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
