# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""RoIAlign on a pyramid's levels at once, forward and backward, as kernels for a GPU.

torchvision's kernel takes one contiguous float32 map at a time, and reads and writes single values.
Here maps have their channels last and keep their number format. A program pools one bin of one
region over all channels and reads every cell under the bin once, because the bilinear weights of
the bin's samples are products of one weight per column and one per row.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from resdet.ops.triton_common import MAX_LEVELS, Grid, on_device_of

BLOCK = 256
"""Channels of a program at most."""


@triton.jit
def _weight(cell, start, step, count, size):
    """Of row or column `cell`: what the bilinear weights of the `count` samples add up to.

    A sample more than one cell outside counts nothing, another outside is moved to the border.
    """
    total = tl.full((), 0.0, tl.float32)
    for sample in range(count):
        place = start + (sample + 0.5) * step
        is_near = (place >= -1.0) & (place <= size)
        place = tl.minimum(tl.maximum(place, 0.0), size - 1.0)
        share = tl.maximum(1.0 - tl.abs(place - cell), 0.0)
        total += tl.where(is_near, share, 0.0)
    return total


@triton.jit
def _reach(start, step, count, size):
    """The first cell under the samples and the one after the last, within 0..size."""
    low = tl.minimum(tl.maximum(tl.floor(start + 0.5 * step), 0.0), size - 1.0)
    last = tl.floor(start + (count - 0.5) * step)
    high = tl.minimum(tl.maximum(last + 2.0, 1.0), size)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def _bin(
    rois, region, row, column, scale, offset, ratio, SIZE: tl.constexpr, ALIGNED: tl.constexpr
):
    """Image, first edges, steps and numbers of samples of a bin, down and across."""
    image = tl.load(rois + region * 5).to(tl.int64)
    x = tl.load(rois + region * 5 + 1) * scale - offset
    y = tl.load(rois + region * 5 + 2) * scale - offset
    width = tl.load(rois + region * 5 + 3) * scale - offset - x
    height = tl.load(rois + region * 5 + 4) * scale - offset - y
    if not ALIGNED:
        width = tl.maximum(width, 1.0)
        height = tl.maximum(height, 1.0)
    width = width / SIZE
    height = height / SIZE
    down = tl.where(ratio == 0, tl.ceil(height).to(tl.int32), ratio)
    across = tl.where(ratio == 0, tl.ceil(width).to(tl.int32), ratio)
    step_y = height / tl.maximum(down, 1).to(tl.float32)
    step_x = width / tl.maximum(across, 1).to(tl.float32)
    return image, y + row * height, x + column * width, step_y, step_x, down, across


