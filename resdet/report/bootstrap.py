"""The chance in a difference of AP: a paired bootstrap over images (Efron & Tibshirani 1993).

A resample draws as many images as there are, with replacement, the same for both runs. Matches do
not depend on other images, so that it only weights each image's detections and objects by how often
it was drawn: matching is done once, by hotcoco, and AP is accumulated for many resamples at a time.
hotcoco's own `compare` counts an image once however often it is drawn, by which its intervals are
about a quarter too narrow (by the theory of sampling without replacement a factor of .76).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resdet.evaluation.coco_result import IOU_50, IOU_75
from resdet.report.matching import Bools, Floats, Ints, Matches

RESAMPLES, FEWER = 1000, 200
"""Of the bootstrap, and with more than `MANY` detections in both runs together."""
MANY = 400_000
LEVEL = 0.95
RECALLS = np.linspace(0, 1, 101)
AT_ONCE = 2_000_000
"""Detections times resamples that are accumulated together."""


@dataclass(frozen=True)
class Ranked:
    """The n detections of one class, best score first, and its objects in each of N images."""

    images: Ints
    """(n,) rows of images."""
    right: Bools
    """(T, n) matches an object at each IoU threshold."""
    counted: Bools
    """(T, n) right or wrong: in a crowd region, or beyond the limit per image, it is neither."""
    objects: Ints
    """(N,) to be found."""


def ranked_classes(matches: Matches) -> list[Ranked]:
    """The classes with objects, as hotcoco matched them at every IoU threshold."""
    table, truth = matches.detections, matches.truth
    work, count = matches.evaluation.hotcoco, len(table.scores)
    thresholds = list(work.params.iou_thrs)
    right, counted = (np.zeros((len(thresholds), count), bool) for _ in range(2))
    for place, threshold in enumerate(thresholds):
        status = work.image_diagnostics(iou_thr=threshold)["dt_status"]
        rows = np.fromiter(status, np.int64, len(status)) - 1
        known = np.array(list(status.values()))
        right[place, rows] = known == "tp"
        counted[place, rows] = (known == "tp") | (known == "fp")
    classes = []
    # of equal scores the evaluator takes the images in its own order
    by_rank = np.lexsort((matches.evaluation.image_ranks[table.images], -table.scores))
    for label in np.unique(truth.labels[matches.is_object]).tolist():
        rows = by_rank[table.labels[by_rank] == label]
        of_class = matches.is_object & (truth.labels == label)
        objects = np.bincount(truth.image_of[of_class], minlength=len(truth.image_ids))
        classes.append(Ranked(table.images[rows], right[:, rows], counted[:, rows], objects))
    return classes


def resampled_precisions(classes: list[Ranked], weights: Ints) -> Floats:
    """(B, T) AP over classes, with images counted as often as (B, N) `weights` say."""
    total = np.zeros((len(weights), len(classes[0].right)))
    present = np.zeros((len(weights), 1))
    for one in classes:
        objects = weights @ one.objects
        has_any = objects > 0
        present[:, 0] += has_any
        step = max(1, AT_ONCE // max(len(one.images), 1))
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            total[part] += _of_class(one, weights[part], objects[part])
    return total / np.maximum(present, 1)


def _of_class(one: Ranked, weights: Ints, objects: Ints) -> Floats:
    """(B, T) AP of one class; 0 where a resample has none of its objects."""
    found = np.zeros((len(weights), len(one.right)))
    if not len(one.images):
        return found
    per_detection = weights[:, one.images]
    for place, (right, counted) in enumerate(zip(one.right, one.counted, strict=True)):
        hits = np.cumsum(per_detection * right, axis=1)
        seen = np.cumsum(per_detection * counted, axis=1)
        precision = hits / np.maximum(seen, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row in np.flatnonzero(objects > 0).tolist():
            at = np.searchsorted(hits[row] / objects[row], RECALLS, "left")
            reached = at[at < precision.shape[1]]
            found[row, place] = precision[row, reached].sum() / len(RECALLS)
    return found


def differences_of_ap(
    first: Matches, other: Matches, resamples: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The interval of other - first for AP, AP50 and AP75; empty without objects."""
    if not first.is_object.any():
        return {}
    count = len(first.truth.image_ids)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    one, two = (resampled_precisions(ranked_classes(each), draws) for each in (first, other))
    change = two - one
    columns: dict[str, NDArray[np.float64]] = {
        "AP": change.mean(axis=1),
        "AP50": change[:, IOU_50],
        "AP75": change[:, IOU_75],
    }
    return {name: interval(values) for name, values in columns.items()}


def mean_interval(change: Ints, seed: int = 0) -> tuple[float, float]:
    """The interval of the mean of (N,) changes of -1, 0 or 1.

    A resample only matters by how many of each value it has, which is multinomial.
    """
    total = len(change)
    shares = np.array([(change == value).sum() for value in (-1, 0, 1)]) / max(total, 1)
    counts = np.random.default_rng(seed).multinomial(total, shares, RESAMPLES)
    return interval((counts[:, 2] - counts[:, 0]) / max(total, 1))


def interval(values: Floats) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
