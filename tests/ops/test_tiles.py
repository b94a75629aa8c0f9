"""How images are cut into tiles."""

from __future__ import annotations

import numpy as np
import pytest

from resdet.ops.tiles import Tiling


@pytest.mark.parametrize("size", [(300, 400), (100, 101), (64, 64), (10, 2000), (1, 1)])
@pytest.mark.parametrize(("side", "overlap"), [(64, 0.2), (64, 0.0), (100, 0.9), (33, 0.5)])
def test_tiles_cover_the_image_and_overlap_enough(
    size: tuple[int, int], side: int, overlap: float
) -> None:
    tiling = Tiling(side, overlap)
    windows = tiling.windows(size)
    covered = np.zeros(size, np.int32)
    for x1, y1, x2, y2 in windows.tolist():
        assert (x2 - x1, y2 - y1) == (min(side, size[1]), min(side, size[0]))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1 and len({tuple(window) for window in windows.tolist()}) == len(
        windows
    )
    for length in size:
        starts = tiling.starts(length)
        assert starts[0] == 0 and starts[-1] + min(side, length) == length
        if len(starts) > 1:
            assert side - np.diff(starts).max() >= side * overlap - 1  # rounded to pixels


def test_neighbours_are_the_tiles_that_meet() -> None:
    for tiling, size in (
        (Tiling(64, 0.2), (200, 300)),
        (Tiling(50, 0.6), (130, 90)),
        (Tiling(50, 0), (100, 150)),
    ):
        windows = tiling.windows(size)
        meets = {
            (i, j)
            for i in range(len(windows))
            for j in range(i + 1, len(windows))
            if (
                np.maximum(windows[i, :2], windows[j, :2])
                <= np.minimum(windows[i, 2:], windows[j, 2:])
            ).all()
        }
        assert sorted(tiling.neighbours(size)) == sorted(meets)