@triton.jit(
    do_not_specialize=[f"{kind}{level}" for kind in ("height", "width") for level in range(5)]
    + ["ratio"]
)
def _pool(
    maps0, maps1, maps2, maps3, maps4,
    height0, height1, height2, height3, height4,
    width0, width1, width2, width3, width4,
    scale0, scale1, scale2, scale3, scale4,
    rois, levels, pooled, channels, offset, ratio,
    SIZE: tl.constexpr, ALIGNED: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One bin of one region: its pooled values, or backward, their gradient into the maps."""
    place = tl.program_id(0).to(tl.int64)
    region, bin_ = place // (SIZE * SIZE), (place % (SIZE * SIZE)).to(tl.int32)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_channel = channel < channels
    level = tl.load(levels + region)
    maps, rows, columns, scale = maps0, height0, width0, scale0
    if level == 1:
        maps, rows, columns, scale = maps1, height1, width1, scale1
    elif level == 2:
        maps, rows, columns, scale = maps2, height2, width2, scale2
    elif level == 3:
        maps, rows, columns, scale = maps3, height3, width3, scale3
    elif level == 4:
        maps, rows, columns, scale = maps4, height4, width4, scale4
    num_rows, num_columns = rows.to(tl.float32), columns.to(tl.float32)
    image, y, x, step_y, step_x, down, across = _bin(
        rois, region, bin_ // SIZE, bin_ % SIZE, scale, offset, ratio, SIZE, ALIGNED
    )
    first_row, stop_row = _reach(y, step_y, down, num_rows)
    first_column, stop_column = _reach(x, step_x, across, num_columns)
    count = tl.maximum(down * across, 1).to(tl.float32)
    out = pooled + place * channels + channel
    if BACKWARD:
        value = tl.load(out, mask=is_channel, other=0).to(tl.float32) / count
    else:
        value = tl.zeros((BLOCK,), tl.float32)
    if down * across == 0:
        stop_row = first_row
    for row in range(first_row, stop_row):
        weight_y = _weight(row * 1.0, y, step_y, down, num_rows)
        cells = maps + (image * rows + row) * columns * channels + channel
        for column in range(first_column, stop_column):
            weight = weight_y * _weight(column * 1.0, x, step_x, across, num_columns)
            cell = cells + column * channels
            if BACKWARD:
                tl.atomic_add(cell, value * weight, mask=is_channel, sem="relaxed")
            else:
                value += weight * tl.load(cell, mask=is_channel, other=0).to(tl.float32)
    if not BACKWARD:
        tl.store(out, (value / count).to(pooled.dtype.element_ty), mask=is_channel)


def pool_levels(features: Sequence[Tensor], levels: Tensor, rois: Tensor, grid: Grid) -> Tensor:
    """(N, C, size, size) in the features' format from up to 5 levels (B, C, H, W), channels last.

    `levels` (N,) int64 is each region's map, `rois` (N, 5) float32 its image and box in pixels of
    the image. The same samples and borders as torchvision's, summed in float32. Only features get
    gradients, and these add up in no fixed order.
    """
    pooled: Tensor = _Pool.apply(grid, levels, rois.contiguous(), *features)
    return pooled


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Grid, levels: Tensor, rois: Tensor, *features: Tensor) -> Tensor:
        ctx.grid, ctx.like = grid, [(feature.shape, feature.dtype) for feature in features]
        ctx.save_for_backward(levels, rois)
        shape = (len(rois), features[0].shape[1], grid.size, grid.size)
        pooled = torch.empty(
            shape,
            dtype=features[0].dtype,
            device=rois.device,
            memory_format=torch.channels_last,
        )
        maps = [each.contiguous(memory_format=torch.channels_last) for each in features]
        _launch(maps, levels, rois, pooled, grid, backward=False)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        levels, rois = ctx.saved_tensors
        sums = [
            torch.zeros(shape, dtype=torch.float32, device=rois.device).contiguous(
                memory_format=torch.channels_last
            )
            for shape, _ in ctx.like
        ]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        _launch(sums, levels, rois, gradient, ctx.grid, backward=True)
        return (
            None,
            None,
            None,
            *(each.to(dtype) for each, (_, dtype) in zip(sums, ctx.like, strict=True)),
        )


def _launch(
    maps: Sequence[Tensor],
    levels: Tensor,
    rois: Tensor,
    pooled: Tensor,
    grid: Grid,
    *,
    backward: bool,
) -> None:
    """`maps` are the features, or the sums of their gradients in float32."""
    regions, channels, size, _ = pooled.shape
    if pooled.numel() == 0:
        return
    missing = MAX_LEVELS - len(maps)
    all_maps = [*maps, *[maps[0]] * missing]
    block = min(BLOCK, triton.next_power_of_2(channels))
    with on_device_of(pooled):
        _pool[(regions * size * size, triton.cdiv(channels, block))](
            *all_maps,
            *(each.shape[2] for each in all_maps),
            *(each.shape[3] for each in all_maps),
            *(float(scale) for scale in [*grid.scales, *[1.0] * missing]),
            rois,
            levels,
            pooled,
            channels,
            0.5 if grid.aligned else 0.0,
            grid.sampling_ratio,
            SIZE=size,
            ALIGNED=grid.aligned,
            BACKWARD=backward,
            BLOCK=block,
            num_warps=1,
        )
