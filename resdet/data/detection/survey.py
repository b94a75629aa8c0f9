"""What the objects of a data set are to a detector: their sizes as it sees them, how well anchors
fit, crowding, rare classes; and what of it is a finding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.anchors import LOOKED, Anchors, best_overlaps
from resdet.data.detection.checks import clip_boxes
from resdet.data.detection.statistics import Statistics
from resdet.errors import first_few
from resdet.files.findings import SHOWN, Finding
from resdet.files.scale import LEAST_SIDE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TINY_SHARE = 0.005
"""Share of the objects that may be tiny without a finding."""

WHOLE, TIMES = 0.9, 8.0
"""An object is huge if it covers this share of its image, and the area is this many times the
median of its class."""

FEW, RARE = 20, 100
"""A class is rare with fewer objects than `FEW`, or `RARE` times fewer than the commonest class."""

OVERLAPPING = 0.05
"""Share of the objects that may overlap another one of their class beyond what NMS keeps."""

MOST_COMPARED = 256
"""Neighbours in the order of their left edges with which the objects of one class are compared."""


@dataclass(frozen=True)
class View:
    """How a detector sees images in training."""

    short_edge: float
    """The middle of what its short side is resized to, in pixels."""
    max_size: float
    """The most that the long side may have."""
    anchors: Anchors
    most: int
    """Detections kept per image."""
    is_square: bool
    """Whether images are fitted into a square, by large-scale jitter."""
    nms_thresh: float
    """IoU beyond which NMS drops a detection of the same class."""
    tile: int | None = None
    """Side of the tiles that images are cut into, in pixels; None for whole images."""

    def scales(self, sizes: NDArray[np.int32]) -> Floats:
        """(N,) resized over original side of images of (N, 2) height, width."""
        if self.tile is not None:
            return np.full(len(sizes), min(self.short_edge, self.max_size) / self.tile)
        short, long = np.maximum(sizes.min(axis=1), 1), np.maximum(sizes.max(axis=1), 1)
        scales: Floats = np.minimum(self.short_edge / short, self.max_size / long)
        return scales


@dataclass(frozen=True)
class ObjectSurvey(Statistics):
    """The usable objects (`rows`, by image) of a table, as a detector sees them."""

    view: View
    num_used: int
    """Images that training uses: mostly those with objects alone."""

    @cached_property
    def scales(self) -> Floats:
        """(N,) resized over original side."""
        return self.view.scales(self.table.sizes)

    @cached_property
    def original(self) -> Floats:
        """(M, 4) xyxy in pixels of the files, inside the image."""
        return clip_boxes(self.table.boxes_xywh[self.rows], self.table.sizes[self.images])

    @cached_property
    def boxes(self) -> Floats:
        """(M, 4) xyxy in pixels of the resized image."""
        boxes: Floats = self.original * self.scales[self.images, None]
        return boxes

    @cached_property
    def seen_sides(self) -> Floats:
        """(M, 2) width, height in pixels of the resized image."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @cached_property
    def root_areas(self) -> Floats:
        """(M,) √area in pixels of the resized image."""
        roots: Floats = np.sqrt(self.seen_sides.prod(axis=1))
        return roots

    @cached_property
    def is_tiny(self) -> NDArray[np.bool_]:
        """(M,) what resizing leaves next to nothing of."""
        return self.seen_sides.min(axis=1) < LEAST_SIDE

    @cached_property
    def looked_at(self) -> Ints:
        """Positions of at most `LOOKED` objects, evenly spaced."""
        return np.arange(0, len(self.rows), 1 + len(self.rows) // LOOKED)

    def overlaps(self, anchors: Anchors) -> Floats:
        """IoU with the best anchor of each object of `looked_at`."""
        chosen = self.looked_at
        sizes = self.table.sizes[self.images[chosen]] * self.scales[self.images[chosen], None]
        return best_overlaps(self.boxes[chosen], sizes, anchors)

    @cached_property
    def fits(self) -> Floats:
        """`overlaps` with the view's anchors."""
        return self.overlaps(self.view.anchors)

    @cached_property
    def is_overlapped(self) -> NDArray[np.bool_]:
        """(M,) whether another object of the image and class overlaps by more than NMS keeps."""
        boxes = self.original
        order = np.lexsort((boxes[:, 0], self.labels, self.images))
        group = (self.images * max(1, len(self.table.class_names)) + self.labels)[order]
        ordered, areas = boxes[order], (boxes[order, 2:] - boxes[order, :2]).prod(axis=1)
        found = np.zeros(len(order), bool)
        rows = np.arange(len(order))
        for distance in range(1, MOST_COMPARED):
            rows = rows[rows + distance < len(order)]
            others = rows + distance
            # to the right of an object's edge none overlaps it any more
            is_near = (group[rows] == group[others]) & (ordered[others, 0] < ordered[rows, 2])
            rows, others = rows[is_near], others[is_near]
            if not len(rows):
                break
            low = np.maximum(ordered[rows, :2], ordered[others, :2])
            high = np.minimum(ordered[rows, 2:], ordered[others, 2:])
            inter = np.maximum(high - low, 0).prod(axis=1)
            is_over = inter > self.view.nms_thresh * (areas[rows] + areas[others] - inter)
            found[rows[is_over]] = found[others[is_over]] = True
        result = np.zeros(len(order), bool)
        result[order] = found
        return result

    def findings(self, *, is_train: bool) -> list[Finding]:
        """What is worth a look; rare classes only of what `is_train`."""
        found = [self._tiny(), self._huge(), self._crowded(), self._overlapping()]
        if is_train:
            found += [self._rare(), self._absent()]
        return [finding for finding in found if finding is not None]

    def _finding(self, which: NDArray[np.bool_], what: str, remedy: str) -> Finding:
        ids = self.table.annotation_ids[self.rows[which]][: SHOWN + 1].tolist()
        named = ", ".join(f"annotation {key}" for key in ids[:SHOWN])
        more = ", …" if len(ids) > SHOWN else ""
        item = f"{int(which.sum())} of {len(self.rows)} objects ({named}{more})"
        return Finding(self.table.source, item, what, remedy)

    def _tiny(self) -> Finding | None:
        if self.is_tiny.sum() < max(3.0, TINY_SHARE * len(self.rows)):
            return None
        what = f"are less than {LEAST_SIDE:g} pixels wide or high at the training size"
        remedy = (
            "they are hardly learned; enlarge images (data.augment.resize and data.test_resize), "
            "cut them into tiles, or remove what should not be there"
        )
        return self._finding(self.is_tiny, what, remedy)

    def _huge(self) -> Finding | None:
        if not len(self.rows):
            return None
        areas = (self.original[:, 2:] - self.original[:, :2]).prod(axis=1)
        shares = areas / np.maximum(self.table.sizes[self.images].astype(float).prod(axis=1), 1)
        usual = np.ones(len(self.objects_per_class))
        for label in np.unique(self.labels[shares > WHOLE]).tolist():
            usual[label] = np.median(shares[self.labels == label])
        huge = (shares > WHOLE) & (shares > TIMES * usual[self.labels])
        if not huge.any():
            return None
        what = f"cover more than {WHOLE:.0%} of their image, and others of their class do not"
        return self._finding(huge, what, "they are used; remove those that were drawn by mistake")

    def _crowded(self) -> Finding | None:
        crowded = np.flatnonzero(self.objects_per_image > self.view.most)
        if not len(crowded) or self.view.tile is not None:  # the limit is one per tile
            return None
        names = [self.table.image_name(row) for row in crowded[: SHOWN + 1].tolist()]
        named = first_few(names, SHOWN)
        item = f"{len(crowded)} of {len(self.objects_per_image)} images ({named})"
        what = f"have more than {self.view.most} objects, up to {self.objects_per_image.max()}"
        remedy = "no more are detected; raise model.detections_per_image, and eval.max_dets"
        return Finding(self.table.source, item, what, remedy)

    def _overlapping(self) -> Finding | None:
        if self.is_overlapped.sum() <= max(10.0, OVERLAPPING * len(self.rows)):
            return None
        what = f"overlap another one of their class by an IoU over {self.view.nms_thresh:g}"
        remedy = (
            "only one of both can be detected; raise model.nms_thresh, or set test.merge to "
            "soft_nms, and remove objects that are there twice"
        )
        return self._finding(self.is_overlapped, what, remedy)

    def _rare(self) -> Finding | None:
        counts, most = self.objects_per_class, int(self.objects_per_class.max(initial=0))
        rare = np.flatnonzero((counts > 0) & ((counts < FEW) | (counts * RARE < most)))
        rare = rare[np.argsort(counts[rare], kind="stable")]
        if not len(rare) or (len(counts) < 2 and most >= FEW):
            return None
        names = [f"{self.table.class_names[k]!r} has {counts[k]}" for k in rare.tolist()]
        item = f"{len(rare)} of {len(counts)} classes"
        what = f"have few objects ({first_few(names, SHOWN)}; the commonest has {most})"
        remedy = "they are hardly learned; annotate more, or see data.repeat_threshold"
        return Finding(self.table.source, item, what, remedy)

    def _absent(self) -> Finding | None:
        absent = np.flatnonzero(self.objects_per_class == 0)
        if not len(absent):
            return None
        names = [repr(self.table.class_names[k]) for k in absent.tolist()]
        item = f"{len(absent)} of {len(self.objects_per_class)} classes ({first_few(names, SHOWN)})"
        remedy = "they are never learned; annotate some, or leave them out by data.classes"
        return Finding(self.table.source, item, "have no object", remedy)
