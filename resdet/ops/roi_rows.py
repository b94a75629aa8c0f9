"""RoIAlign on a CPU as weighted sums of rows of channels.

With the channels last in memory, the value of a bin is a weighted sum of some cells of the map,
each a row of C adjacent numbers. That is what `embedding_bag` computes, with the
processor's vector units and in bf16 too; the weights along y and x are those of RoIAlign's bilinear
samples (Mask R-CNN, He et al. 2017, 3), summed per cell. About fifteen times as fast as
torchvision's kernel on a CPU, which processes a map one channel at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.ops.triton_common import Grid

WINDOWS = tuple(sorted([2**power for power in range(1, 14)] + [3 * 2**p for p in range(12)]))
"""Sizes to which the windows of cells along an axis are rounded up: few, so that there are few
groups of regions."""


@dataclass
class _Axis:
    """Where the bins of N regions are along one axis of their map."""

    first: Tensor
    """(N, bins) int64: the first cell of each bin's window."""
    weights: Tensor
    """(N, bins, T): the share of each cell from there on; 0 past a window."""
    window: Tensor
    """(N,) int64: cells that a region's windows have, rounded up, at most T."""


@dataclass
class _Group:
    """Regions of one level whose windows have one size, so that they are one call."""

    level: int
    rows: Tensor
    """(n,) int64 positions of the regions."""
    index: Tensor
    """(n · bins² · taps,) int32: which cells of the level's table."""
    weights: Tensor
    """The same shape, the weight of each."""
    taps: int


def pool_rows(features: Sequence[Tensor], levels: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """(N, C, size, size), channels last, from maps (B, C, H, W) at `rois` (N, 5).

    A region is (image, x1, y1, x2, y2) in pixels, and `levels` (N,) is the map it is pooled from.
    As torchvision's `roi_align` otherwise.
    """
    size = grid.size
    groups: list[_Group] = []
    for level, (feature, scale) in enumerate(zip(features, grid.scales, strict=True)):
        rows = (levels == level).nonzero()[:, 0]
        if len(rows) > 0:
            for own, bags in _groups(feature, rois[rows], scale, grid):
                groups.append(_Group(level, rows[own], *bags))
    tables = [feature.permute(0, 2, 3, 1).flatten(0, 2) for feature in features]
    pooled: Tensor = _WeightedRows.apply(  # type: ignore[no-untyped-call]
        groups, len(rois) * size * size, *tables
    )
    return pooled.view(len(rois), size, size, pooled.shape[1]).permute(0, 3, 1, 2)


def _groups(
    feature: Tensor, rois: Tensor, scale: float, grid: Grid
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, int]]]:
    """Positions among `rois`, and (index, weights, taps), of each group on one level."""
    height, width = feature.shape[-2:]
    boxes = rois[:, 1:] * scale
    if grid.aligned:
        boxes = boxes - 0.5
    sides = boxes[:, 2:] - boxes[:, :2]
    if not grid.aligned:
        sides = sides.clamp(min=1)
    across = _axis(boxes[:, 0], sides[:, 0], grid, width)
    down = _axis(boxes[:, 1], sides[:, 1], grid, height)
    image = rois[:, 0].long()
    # regions whose windows have the same height and width have as many cells per bin: one call
    shapes = down.window * (WINDOWS[-1] + 1) + across.window
    for shape in torch.unique(shapes).tolist():
        picked = (shapes == shape).nonzero()[:, 0]
        tall, wide = divmod(shape, WINDOWS[-1] + 1)
        y = down.first[picked, :, None] + torch.arange(tall)
        x = across.first[picked, :, None] + torch.arange(wide)
        # cells past the border have no weight
        y = (y.clamp_(max=height - 1) + image[picked, None, None] * height) * width
        x = x.clamp_(max=width - 1)
        index = (y[:, :, None, :, None] + x[:, None, :, None, :]).flatten()
        by_y = down.weights[picked, :, None, :tall, None]
        by_x = across.weights[picked, None, :, None, :wide]
        weights = (by_y * by_x).flatten()
        yield picked, (index.int(), weights, tall * wide)


