"""Anchors on a feature grid (Faster R-CNN, Ren et al. 2015, 3.1.1; FPN, Lin et al. 2017, 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """(len(sizes) · len(ratios), 4) float32 xyxy around the origin; ratio = height / width."""
    rows = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = (size**2 / ratio) ** 0.5
            height = ratio * width
            rows.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(rows, dtype=torch.float32)


def grid_anchors(cell: Tensor, grid_size: tuple[int, int], stride: int) -> Tensor:
    """(H · W · A, 4) xyxy pixels: `cell` (A, 4) at every stride of a (H, W) grid, corner offset 0.

    Location-major, then anchor, which is the order of the flattened predictions.
    """
    height, width = grid_size
    ys = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride
    xs = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell).reshape(-1, 4)
