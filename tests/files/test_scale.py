"""Whether objects of an image are as large as those that a detector was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from resdet.files.scale import UNKNOWN, Seen, seen_in, shrink_problem


def test_what_was_seen_is_the_median() -> None:
    sizes = np.array([[480, 640], [480, 640], [3000, 100]])
    seen = seen_in(sizes, np.array([16.0, 400.0, 10_000.0]), 800, 1333)
    assert seen == Seen(pytest.approx(800 / 480), 20.0)
    assert seen_in(sizes[:0], np.array([]), 800, 1333) == Seen(1.0, 0.0)


@pytest.mark.parametrize(
    ("size", "seen", "words"),
    [
        ((4000, 6000), Seen(1.0, 40.0), "has 8 pixels instead of 40"),
        ((4000, 6000), UNKNOWN, "6000×4000 pixels are shrunk to 1200×800, by 0.2"),
        ((20_000, 300), Seen(1.0, 0.0), "300×20000 pixels are shrunk to 20×1333"),
        ((1200, 1600), Seen(1.0, 5.0), "has 3.3 pixels instead of 5"),
        ((1200, 1600), Seen(2.1, 100.0), "training images were resized by 2.1"),
        ((1200, 1600), Seen(1.0, 6.2), None),
        ((1200, 1600), Seen(1.0, 3.0), None),
        ((4000, 6000), Seen(0.25, 300.0), None),
        ((480, 640), Seen(1.67, 60.0), None),
        ((1, 1), UNKNOWN, None),
    ],
)
def test_images_that_are_shrunk_too_much(
    size: tuple[int, int], seen: Seen, words: str | None
) -> None:
    problem = shrink_problem(size, 800, 1333, seen)
    if words is None:
        assert problem is None
    else:
        assert problem is not None and words in problem
        assert "raise data.test_resize.short_edge" in problem
