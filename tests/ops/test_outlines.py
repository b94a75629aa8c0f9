"""Masks traced along their pixels and drawn again."""

import cv2
import numpy as np
import pytest

from resdet.ops.outlines import simplify_ring, trace_rings


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are inside by the even-odd rule, by counting edges to the left."""
    inside = np.zeros(shape, bool)
    y = np.arange(shape[0])[:, None] + 0.5
    x = np.arange(shape[1])[None] + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y1 != y2:
                crosses = (np.minimum(y1, y2) < y) & (y < np.maximum(y1, y2))
                inside ^= crosses & (x > x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


@pytest.mark.parametrize("seed", range(4))
def test_rings_give_any_mask_back(seed: int) -> None:
    # noise has holes, islands in holes, and pixels that touch at corners only
    mask = np.random.default_rng(seed).random((13, 9)) < (0.3, 0.5, 0.7, 0.95)[seed]
    outer, holes = trace_rings(mask)
    assert (filled([*outer, *holes], mask.shape) == mask).all()


def test_a_hole_is_told_from_the_outer_border() -> None:
    mask = np.zeros((6, 7), np.uint8)
    mask[1:5, 1:6] = 1
    mask[2:4, 3] = 0
    (outer,), (hole,) = trace_rings(mask)
    assert sorted(map(tuple, outer)) == [(1, 1), (1, 5), (6, 1), (6, 5)]
    assert sorted(map(tuple, hole)) == [(3, 2), (3, 4), (4, 2), (4, 4)]
    assert trace_rings(np.zeros((3, 3), bool)) == ([], [])


def test_a_simplified_disc_has_few_points_and_the_same_pixels() -> None:
    disc = cv2.circle(np.zeros((90, 90), np.uint8), (45, 45), 40, 1, -1)
    (ring,), _ = trace_rings(disc)
    short = simplify_ring(ring, 1.0)
    assert len(short) < len(ring) / 3
    wrong = filled([short], disc.shape) != disc.astype(bool)
    assert wrong.sum() < 0.02 * disc.sum()
    # one pixel keeps its corners, whatever the distance
    (pixel,), _ = trace_rings(np.ones((1, 1), bool))
    assert len(simplify_ring(pixel, 5.0)) == 4
