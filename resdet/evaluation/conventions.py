"""What files of detections look like: boxes in another unit or order, category ids of another list,
records that are there twice, scores that rank nothing, half of a set.

A detector is imprecise, so that its boxes prove nothing by themselves. The ground truth does: a
reading of the same numbers under which many of them overlap objects, where as given hardly any do,
can't be a coincidence. Sound detections need one comparison, of a sample.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.plausibility import ORDERS, from_xywh
from resdet.data.detection.table import AnnotationTable
from resdet.errors import first_few

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SAMPLE = 1000
"""Detections that are compared: those with the highest scores on images with objects."""
NEAR = 64
"""Objects of an image that are compared with each detection."""
MATCH_IOU = 0.5
SOUND = 0.3
"""Share of the sample that overlaps objects of any class where the boxes are as they should be."""
MIN_MATCHES = 3
MIN_GAIN = 3.0
"""How many times more detections must overlap objects under another reading."""

SIDES = (
    *(224, 256, 300, 320, 384, 416, 448, 480, 512, 600, 608, 640),
    *(768, 800, 896, 1024, 1280, 1333),
)
"""To which images are resized for a network."""

MIXED_SHARE = 0.7
"""Share of a class's overlaps with objects of one other class, from which it looks like that."""
MIXED_CLASSES = 0.25
"""Share of such classes, each of another one, that a detector's own confusions do not reach."""

COPIES, BARE = 0.05, 0.25
"""Shares of detections, and of images, from which copies and missing images are a note."""
FEW = 10
"""Scores of fewer detections may well be equal."""


@dataclass
class Pairs:
    """Detections of a sample and the objects of their images, as P pairs."""

    rows: Ints
    """(S,) rows of the sampled detections."""
    sample: Ints
    """(P,) positions in the sample, ascending."""
    objects: Ints
    """(P,) rows of the ground truth's objects."""

    @property
    def starts(self) -> Ints:
        """(S,) the first pair of each sampled detection, all of which have one."""
        return np.searchsorted(self.sample, np.arange(len(self.rows)))


def describe_results(
    truth: AnnotationTable, images: Ints, labels: Ints, scores: Floats, boxes: Floats, own: str
) -> list[str]:
    """Notes on N detections that look like a mistake of the program that wrote them.

    Args:
        images: (N,) rows of the ground truth's images.
        labels: (N,) labels of the ground truth.
        scores: (N,).
        boxes: (N, 4) numbers as they are in the file.
        own: what those are read as, one of `READINGS`.
    """
    if not len(scores) or not truth.has_annotations:
        return []
    return [
        *_describe_conventions(truth, images, labels, scores, boxes, own),
        *_describe_records(truth, images, labels, scores, boxes),
    ]


def _describe_records(
    truth: AnnotationTable, images: Ints, labels: Ints, scores: Floats, boxes: Floats
) -> Iterator[str]:
    """Notes on copies, on scores that are equal or no probabilities, on images without any."""
    count = len(scores)
    # equal sums of weighted columns are equal records
    columns = np.column_stack([images, labels, scores, boxes])
    sums = np.sort(columns @ np.random.default_rng(0).random(columns.shape[1]))
    copies = int((sums[1:] == sums[:-1]).sum())
    if copies >= max(MIN_MATCHES, COPIES * count):
        yield (
            f"{copies} of {count} detections are copies of another one, and a second one of an "
            "object is wrong: was a file written twice? Write each detection once"
        )
    if count >= FEW and scores.min() == scores.max():
        yield (
            f"all {count} detections have the score {scores[0]:g}, so that AP depends on their "
            "order; write the scores of the detector"
        )
    unusual = int(((scores < 0) | (scores > 1)).sum())
    if unusual:
        yield (
            f"{unusual} of {count} scores are outside 0..1 (from {scores.min():.4g} to "
            f"{scores.max():.4g}): AP ranks them, the highest first, and calibration needs 0..1; "
            "write probabilities"
        )
    has_objects = np.bincount(truth.image_of[~truth.crowd], minlength=len(truth.image_ids)) > 0
    bare = has_objects & (np.bincount(images, minlength=len(has_objects)) == 0)
    if bare.sum() >= max(MIN_MATCHES, BARE * has_objects.sum()):
        yield (
            f"{bare.sum()} of {has_objects.sum()} images with objects have no detection, and their "
            "objects count as missed: were all images of the ground truth predicted?"
        )


def _describe_conventions(
    truth: AnnotationTable, images: Ints, labels: Ints, scores: Floats, boxes: Floats, own: str
) -> list[str]:
    pairs = _pair(images, scores, truth)
    if not len(pairs.objects):
        return []
    numbers = boxes[pairs.rows]
    ious = _overlaps(READINGS[own](numbers), pairs, truth)
    matches, count = int((_best(ious, pairs) >= MATCH_IOU).sum()), len(numbers)
    if matches < SOUND * count:
        others, name = _find_reading(numbers, pairs, truth, own)
        if others >= max(MIN_MATCHES, MIN_GAIN * matches, SOUND * count):
            return [
                f"the boxes look like {name}, but they are read as {own} in pixels of the image: "
                f"{matches} of the {count} with the highest scores overlap an object by half, and "
                f"{others} would if they were converted; convert them"
            ]
    return _describe_classes(ious, labels[pairs.rows], pairs, truth)


