"""Anchors on a feature grid (Faster R-CNN, Ren et al. 2015, 3.1.1; FPN, Lin et al. 2017, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], *, rounded: bool = False
) -> Tensor:
    """(len(sizes) · len(ratios), 4) float32 xyxy around the origin; ratio = height / width.

    `rounded` moves the corners to whole pixels, as torchvision's anchors are.
    """
    rows = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = (size**2 / ratio) ** 0.5
            height = ratio * width
            rows.append([-width / 2, -height / 2, width / 2, height / 2])
    cell = torch.tensor(rows, dtype=torch.float32)
    return cell.round() if rounded else cell


def grid_anchors(
    cell: Tensor, grid_size: tuple[int, int], spacing: int | tuple[int, int]
) -> Tensor:
    """(H · W · A, 4) xyxy pixels: `cell` (A, 4) at each place of a (H, W) grid, corner offset 0.

    `spacing` in pixels is one for both sides, or (down, across). Location-major, then anchor,
    which is the order of the flattened predictions.
    """
    height, width = grid_size
    down, across = (spacing, spacing) if isinstance(spacing, int) else spacing
    ys = torch.arange(height, device=cell.device, dtype=cell.dtype) * down
    xs = torch.arange(width, device=cell.device, dtype=cell.dtype) * across
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell).reshape(-1, 4)
