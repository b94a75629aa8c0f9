"""Regions of a pyramid (FPN, Lin et al. 2017, 4.2) by RoIAlign (Mask R-CNN, He et al. 2017, 3) or
RoI max pooling (Fast R-CNN, Girshick 2015, 2.1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.ops import kernels
from resdet.ops.boxes import box_area
from resdet.ops.roi_max import pool_maxima
from resdet.ops.roi_rows import pool_rows
from resdet.ops.triton_common import MAX_LEVELS, Grid
from resdet.ops.vision import roi_align

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4


def assign_levels(boxes: Tensor, min_level: int, max_level: int) -> Tensor:
    """Pyramid level (N,) int64 of each box (N, 4): a 224-pixel box belongs to p4 (FPN, eq. 1)."""
    # Each level halves the resolution, so that regions of all sizes cover about as many cells.
    size = box_area(boxes).clamp(min=0).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE + 1e-8))
    return level.clamp(min_level, max_level).long()


def pool_rois(
    features: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    images: Tensor,
    size: int,
    *,
    fixed_slots: bool,
    pooling: str = "align",
    aligned: bool = True,
    sampling_ratio: int = 0,
) -> Tensor:
    """(N, C, size, size) from levels (B, C, H, W) at `boxes` (N, 4) pixels of `images` (N,) int64.

    Aligned with adaptive sampling (0) is Detectron2's RoIAlignV2; torchvision's detectors are not
    aligned and take 2 samples per bin and side. Strides are powers of 2, finest first.
    A CPU without `fixed_slots` groups the regions (`pool_rows`), and a GPU runs our kernels where
    it can (`pool_levels`); both results have their channels last. Otherwise no shape depends on the
    regions: those that are aligned are pooled from one map that holds all levels. Those that are
    not are made at least one cell wide, which may reach too far beyond the border of a packed
    level, and are pooled from every level.
    With `pooling` "pool" a bin is the maximum of the cells it touches (`pool_maxima`), and the last
    two arguments are not used.
    """
    min_level = strides[0].bit_length() - 1
    max_level = strides[-1].bit_length() - 1
    scales = tuple(1 / stride for stride in strides)
    if pooling == "pool":
        levels = assign_levels(boxes, min_level, max_level) - min_level
        return pool_maxima(features, levels, boxes, images, scales, size, fixed_slots=fixed_slots)
    is_counted = features[0].device.type == "cpu" and not fixed_slots
    has_kernel = (
        kernels.usable(features[0])
        and features[0].dtype != torch.float64
        and len(features) <= MAX_LEVELS
    )
    if is_counted or has_kernel:
        # boxes of a model that diverged have no place; what they give is not finite all the same
        boxes = boxes.nan_to_num(0, 0, 0)
    levels = assign_levels(boxes, min_level, max_level) - min_level
    # coordinates of bf16 would be steps of 8 pixels past 1,024
    dtype = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    rois = torch.cat([images[:, None].to(dtype), boxes.to(dtype)], dim=1)
    grid = Grid(scales, size, aligned, sampling_ratio)
    if is_counted:
        return pool_rows(features, levels, rois, grid)
    if has_kernel:
        from resdet.ops.triton_roi import pool_levels

        return pool_levels(features, levels, rois, grid)
    maps = [feature.to(dtype) for feature in features]
    if len(maps) == 1:
        pooled = roi_align(maps[0], rois, size, grid.scales[0], sampling_ratio, aligned)
    elif aligned:
        pooled = _pool_packed(maps, rois, levels, grid)
    else:
        pooled = _pool_every_level(maps, rois, levels, grid)
    return pooled.to(features[0].dtype)


def _pool_every_level(maps: Sequence[Tensor], rois: Tensor, levels: Tensor, grid: Grid) -> Tensor:
    """All regions from each level, those of other levels as empty boxes in a corner, and for each
    region the values of its own level."""
    pooled = maps[0].new_zeros((rois.shape[0], maps[0].shape[1], grid.size, grid.size))
    for level, (feature, scale) in enumerate(zip(maps, grid.scales, strict=True)):
        is_here = levels == level
        here = torch.where(is_here[:, None], rois, 0)
        values = roi_align(feature, here, grid.size, scale, grid.sampling_ratio, False)
        pooled = torch.where(is_here[:, None, None, None], values, pooled)
    return pooled


def _pool_packed(features: Sequence[Tensor], rois: Tensor, levels: Tensor, grid: Grid) -> Tensor:
    """Stack the levels into one map with a replicated border each, and pool from that.

    RoIAlign clamps samples to the map's border; the replicated row or column gives the same values
    for samples within one pixel of it, and boxes inside the image never sample further out.
    """
    width = max(feature.shape[-1] for feature in features) + 2
    stacked, tops, top = [], [], 1
    for feature in features:
        bordered = F.pad(feature, (1, 1, 1, 1), mode="replicate")
        stacked.append(F.pad(bordered, (0, width - bordered.shape[-1])))
        tops.append(top)
        top += feature.shape[-2] + 2
    canvas = torch.cat(stacked, dim=-2)
    scale = _lookup(grid.scales, levels, rois)
    shift_y = _lookup(tops, levels, rois)
    boxes = rois[:, 1:] * scale[:, None]
    shift = torch.stack([torch.ones_like(shift_y), shift_y] * 2, dim=1)
    shifted = torch.cat([rois[:, :1], boxes + shift], dim=1)
    return roi_align(canvas, shifted, grid.size, 1.0, grid.sampling_ratio, True)


def _lookup(values: Sequence[float], index: Tensor, like: Tensor) -> Tensor:
    """values[index] without a copy from the host: the values become constants of the kernel."""
    out = torch.zeros_like(index, dtype=like.dtype)
    for position, value in enumerate(values):
        out = torch.where(index == position, value, out)
    return out
