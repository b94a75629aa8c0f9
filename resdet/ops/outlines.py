"""Masks as polygons along the borders of their pixels."""

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(n, 2) xy in pixels; the last point is joined to the first."""


def trace_rings(mask: NDArray[np.generic]) -> tuple[list[Points], list[Points]]:
    """The outer borders of a mask (h, w), bool or 0/1, and those of its holes, in its own pixels.

    A ring has a point at each corner and none between: drawn by the even-odd rule, the rings give
    the mask back exactly.
    """
    # of a mask twice as large the border pixels are odd and even: they tell the sides of a pixel
    large = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, nesting = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings: tuple[list[Points], list[Points]] = ([], [])
    for contour, (*_, parent) in zip(contours, () if nesting is None else nesting[0], strict=True):
        points = (contour[:, 0].astype(np.int64) + 1) // 2
        # corners only: points whose two sides have other directions
        points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
        if turns.sum() >= 3:
            rings[int(parent >= 0)].append(points[turns].astype(np.float64))
    return rings


def simplify_ring(ring: Points, distance: float) -> Points:
    """A ring without the points that it is at most `distance` pixels away from (Douglas & Peucker
    1973), so that stairs become lines; the ring as it is where too few would be left."""
    short = cv2.approxPolyDP(ring.astype(np.float32), distance, True)[:, 0].astype(np.float64)
    return short if len(short) >= 3 else ring
