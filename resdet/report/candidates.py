"""Which images, objects and detections a report shows, and why, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from resdet.report.matching import Bools, Ints, Matches
from resdet.report.numbers import ERROR_WORDS

WORST, WRONG, MISSED, LOOSE = 24, 60, 40, 24
"""Items of each gallery."""


@dataclass(frozen=True)
class Candidate:
    """One thing to look at, by rows of the truth and the detections."""

    image: int
    """Row of the truth's images."""
    reason: str
    error: str = ""
    """See `GalleryItem.error`."""
    objects: tuple[int, ...] = ()
    detections: tuple[int, ...] = ()
    score: float | None = None


@dataclass(frozen=True)
class Group:
    """A gallery before its pictures are made; see `GalleryGroup`."""

    key: str
    title: str
    words: str
    items: list[Candidate] = field(default_factory=list)
    total: int = 0
    threshold: float | None = None


def galleries(matches: Matches) -> list[Group]:
    """Worst images, false positives, misses, and the loosest matches, at the best threshold."""
    return [
        worst_images(matches),
        false_positives(matches),
        missed_objects(matches),
        loosest_matches(matches),
    ]


def worst_images(matches: Matches) -> Group:
    """The images with the lowest F1, then with the most errors."""
    counts = image_counts(matches, matches.threshold)
    found, wrong, missed = counts
    num_errors = wrong + missed
    f1 = 2 * found / np.maximum(2 * found + num_errors, 1)
    rows = np.flatnonzero(num_errors)
    order = rows[np.lexsort((-num_errors[rows], f1[rows]))]
    items = []
    for image in order[:WORST].tolist():
        objects = int(found[image] + missed[image])
        words = (
            f"at score {matches.threshold:.3g}: {found[image]} of {objects} "
            f"{_plural(objects, 'object')} found, {wrong[image]} wrong "
            f"{_plural(int(wrong[image]), 'detection')}; F1 {f1[image]:.2f}"
        )
        items.append(Candidate(image, words))
    return Group(
        "worst",
        "Worst images",
        f"Images by their F1 at a score of {matches.threshold:.3g}, lowest first.",
        items,
        len(rows),
        matches.threshold,
    )


def image_counts(matches: Matches, threshold: float) -> tuple[Ints, Ints, Ints]:
    """(N,) found objects, wrong detections and missed objects of each image."""
    num_images = len(matches.truth.image_ids)
    above = matches.detections.scores >= threshold

    def per_image(images: Ints, mask: Bools) -> Ints:
        return np.bincount(images[mask], minlength=num_images)

    images = matches.detections.images
    found = per_image(images, matches.is_right & above)
    wrong = per_image(images, matches.is_wrong & above)
    objects = per_image(matches.truth.image_of, matches.is_object)
    return found, wrong, objects - found


def false_positives(matches: Matches) -> Group:
    """Wrong detections above the threshold, best score first, of every error and class in turn."""
    scores, labels = matches.detections.scores, matches.detections.labels
    rows = np.flatnonzero(matches.is_wrong & (scores >= matches.threshold))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    kinds, ious, objects = matches.error_types(rows)
    items = []
    for place in in_turn([(kinds[i], int(labels[row])) for i, row in enumerate(rows)], WRONG):
        row, kind, iou, object_ = int(rows[place]), kinds[place], ious[place], int(objects[place])
        words = f"{_name(matches, labels[row])}, score {scores[row]:.2f}: {ERROR_WORDS[kind]}"
        if object_ >= 0:
            words += f"; IoU {iou:.2f} with {_name(matches, matches.truth.labels[object_])}"
        nearest = (object_,) if object_ >= 0 else ()
        image = int(matches.detections.images[row])
        items.append(Candidate(image, words, kind, nearest, (row,), float(scores[row])))
    return Group(
        "false_positives",
        "False positives",
        f"Wrong detections with a score of {matches.threshold:.3g} or more: the best scores of "
        "each kind of error and class in turn.",
        items,
        len(rows),
        matches.threshold,
    )


def missed_objects(matches: Matches) -> Group:
    """Objects without a detection above the threshold, largest first, of every class in turn."""
    truth = matches.truth
    rows = np.flatnonzero(matches.is_object & (matches.found_scores < matches.threshold))
    rows = rows[np.argsort(-truth.areas[rows], kind="stable")]
    items = []
    for place in in_turn(truth.labels[rows].tolist(), MISSED):
        row = int(rows[place])
        score = matches.found_scores[row]
        width, height = truth.boxes_xywh[row, 2:]
        words = f"{_name(matches, truth.labels[row])}, {width:.0f}×{height:.0f} pixels: "
        own = (int(matches.found_by[row]),) if score > -np.inf else ()
        words += (
            f"found only with a score of {score:.2f}" if own else "no detection matches it at all"
        )
        items.append(Candidate(int(truth.image_of[row]), words, "missed", (row,), own))
    return Group(
        "missed",
        "Missed objects",
        f"Objects that no detection with a score of {matches.threshold:.3g} or more matches: the "
        "largest of each class in turn.",
        items,
        len(rows),
        matches.threshold,
    )


def loosest_matches(matches: Matches) -> Group:
    """Right detections with the lowest IoU."""
    scores, ious = matches.detections.scores, matches.match_ious
    rows = np.flatnonzero(matches.is_right & (scores >= matches.threshold))
    order = rows[np.argsort(ious[rows], kind="stable")]
    items = []
    for row in order[:LOOSE].tolist():
        label = matches.detections.labels[row]
        words = f"{_name(matches, label)}, score {scores[row]:.2f}: IoU {ious[row]:.2f}"
        items.append(
            Candidate(
                int(matches.detections.images[row]),
                words,
                "correct",
                (int(matches.object_of[row]),),
                (row,),
                float(scores[row]),
            )
        )
    what = "masks" if matches.kind == "segm" else "boxes"
    return Group(
        "lowest_iou",
        "Loosest matches",
        f"Right detections by the IoU of their {what} with the object, lowest first.",
        items,
        len(rows),
        matches.threshold,
    )


def in_turn(keys: Sequence[object], most: int) -> list[int]:
    """Up to `most` places of a ranked list, in its order, of which every key gets a share: the
    first of each key, then the second, and so on."""
    counts: dict[object, int] = {}
    turns = []
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
        turns.append(counts[key])
    chosen = sorted(range(len(keys)), key=lambda place: (turns[place], place))[:most]
    return sorted(chosen)


def labels_of(matches: Matches, objects: Iterable[int], detections: Iterable[int]) -> list[int]:
    """The classes of some objects and detections."""
    own = [int(matches.truth.labels[row]) for row in objects]
    return sorted({*own, *(int(matches.detections.labels[row]) for row in detections)})


def _name(matches: Matches, label: int | np.integer) -> str:
    return matches.truth.class_names[int(label)]


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