def _pair(images: Ints, scores: Floats, truth: AnnotationTable) -> Pairs:
    objects = np.flatnonzero(~truth.crowd)
    by_image = objects[np.argsort(truth.image_of[objects], kind="stable")]
    first = np.searchsorted(truth.image_of[by_image], np.arange(len(truth.image_ids) + 1))
    counts = np.minimum(np.diff(first), NEAR)
    usable = np.flatnonzero(counts[images] > 0)
    # of more detections than objects, most overlap none
    limit = min(SAMPLE, max(len(objects), FEW))
    if len(usable) > limit:
        usable = usable[np.argpartition(-scores[usable], limit)[:limit]]
    each = counts[images[usable]]
    sample = np.repeat(np.arange(len(usable)), each)
    within = np.arange(len(sample)) - np.repeat(np.cumsum(each) - each, each)
    return Pairs(usable, sample, by_image[first[images[usable]][sample] + within])


def _overlaps(corners: Floats, pairs: Pairs, truth: AnnotationTable) -> Floats:
    """(P,) IoU of the sampled boxes (S, 4) xyxy with the objects."""
    boxes, objects = corners[pairs.sample], from_xywh(truth.boxes_xywh[pairs.objects])
    low, high = np.maximum(boxes[:, :2], objects[:, :2]), np.minimum(boxes[:, 2:], objects[:, 2:])
    common = (high - low).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    areas += (objects[:, 2:] - objects[:, :2]).prod(axis=1)
    return common / np.maximum(areas - common, 1e-9)


def _best(ious: Floats, pairs: Pairs) -> Floats:
    """(S,) largest IoU of each sampled detection, all of which have pairs."""
    return np.maximum.reduceat(ious, pairs.starts)


def _find_reading(
    numbers: Floats, pairs: Pairs, truth: AnnotationTable, own: str
) -> tuple[int, str]:
    """How many detections overlap objects under the best other reading, and its name."""
    sizes = truth.sizes[truth.image_of[pairs.objects[pairs.starts]]].astype(np.float64)
    ranked = [(0, 0.0, "")]
    for unit, scale in _units(sizes, float(np.abs(numbers).max())):
        for order, corners in READINGS.items():
            if unit or order != own:
                ious = _best(_overlaps(corners(numbers) * scale, pairs, truth), pairs)
                is_match = ious >= MATCH_IOU
                as_order = "" if unit and order == own else order
                name = " given as ".join(filter(None, (unit, as_order)))
                ranked.append((int(is_match.sum()), float(ious[is_match].sum()), name))
    count, _, name = max(ranked)
    return count, name


def _units(sizes: Floats, largest: float) -> Iterator[tuple[str, Floats]]:
    """Names of units, and what makes pixels x, y, x, y of them, (S, 4); "" are pixels.

    `sizes` (S, 2) are the height and width of each detection's image.
    """
    yield "", np.ones((len(sizes), 4))
    if sizes.min() < 1:
        return  # the ground truth has no sizes
    sides = sizes[:, [1, 0, 1, 0]]
    if largest <= 2:
        yield "fractions of their image (0..1)", sides
        return
    for largest_of_unit, name in ((100, "percent"), (1000, "thousandths")):
        if largest <= 1.1 * largest_of_unit:
            yield f"{name} of their image (0..{largest_of_unit})", sides / largest_of_unit
    longer, shorter = sizes.max(axis=1, keepdims=True), sizes.min(axis=1, keepdims=True)
    for side in SIDES:
        yield f"pixels of images resized to {side}×{side}", sides / side
        for name, edge in (("longer", longer), ("shorter", shorter)):
            what = f"pixels of images resized to a {name} side of {side}"
            yield what, np.repeat(edge / side, 4, axis=1)


def _describe_classes(
    ious: Floats, labels: Ints, pairs: Pairs, truth: AnnotationTable
) -> list[str]:
    """A note where the detections of several classes are on the objects of others, one by one.

    `labels` (S,) are those of the sample.
    """
    is_match = ious >= MATCH_IOU
    count = len(truth.class_names)
    own = labels[pairs.sample[is_match]]
    pair, numbers = np.unique(
        own * count + truth.labels[pairs.objects[is_match]], return_counts=True
    )
    totals = np.bincount(own, minlength=count)
    seen = int((totals >= MIN_MATCHES).sum())
    is_mixed = (numbers >= MIXED_SHARE * totals[pair // count]) & (pair // count != pair % count)
    mixed = pair[is_mixed & (totals[pair // count] >= MIN_MATCHES)]
    targets = len(set((mixed % count).tolist()))
    if len(mixed) < 2 or targets < 0.8 * len(mixed) or targets < MIXED_CLASSES * seen:
        return []
    ids, names = truth.category_ids, truth.class_names
    examples = [
        f"{ids[a]} ({names[a]}) on objects of {ids[b]} ({names[b]})"
        for a, b in (divmod(each, count) for each in mixed.tolist())
    ]
    return [
        f"category ids look like those of another list: for {len(mixed)} of {seen} classes most "
        f"detections are on objects of another class ({first_few(examples, 3)}); write the ids of "
        f"the categories of {truth.source}"
    ]


XYWH, XYXY = "[x, y, width, height]", "corners [x1, y1, x2, y2]"
READINGS: dict[str, Callable[[Floats], Floats]] = {XYWH: from_xywh} | {
    name.removeprefix(" given as "): corners for name, corners in ORDERS.items()
}
"""What messages call an order of the four numbers, and xyxy from it."""
assert XYXY in READINGS
