"""Masks of run-length codes, decoded in the window around their pixels."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_utils

from resdet.ops.runs import decode_window


def test_the_window_holds_all_of_the_mask() -> None:
    rng = np.random.default_rng(0)
    for trial in range(60):
        mask = np.zeros((90, 140), np.uint8)
        y, x = rng.integers(0, 80), rng.integers(0, 130)
        part = mask[y : y + rng.integers(1, 40), x : x + rng.integers(1, 60)]
        part[:] = rng.random(part.shape) < (1.0, 0.6)[trial % 2]
        (x1, y1, x2, y2), inside = decode_window(mask_utils.encode(np.asfortranarray(mask)))
        again = np.zeros_like(mask)
        again[y1:y2, x1:x2] = inside
        assert np.array_equal(again, mask)
        if part.any() and (y2 - y1) < 90:
            assert inside.any(axis=0)[[0, -1]].all() and inside.any(axis=1)[[0, -1]].all()


def test_whole_and_empty_masks() -> None:
    for value in (0, 1):
        whole = np.full((7, 9), value, np.uint8, order="F")
        window, mask = decode_window(mask_utils.encode(whole))
        assert mask.shape == ((7, 9) if value else (0, 0)) and mask.all()
        assert window == ((0, 0, 9, 7) if value else (0, 0, 0, 0))


def test_runs_of_no_pixels_between_others() -> None:
    rle = mask_utils.frPyObjects({"size": [4, 3], "counts": [1, 2, 0, 3, 6]}, 4, 3)
    (x1, y1, x2, y2), mask = decode_window(rle)
    assert np.array_equal(mask, mask_utils.decode(rle)[y1:y2, x1:x2]) and mask.sum() == 5
