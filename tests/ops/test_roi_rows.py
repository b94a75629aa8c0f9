"""Regions as weighted sums of rows give what torchvision's RoIAlign gives."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from resdet.ops.roi_rows import pool_rows
from resdet.ops.triton_common import Grid

SCALES = (0.25, 0.125)


def maps(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 5, 64 // step, 96 // step, generator=generator, dtype=dtype)
        for step in (1, 2)
    ]


def regions(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all shapes: slivers, empty ones, the whole image, and some that hang over its border."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 400 - 60
    sides = 2 ** (torch.rand(count, 2, generator=generator) * 9) - 1
    boxes = torch.cat([corner, corner + sides], dim=1)
    boxes[0], boxes[1] = torch.tensor([0.0, 0, 384, 256]), torch.tensor([500.0, 300, 600, 400])
    boxes[2] = torch.tensor([-200.0, 100, 700, 103])
    images = torch.arange(count) % 2
    rois = torch.cat([images[:, None].float(), boxes], dim=1).double()
    return rois, torch.arange(count) % 3 % 2


def expected(
    features: list[torch.Tensor], levels: torch.Tensor, rois: torch.Tensor, size: int, **how: object
) -> torch.Tensor:
    rows = [
        roi_align(
            features[level], roi[None], size, SCALES[level], how["sampling_ratio"], how["aligned"]
        )
        for level, roi in zip(levels.tolist(), rois, strict=True)
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7])
def test_values_and_gradients(aligned: bool, sampling_ratio: int, size: int) -> None:
    rois, levels = regions()
    how = {"aligned": aligned, "sampling_ratio": sampling_ratio}
    results = []
    for function in (
        lambda features: pool_rows(features, levels, rois, Grid(SCALES, size, **how)),
        lambda features: expected(features, levels, rois, size, **how),
    ):
        features = [each.requires_grad_() for each in maps()]
        pooled = function(features)
        weights = torch.linspace(-1, 1, pooled.numel()).view_as(pooled)
        results.append((pooled, *torch.autograd.grad((pooled * weights).sum(), features)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_channels_lie_last_and_no_level_needs_regions() -> None:
    rois, _ = regions()
    how = {"aligned": True, "sampling_ratio": 0}
    pooled = pool_rows(
        maps(), torch.ones(len(rois), dtype=torch.int64), rois, Grid(SCALES, 7, **how)
    )
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    none = torch.zeros(0, dtype=torch.int64)
    features = [each.requires_grad_() for each in maps()]
    empty = pool_rows(features, none, rois[:0], Grid(SCALES, 7, **how))
    assert empty.shape == (0, 5, 7, 7)
    gradients = torch.autograd.grad(empty.sum(), features)
    assert all(not gradient.any() for gradient in gradients)


def test_half_precision_rounds_values_and_not_coordinates() -> None:
    rois, levels = regions()
    how = {"aligned": True, "sampling_ratio": 0}
    exact = expected(maps(), levels, rois, 7, **how)
    halved = [each.bfloat16() for each in maps()]
    pooled = pool_rows(halved, levels, rois.float(), Grid(SCALES, 7, **how))
    assert pooled.dtype == torch.bfloat16
    assert (pooled.double() - exact).abs().max() < 0.03
