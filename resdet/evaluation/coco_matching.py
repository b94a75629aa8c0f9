"""COCO's matching and accumulation on arrays, equal to pycocotools' number by number.

pycocotools walks image by image, class by class, threshold by threshold. Only pairs that overlap
by half can match, and they are few. They are matched in rounds: in round r the r-th best detection
of every image and class that has such a pair, at all areas and thresholds at once.

Protocol: Lin et al. 2014, as pycocotools implements it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.coco_input import GroundTruth
from resdet.evaluation.coco_overlap import (
    Bools,
    Floats,
    Found,
    Ints,
    Objects,
    Pairs,
    box_pairs,
    mask_areas,
    mask_pairs,
    ranks_within,
    sort_found,
    sort_objects,
)

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
"""(A, 2) px², both ends included: all, small, medium, large."""

UNMATCHED, HIT, IGNORED = 0, 1, 2
"""A detection took no object, one that counts, or one that does not (crowd, or another area)."""
_REGULAR = 1 << 30
_PAIRS_AT_ONCE = 20_000
_EPSILON = np.spacing(1)


def match_and_accumulate(
    truth: GroundTruth, table: DetectionTable, *, kind: str, max_dets: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A) at the last of `max_dets`, and recall (T, K, A, M); -1 where there
    is nothing to find."""
    objects = sort_objects(truth)
    found = sort_found(truth, table, max_dets[-1])
    if kind == "bbox":
        pairs = box_pairs(found, objects)
    else:
        assert table.rles is not None, "masks were not read"
        pairs = mask_pairs(found, objects, table.rles, truth.rles())
        found.areas = mask_areas(table.rles)[found.order]
    detections, states = match(found, objects, pairs)
    return _accumulate(len(truth.class_names), objects, found, detections, states, max_dets)


def match(found: Found, objects: Objects, pairs: Pairs) -> tuple[Ints, NDArray[np.int8]]:
    """The C detections with a pair, as places in `found`, and (C, A, T) what became of each.

    Each detection in turn, best first, takes the free object it overlaps most, of equal ones the
    last; one that counts before one that does not. A crowd stays free.
    """
    ignored = objects.crowd[:, None] | _outside(objects.areas)
    order = np.lexsort((pairs.objects, pairs.ious, pairs.found))
    found_of, object_of, ious = pairs.found[order], pairs.objects[order], pairs.ious[order]
    detections, rows = np.unique(found_of, return_inverse=True)
    rounds = ranks_within(found.keys[detections])
    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS))
    states = np.zeros((len(detections), *shape), dtype=np.int8)
    taken = np.zeros((len(ignored), *shape), dtype=bool)
    by_round = np.argsort(rounds[rows], kind="stable")
    for part in _parts(by_round, rounds[rows], rows):
        things = object_of[part]
        free = (ious[part, None] >= IOU_THRESHOLDS)[:, None] & ~taken[things]
        # the place among the pairs decides, since these are sorted by overlap and then by object
        worth = np.where(free, np.arange(1, len(part) + 1, dtype=np.int32)[:, None, None], 0)
        worth += np.where(free & ~ignored[things][:, :, None], np.int32(_REGULAR), np.int32(0))
        firsts = np.flatnonzero(np.diff(rows[part], prepend=-1))
        best = np.maximum.reduceat(worth, firsts, axis=0)
        states[rows[part[firsts]]] = np.where(best >= _REGULAR, HIT, (best > 0) * IGNORED)
        row, area, threshold = np.nonzero(best)
        won = things[(best[row, area, threshold] & (_REGULAR - 1)) - 1]
        alone = ~objects.crowd[won]
        taken[won[alone], area[alone], threshold[alone]] = True
    return detections, states


