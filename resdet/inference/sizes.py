"""The sizes of an image that detectors are tested at, and how they are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from resdet.config.testing import TestConfig
from resdet.files.pixels import prepare_image
from resdet.models.rcnn import RCNN

Prepared = tuple[Tensor, ...]
"""One image in every size of a `Preparation`: (3, h, w) each, 0..255."""


@dataclass(frozen=True)
class Size:
    """What `resize_image` takes."""

    short_edge: int
    max_size: int
    method: str
    tile_scale: float
    """The factor by which tiles of large images are resized."""


@dataclass(frozen=True)
class Preparation:
    """Resizes an image; holds no network, so that loader processes can have it."""

    sizes: tuple[Size, ...]

    def __call__(self, pixels: np.ndarray, *, is_tile: bool = False) -> Prepared:
        """(H, W, 3) uint8 RGB → its sizes; uint8, or float32 where the method is float."""
        return tuple(
            prepare_image(
                pixels,
                size.short_edge,
                size.max_size,
                size.method,
                size.tile_scale if is_tile else None,
            )
            for size in self.sizes
        )


@dataclass(frozen=True)
class Plan:
    """Which sizes one detector needs, as positions in a `Preparation`."""

    scales: tuple[int, ...]
    """One for each of `test.scales`, or the test size alone."""
    test: int | None
    """The test size, where proposals come from it and not from the scales; else None."""


def plan_sizes(
    members: Sequence[RCNN], test: TestConfig, *, adjacent: bool
) -> tuple[Preparation, list[Plan]]:
    """What all members need, each size once, and the plan of each member."""
    sizes: dict[Size, int] = {}
    plans = []
    for model in members:
        own = Size(
            model.test_short_edge,
            model.test_max_size,
            model.test_resize_method,
            model.tile_scale or 1.0,
        )
        scales = [at_scale(own, scale) for scale in test.scales] or [own]
        positions = tuple(sizes.setdefault(size, len(sizes)) for size in scales)
        at_test = None
        if adjacent and test.proposal_scales == "test":
            at_test = sizes.setdefault(own, len(sizes))
        plans.append(Plan(positions, at_test))
    return Preparation(tuple(sizes)), plans


def at_scale(size: Size, short_edge: int) -> Size:
    """Another short side, with the limit on the long side in proportion: an image keeps its
    aspect at all scales, and at its own test size it is what it was."""
    ratio = short_edge / size.short_edge
    longest = round(size.max_size * short_edge / size.short_edge)
    return Size(short_edge, longest, size.method, size.tile_scale * ratio)
