"""What an annotation table holds, counted: objects by class, sizes, aspect ratios, crowding.

Pure numpy over the columns of a table; 860,000 objects take well under a second. Crowd regions are
counted apart and are in no other number.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of small and medium areas in px²."""


@dataclass(frozen=True)
class Statistics:
    """The M objects (crowd regions left out) of N images in K classes."""

    table: AnnotationTable
    rows: Ints
    """(M,) rows of the table's objects."""

    @property
    def num_images(self) -> int:
        return len(self.table.image_ids)

    @cached_property
    def labels(self) -> Ints:
        """(M,) 0..K-1."""
        return self.table.labels[self.rows]

    @cached_property
    def images(self) -> Ints:
        """(M,) rows of images."""
        return self.table.image_of[self.rows]

    @cached_property
    def objects_per_class(self) -> Ints:
        """(K,) objects."""
        return np.bincount(self.labels, minlength=len(self.table.class_names))

    @cached_property
    def images_per_class(self) -> Ints:
        """(K,) images with an object of the class."""
        count = len(self.table.class_names)
        pairs = np.unique(self.images * max(count, 1) + self.labels)
        return np.bincount(pairs % max(count, 1), minlength=count)

    @cached_property
    def objects_per_image(self) -> Ints:
        """(N,) objects."""
        return np.bincount(self.images, minlength=self.num_images)

    @cached_property
    def sides(self) -> Floats:
        """(M, 2) width, height of the boxes in pixels."""
        return self.table.boxes_xywh[self.rows, 2:]

    @cached_property
    def areas(self) -> Floats:
        """(M,) px², by which COCO sorts objects into small, medium and large."""
        return self.table.areas[self.rows]

    @cached_property
    def aspect_ratios(self) -> Floats:
        """(M,) width / height; NaN for boxes without a height."""
        width, height = self.sides.T
        return np.divide(width, height, out=np.full(len(width), np.nan), where=height > 0)

    @cached_property
    def relative_sizes(self) -> Floats:
        """(M,) square root of box area / image area, 0..1; NaN where the file gives no size."""
        image = self.table.sizes[self.images].astype(np.float64).prod(axis=1)
        box = self.sides.prod(axis=1)
        return np.sqrt(np.divide(box, image, out=np.full(len(box), np.nan), where=image > 0))

    @cached_property
    def size_names(self) -> Ints:
        """(M,) 0 small, 1 medium, 2 large, by COCO's limits."""
        return np.digitize(self.areas, (SMALL, MEDIUM))


def statistics_of(table: AnnotationTable) -> Statistics:
    """The statistics of a table, each computed when it is asked for."""
    return Statistics(table, np.flatnonzero(~table.crowd))


def halving_bins(values: Floats, most: int = 16) -> tuple[Floats, Ints]:
    """(B + 1,) edges at powers of 2 around positive values, and (B,) how many are between them.

    Values below the first edge, where there are more than `most` bins, are counted in the first.
    """
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return np.array([1.0, 2.0]), np.zeros(1, np.int64)
    powers = np.floor(np.log2(known)).astype(np.int64)
    high = int(powers.max())
    low = max(int(powers.min()), high - most + 1)
    counts = np.bincount(np.maximum(powers, low) - low, minlength=high - low + 1)
    return np.exp2(np.arange(low, high + 2, dtype=np.float64)), counts.astype(np.int64)
