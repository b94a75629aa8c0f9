"""RoI max pooling gives torchvision's values, and its gradients at ties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_pool

from resdet.ops.roi_max import LARGEST, pool_maxima
from resdet.ops.roi_pool import assign_levels, pool_rois

STRIDES = (8, 16)
HEIGHT, WIDTH = 288, 416


def maps(dtype: torch.dtype = torch.float32, channels: int = 12) -> list[Tensor]:
    """After ReLU, and in steps: many cells are equal, zeros above all."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    return [(value.relu() * 4).round().div(4).to(dtype) for value in values]


def boxes(count: int = 90) -> Tensor:
    """Inside, across the border, outside, reversed, tiny, empty, on edges and halves of cells."""
    generator = torch.Generator().manual_seed(count)
    side = 2 ** (torch.rand(count, 2, generator=generator) * 9)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]) - 60
    made = torch.cat([corner, corner + side], dim=1)
    special = [
        [0, 0, WIDTH, HEIGHT],
        [-50, -50, WIDTH + 90, HEIGHT + 90],
        [-400, -400, -200, -300],
        [WIDTH + 50, 20, WIDTH + 400, 90],
        [200, 150, 100, 50],
        [33, 33, 33, 33],
        [33.1, 40.2, 33.4, 40.3],
        [8, 8, 24, 40],
        [12, 4, 20, 28],
        [-12, -4, 20, 28],
        [0, 0, 0, 0],
        [0, 100, WIDTH, 103],
    ]
    made[: len(special)] = torch.tensor(special)[:count]
    return made


def by_torchvision(features: Sequence[Tensor], levels: Tensor, rois: Tensor, size: int) -> Tensor:
    """The regions of each map by themselves, and put back into their order."""
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], size, size)
    for level, feature in enumerate(features):
        own = (levels == level).nonzero()[:, 0]
        values = roi_pool(feature, rois[own], size, 1 / STRIDES[level])
        pooled = pooled.index_copy(0, own, values)
    return pooled


def results(function, features: list[Tensor]) -> list[Tensor]:
    """The pooled regions and the gradients of all maps."""
    features = [each.requires_grad_() for each in features]
    pooled = function(features)
    # small whole numbers: sums in another order are exactly equal
    weights = torch.arange(pooled.numel()).remainder(17).sub(8).to(pooled.dtype).view_as(pooled)
    gradients = torch.autograd.grad((pooled * weights).sum(), features, allow_unused=True)
    zeros = [torch.zeros_like(each) for each in features]
    return [pooled] + [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]


@pytest.mark.parametrize("fixed_slots", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("size", "count"), [(1, 90), (7, 90), (14, 90), (7, 1), (7, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(
    dtype: torch.dtype, size: int, count: int, channels_last: bool, fixed_slots: bool
) -> None:
    where, images = boxes(count).to(dtype), torch.arange(count) % 2
    levels = torch.arange(count) % 3 % 2
    rois = torch.cat([images[:, None].to(dtype), where], dim=1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    scales = [1 / stride for stride in STRIDES]
    ours = results(
        lambda features: pool_maxima(
            [each.contiguous(memory_format=layout) for each in features],
            levels,
            where,
            images,
            scales,
            size,
            fixed_slots=fixed_slots,
        ),
        maps(dtype),
    )
    theirs = results(lambda features: by_torchvision(features, levels, rois, size), maps(dtype))
    assert torch.equal(ours[0], theirs[0])
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_exact(dtype: torch.dtype) -> None:
    """A maximum is one of its cells: nothing rounds but the sums of gradients."""
    where, images = boxes(), torch.arange(90) % 2
    levels = torch.arange(90) % 3 % 2
    halved = maps(dtype)
    ours = results(
        lambda features: pool_maxima(
            features, levels, where, images, [1 / 8, 1 / 16], 7, fixed_slots=False
        ),
        halved,
    )
    rois = torch.cat([images[:, None].float(), where], dim=1)
    theirs = results(
        lambda features: by_torchvision(features, levels, rois, 7), [m.float() for m in maps(dtype)]
    )
    assert ours[0].dtype == dtype
    assert torch.equal(ours[0].float(), theirs[0])
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, atol=0.15, rtol=0.02)


def test_each_box_is_pooled_from_its_level() -> None:
    features, where, images = maps(), boxes(), torch.arange(90) % 2
    levels = assign_levels(where, 3, 4) - 3
    rois = torch.cat([images[:, None].float(), where], dim=1)
    expected = by_torchvision(features, levels, rois, 7)
    for fixed in (False, True):
        pooled = pool_rois(features, STRIDES, where, images, 7, fixed_slots=fixed, pooling="pool")
        assert torch.equal(pooled, expected)
    alone = pool_rois(features[1:], [16], where, images, 7, fixed_slots=False, pooling="pool")
    assert torch.equal(alone, by_torchvision(features, torch.ones_like(levels), rois, 7))


@pytest.mark.parametrize("fixed_slots", [False, True])
def test_boxes_that_are_not_finite_stop_nothing(fixed_slots: bool) -> None:
    """A coordinate that has no place counts as 0, one that is too far is cut."""
    where = boxes(6)
    where[1, 2], where[2], where[3, 0], where[4, 3] = torch.inf, torch.nan, -torch.inf, 1e30
    named = where.nan_to_num(0, 0, 0).clamp(-LARGEST, LARGEST)
    images, levels = torch.arange(6) % 2, torch.arange(6) % 2
    pooled, expected = (
        pool_maxima(maps(), levels, given, images, [1 / 8, 1 / 16], 7, fixed_slots=fixed_slots)
        for given in (where, named)
    )
    assert torch.equal(pooled, expected)
    assert torch.isfinite(pooled).all()


def test_the_same_gradient_every_time() -> None:
    """Exact resume needs sums in a fixed order; many bins share cells here."""
    where, images = boxes(), torch.arange(90) % 2
    levels = torch.zeros(90, dtype=torch.int64)
    runs = [
        results(
            lambda features: pool_maxima(
                features, levels, where, images, [1 / 8, 1 / 16], 14, fixed_slots=False
            ),
            maps(),
        )
        for _ in range(2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
