"""Annotations that are probably wrong, each with its reason: to be looked at, not to be trusted.

The kinds are those of Tkachenko et al. 2023 (ObjectLab), overlooked and swapped, and two of ours:
objects that the detector, which finds their class otherwise, does not see at all, and objects that
are annotated twice. Overlooked and swapped ones are hotcoco's.
"""

from __future__ import annotations

import numpy as np

from resdet.report.candidates import Candidate, Group, in_turn
from resdet.report.matching import BACKGROUND_IOU, Matches

MOST = 48
"""Items."""
LOOKED_AT = 2000
"""Missed objects whose overlaps are computed, the most suspicious ones."""
TWICE = 0.75
"""IoU of two objects from which they are probably one; of two classes the box may be right for
both, such as a person and a rider, at less."""
CONFIDENT = 0.5
"""Score from which a detection contradicts the annotation."""


def label_errors(matches: Matches) -> Group:
    """The most suspicious annotations, of every kind in turn."""
    kinds = [
        _contradicted(matches),
        _unseen(matches),
        _annotated_twice(matches),
    ]
    every = sorted((each for kind in kinds for each in kind), key=lambda each: -each[0])
    chosen = in_turn([candidate.error for _, candidate in every], MOST)
    return Group(
        "label_errors",
        "Likely label errors",
        "Confident detections where nothing or another class is annotated, objects that no "
        "detection overlaps, and objects that are annotated twice; the most suspicious of each "
        "kind. These are guesses: the detector may be wrong instead.",
        [every[place][1] for place in chosen],
        len(every),
    )


def _contradicted(matches: Matches) -> list[tuple[float, Candidate]]:
    """Confident detections of nothing annotated, or of another class."""
    threshold = max(matches.threshold, CONFIDENT)
    found = matches.evaluation.hotcoco.image_diagnostics(score_thr=threshold)["label_errors"]
    candidates = []
    for each in found:
        row, score = each["dt_id"] - 1, each["dt_score"]
        image = int(matches.detections.images[row])
        name = matches.truth.class_names[int(matches.detections.labels[row])]
        if each["type"] == "missing_annotation":
            words = f"not annotated? {name} with a score of {score:.2f}, where no object is"
            candidate = Candidate(image, words, "Bkg", (), (row,), score)
            if _overlaps_crowd(matches, image, row):
                continue
            candidates.append((score, candidate))
            continue
        object_ = each["gt_id"] - 1
        other, iou = matches.truth.class_names[int(matches.truth.labels[object_])], each["iou"]
        words = (
            f"wrong class? annotated as {other}, detected as {name} ({score:.2f}), IoU {iou:.2f}"
        )
        candidates.append((score * iou, Candidate(image, words, "Cls", (object_,), (row,), score)))
    return candidates


def _overlaps_crowd(matches: Matches, image: int, row: int) -> bool:
    objects = matches.objects_in(image)
    crowds = objects[~matches.is_object[objects]]
    return bool((matches.overlaps(image, np.array([row]), crowds) > BACKGROUND_IOU).any())


def _unseen(matches: Matches) -> list[tuple[float, Candidate]]:
    """Objects that no detection of any class and score overlaps; the more suspicious, the surer
    their class is found otherwise, and the larger they are."""
    truth = matches.truth
    found = matches.is_object & (matches.found_scores >= matches.threshold)
    count = len(truth.class_names)
    totals = np.bincount(truth.labels[matches.is_object], minlength=count)
    recall = np.bincount(truth.labels[found], minlength=count) / np.maximum(totals, 1)
    missed = np.flatnonzero(matches.is_object & (matches.found_by < 0))
    # the share of the objects of all classes that are no larger
    sizes = np.sort(truth.areas[matches.is_object])
    rank = np.searchsorted(sizes, truth.areas[missed], "right") / max(len(sizes), 1)
    suspicion = recall[truth.labels[missed]] * rank
    order = np.argsort(-suspicion, kind="stable")[:LOOKED_AT]
    candidates = []
    for row, value in zip(missed[order].tolist(), suspicion[order].tolist(), strict=True):
        image = int(truth.image_of[row])
        overlap = matches.overlaps(image, matches.detections_in(image), np.array([row]))
        if overlap.size and overlap.max() >= BACKGROUND_IOU:
            continue
        label = int(truth.labels[row])
        words = (
            f"no {truth.class_names[label]} there? no detection of any class overlaps it, though "
            f"{recall[label]:.0%} of this class are found at score {matches.threshold:.3g}"
        )
        candidates.append((value, Candidate(image, words, "missed", (row,))))
    return candidates


def _annotated_twice(matches: Matches) -> list[tuple[float, Candidate]]:
    """Pairs of objects with nearly the same box."""
    truth = matches.truth
    candidates = []
    for first, second, iou in near_pairs(matches):
        names = [truth.class_names[int(truth.labels[row])] for row in (first, second)]
        words = f"annotated twice? two objects ({names[0]} and {names[1]}) with IoU {iou:.2f}"
        error = "Dupe" if names[0] == names[1] else "Cls"
        image = int(truth.image_of[first])
        candidates.append((iou, Candidate(image, words, error, (first, second))))
    return candidates


def near_pairs(matches: Matches) -> list[tuple[int, int, float]]:
    """(row, row, IoU of the boxes) of objects of one image that are nearly the same.

    Only boxes whose centres are within a quarter of their sides can have such an IoU: sorted by
    their left edge, each is compared with the next ones alone.
    """
    truth = matches.truth
    rows = np.flatnonzero(matches.is_object)
    x1, y1, width, height = truth.boxes_xywh[rows].T
    order = np.lexsort((x1, truth.image_of[rows]))
    pairs: list[tuple[int, int, float]] = []
    # nearly equal boxes are next to each other in this order, or have few between them
    for step in range(1, min(len(rows), 64)):
        one, other = order[:-step], order[step:]
        together = truth.image_of[rows[one]] == truth.image_of[rows[other]]
        within = together & (x1[other] - x1[one] <= (1 - TWICE) * width[one])
        if not within.any():
            break
        a, b = one[within], other[within]
        across = np.minimum(x1[a] + width[a], x1[b] + width[b]) - np.maximum(x1[a], x1[b])
        down = np.minimum(y1[a] + height[a], y1[b] + height[b]) - np.maximum(y1[a], y1[b])
        common = across.clip(0) * down.clip(0)
        union = width[a] * height[a] + width[b] * height[b] - common
        iou = np.divide(common, union, out=np.zeros(len(a)), where=union > 0)
        for place in np.flatnonzero(iou >= TWICE).tolist():
            pairs.append((int(rows[a[place]]), int(rows[b[place]]), float(iou[place])))
    return pairs
