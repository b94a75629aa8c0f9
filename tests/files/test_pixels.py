"""Resizes for training and for tests, and the layout of their pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.files import pixels
from resdet.files.images import read_image
from resdet.files.pixels import (
    output_size,
    resize_antialiased,
    resize_exactly,
    resize_parts,
    to_planes,
)


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


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(40, 60), (7, 90), (90, 7), (200, 11)])
def test_parts_are_those_of_the_whole(shape: tuple[int, int], interpolation: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    short, side = 32, 20
    size = (short, short * shape[1] // shape[0])
    if shape[0] > shape[1]:
        size = (short * shape[0] // shape[1], short)
    corners = [(0, 0), (size[0] - side, size[1] - side), (size[0] // 3, size[1] // 5)]
    whole = resize_exactly(image, *size, interpolation)
    for limit in (1000, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pixels, "MUCH_LARGER", limit)
            parts = resize_parts(image, size, corners, side, interpolation)
        for part, (top, left) in zip(parts, corners, strict=True):
            part_of_whole = whole[top : top + side, left : left + side].astype(int)
            difference = np.abs(part - part_of_whole)
            # cubic weights pass 0 and 255, where Pillow cuts after each axis
            most = 0 if limit else 1 if interpolation == "bilinear" else 40
            assert difference.max() <= most and difference.mean() < 0.5


def test_a_crop_of_a_long_strip_needs_no_whole() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 20_000, 3), dtype=np.uint8)
    size = (256, 256 * 20_000 // 3)
    for part in resize_parts(image, size, [(0, 0), (16, size[1] - 224)], 224):
        assert part.shape == (224, 224, 3)
