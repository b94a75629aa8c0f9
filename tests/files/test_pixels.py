"""Resizes for training and for tests, and the layout of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.files.images import read_image
from resdet.files.pixels import output_size, resize_antialiased, resize_exactly, to_planes


@pytest.mark.parametrize("short_edge", [96, 240, 640, 800])
def test_the_training_resize_is_pillows_but_for_rounding(
    shared_data: Path, short_edge: int
) -> None:
    for path in sorted((shared_data / "coco128_inst" / "images").glob("*.jpg"))[:4]:
        image = read_image(path)
        size = output_size(image.shape[0], image.shape[1], short_edge, 1333)
        exact = resize_exactly(image, *size).astype(int)
        apart = np.abs(resize_antialiased(image, size) - exact)
        assert apart.max() <= 2
        assert apart.mean() < 0.01


def test_the_training_resize_takes_any_memory() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    expected = resize_antialiased(image[4:30, 10:50].copy(), (50, 70))
    frozen = image.copy()
    frozen.flags.writeable = False
    for same in (image[4:30, 10:50], frozen[4:30, 10:50], np.asfortranarray(image)[4:30, 10:50]):
        assert np.array_equal(resize_antialiased(same, (50, 70)), expected)
    # pixels stay side by side, whole images too, or what follows takes ten times as long
    for part in (image, image[4:30, 10:50]):
        assert resize_antialiased(part, (50, 70)).flags.c_contiguous


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3), (5, 7, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_planes_of_any_memory(shape: tuple[int, int, int], kind: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(kind)
    image.flags.writeable = False
    for view in (image, image[:, ::-1], image[::-1], image[:3, :4], np.asfortranarray(image)):
        planes = to_planes(view)
        assert planes.is_contiguous()
        assert np.array_equal(planes.numpy(), view.transpose(2, 0, 1))
        planes.zero_()  # memory of its own
    assert image.any()