def _axis(start: Tensor, length: Tensor, grid: Grid, cells: int) -> _Axis:
    """Windows and weights of regions from `start` (N,) on, `length` (N,) long, in cells."""
    # A bin's value is the mean of its samples, and a sample at position p is the bilinear mix of
    # the cells around p: cell c weighs max(0, 1 − |p − c|) along each axis, a hat around p. The
    # mean over a bin's grid of samples is thus a weighted sum of cells, whose weights are
    # (mean of the hats along y) × (mean of the hats along x). This computes one of the two.
    bins = grid.size
    bin_size = length / bins
    if grid.sampling_ratio > 0:
        samples = torch.full_like(bin_size, grid.sampling_ratio)
    else:
        samples = torch.ceil(bin_size).clamp(min=1)
    number = torch.arange(int(samples.max()), dtype=start.dtype)
    bin_start = start[:, None] + torch.arange(bins, dtype=start.dtype) * bin_size[:, None]
    step = (number + 0.5) * (bin_size / samples)[:, None]
    position = bin_start[:, :, None] + step[:, None, :]
    # Samples further than a cell outside the map count as zeros; others move to its border.
    counts = (position >= -1) & (position <= cells) & (number < samples[:, None, None])
    position = position.clamp(0, cells - 1)
    first = position[..., 0].floor()
    last = position.gather(2, (samples.long() - 1)[:, None, None].expand(-1, bins, 1))[..., 0]
    needed = (last.floor() - first).amax(1).long() + 2
    sizes = torch.tensor(WINDOWS)
    window = sizes[torch.searchsorted(sizes, needed)]
    cell = torch.arange(int(window.max()), dtype=start.dtype)
    offset = (position - first[..., None])[..., None, :] - cell[:, None]
    hats = (1 - offset.abs()).clamp_(min=0) * counts[:, :, None, :]
    return _Axis(first.long(), hats.sum(-1) / samples[:, None, None], window)


class _WeightedRows(torch.autograd.Function):
    """The bins of all groups as sums over the tables, (H·W·B, C) a level; gradients go back there.

    A cell's gradient is a sum over the bins that it is part of, in a fixed order.
    """

    @staticmethod
    def forward(ctx: Any, groups: list[_Group], num_bins: int, *tables: Tensor) -> Tensor:
        ctx.groups, ctx.shapes = groups, [table.shape for table in tables]
        channels = tables[0].shape[1]
        count = sum(len(group.rows) for group in groups)
        pooled = tables[0].new_empty(count, num_bins // max(1, count) * channels)
        for group in groups:
            starts = torch.arange(0, len(group.index), group.taps, dtype=torch.int32)
            bins = _bags(group.index, tables[group.level], starts, group.weights)
            pooled.index_copy_(0, group.rows, bins.view(len(group.rows), -1))
        return pooled.view(num_bins, channels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads: list[Tensor | None] = []
        grad = grad.contiguous()
        count = sum(len(group.rows) for group in ctx.groups)
        for level, shape in enumerate(ctx.shapes):
            own = [group for group in ctx.groups if group.level == level]
            if not ctx.needs_input_grad[2 + level]:
                grads.append(None)
            elif not own:
                grads.append(grad.new_zeros(shape))
            else:
                grads.append(_transposed(own, grad, len(grad) // count, shape[0]))
        return None, None, *grads


def _transposed(groups: Sequence[_Group], grad: Tensor, bins: int, num_cells: int) -> Tensor:
    """(num_cells, C): what `grad` (num_bins, C) gives to each cell of the groups' level.

    The forward pass is a sparse matrix of weights times the table; this is its transpose times the
    gradient. Sorted by cell, the entries of a cell are one bag, summed in a fixed order.
    """
    cells = torch.cat([group.index for group in groups])
    weights = torch.cat([group.weights for group in groups])
    number = torch.arange(bins, dtype=torch.int32)
    sources = torch.cat(
        [
            (group.rows.int()[:, None] * bins + number).flatten().repeat_interleave(group.taps)
            for group in groups
        ]
    )
    sorted_cells, order = torch.sort(cells, stable=True)
    starts = torch.searchsorted(sorted_cells, torch.arange(num_cells, dtype=torch.int32))
    return _bags(sources[order], grad, starts.int(), weights[order])


def _bags(index: Tensor, table: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """(bags, C): weighted sums of rows of `table` (R, C), over the parts of `index` at `starts`."""
    return F.embedding_bag(
        index, table, starts, mode="sum", per_sample_weights=weights.to(table.dtype)
    )