def _parts(by_round: Ints, rounds: Ints, rows: Ints) -> Iterator[Ints]:
    """Pairs of one round at a time, and not too many; those of a detection stay together."""
    sorted_rounds, sorted_rows = rounds[by_round], rows[by_round]
    starts = np.flatnonzero(np.diff(sorted_rounds, prepend=-1))
    ends = np.append(starts, len(by_round))[1:]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        while start < end:
            # the first pair of a detection, from which on the next part goes
            cut = start + _PAIRS_AT_ONCE
            if cut < end:
                last = sorted_rows[cut - 1]
                while cut < end and sorted_rows[cut] == last:
                    cut += 1
            yield by_round[start : min(cut, end)]
            start = cut


def _outside(areas: Floats) -> Bools:
    """(N, A) whether each area is out of each range."""
    return (areas[:, None] < AREA_RANGES[:, 0]) | (areas[:, None] > AREA_RANGES[:, 1])


def _accumulate(
    num_classes: int,
    objects: Objects,
    found: Found,
    detections: Ints,
    states: NDArray[np.int8],
    max_dets: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall over all images; see `match_and_accumulate`.

    Precision has its peaks at hits alone, so that only these are kept; between them the false
    detections are counted.
    """
    shape = (len(IOU_THRESHOLDS), len(RECALLS), num_classes, len(AREA_RANGES))
    precision, recall = -np.ones(shape), -np.ones((shape[0], *shape[2:], len(max_dets)))
    # by class, then score, then image: pycocotools' order, which decides between equal scores
    order = np.lexsort((-found.scores, found.categories))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    inside = ~_outside(found.areas)
    by_place = np.argsort(place[detections])
    detections, states = detections[by_place], states[by_place]
    places, classes = place[detections], found.categories[detections]
    every_class = np.arange(num_classes + 1)
    class_starts = np.searchsorted(found.categories[order], every_class)
    row_starts = np.searchsorted(classes, every_class)
    for area in range(len(AREA_RANGES)):
        counts = ~objects.crowd & ~_outside(objects.areas)[:, area]
        wanted = np.bincount(objects.categories[counts], minlength=num_classes + 1)
        known = wanted > 0
        for index, cap in enumerate(max_dets):
            counted = inside[:, area] & (found.ranks < cap)
            so_far = _running(counted[order])
            within = found.ranks[detections] < cap
            for threshold in range(len(IOU_THRESHOLDS)):
                state = np.where(within, states[:, area, threshold], UNMATCHED)
                hits = np.flatnonzero(state == HIT)
                per_class = np.bincount(classes[hits], minlength=num_classes + 1)
                rate = per_class[known] / wanted[known]
                recall[threshold, known[1:], area, index] = rate
                if index < len(max_dets) - 1:
                    continue
                matched = _running((state != UNMATCHED) & counted[detections])
                false = so_far[places[hits] + 1] - matched[hits + 1]
                false -= (so_far[class_starts] - matched[row_starts])[classes[hits]]
                _fill_curves(precision[threshold, :, :, area], wanted, per_class, false)
    return precision, recall


def _running(flags: Bools) -> Ints:
    """(N + 1,) how many are set before each."""
    return np.concatenate([[0], np.cumsum(flags)])


def _fill_curves(curves: Floats, wanted: Ints, per_class: Ints, false: Ints) -> None:
    """Precision at RECALLS into `curves` (R, K), for the classes with objects `wanted` (K + 1,).

    `per_class` (K + 1,) are the hits of each, `false` (H,) the false detections before each hit.
    """
    number = ranks_within(np.repeat(np.arange(len(per_class)), per_class)) + 1.0
    precision = number / (false + number + _EPSILON)
    starts = np.cumsum(per_class) - per_class
    for category in np.flatnonzero(wanted).tolist():
        mine = slice(starts[category], starts[category] + per_class[category])
        best_from_here = np.maximum.accumulate(precision[mine][::-1])[::-1]
        reached = np.searchsorted(number[mine] / wanted[category], RECALLS)
        # recalls that are never reached come after the last hit
        curves[:, category - 1] = np.append(best_from_here, 0.0)[reached]
