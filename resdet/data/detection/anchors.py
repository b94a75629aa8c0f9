"""How well anchors fit the objects of a data set, and which would fit better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.ops.boxes import cell_anchors, pairwise_iou

Floats = NDArray[np.float64]

LOOKED = 100_000
"""Objects of a large set that are compared with anchors, evenly spaced."""

CHUNK = 16_384
"""Objects that are compared at once."""

ROUNDS = 50
"""Of k-means; it settles in ten or so."""


@dataclass(frozen=True)
class Anchors:
    """The anchors of a network."""

    sizes: Sequence[Sequence[float]]
    """Square roots of areas in pixels for each level."""
    ratios: Sequence[float]
    """Height / width."""
    strides: Sequence[int]
    """Pixels between anchors, for each level."""


def best_overlaps(boxes: Floats, sizes: Floats, anchors: Anchors) -> Floats:
    """(n,) IoU of each box with the best of all anchors that are around it.

    Args:
        boxes: (n, 4) xyxy in pixels of the image that the network sees.
        sizes: (n, 2) height, width of those images.
    """
    best = torch.zeros(len(boxes))
    for start in range(0, len(boxes), CHUNK):
        part = slice(start, start + CHUNK)
        own = torch.from_numpy(boxes[part].astype(np.float32))
        limits = torch.from_numpy(sizes[part].astype(np.float32)).flip(1)
        centers = (own[:, :2] + own[:, 2:]) / 2
        for level, stride in zip(anchors.sizes, anchors.strides, strict=True):
            cell = cell_anchors(level, anchors.ratios)
            # the nearest place of the grid; another one has a smaller overlap, nearly always
            last = (limits / stride).ceil() - 1
            places = torch.minimum((centers / stride).round(), last).clamp(min=0) * stride
            around = cell + places.repeat(1, 2)[:, None]
            overlaps = pairwise_iou(own[:, None], around)[:, 0].amax(dim=1)
            best[part] = torch.maximum(best[part], overlaps)
    return best.double().numpy()


def fit_anchors(boxes: Floats, anchors: Anchors) -> Anchors:
    """Anchors of as many levels and ratios whose sizes and ratios are centers of the boxes (n, 4):
    k-means of the logarithms of √area and of height / width."""
    width, height = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3).T
    count = sum(map(len, anchors.sizes))
    sizes = np.exp(_centers(np.log(width * height) / 2, count))
    ratios = np.exp(_centers(np.log(height / width), len(anchors.ratios)))
    whole = [float(round(size)) for size in np.maximum(sizes, 1).tolist()]
    levels, start = [], 0
    for level in anchors.sizes:
        levels.append(whole[start : start + len(level)])
        start += len(level)
    return Anchors(levels, [round(ratio, 2) for ratio in ratios.tolist()], anchors.strides)


def _centers(values: Floats, count: int) -> Floats:
    """(count,) k-means centers of numbers in ascending order, from their quantiles on."""
    centers = np.quantile(values, (np.arange(count) + 0.5) / count)
    ordered = np.sort(values)
    sums = np.concatenate([np.zeros(1), np.cumsum(ordered)])
    for _ in range(ROUNDS):
        borders = np.searchsorted(ordered, (centers[1:] + centers[:-1]) / 2)
        ends = np.concatenate([np.zeros(1, np.int64), borders, [len(ordered)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centers)
        if np.allclose(moved, centers):
            break
        centers = moved
    return centers
