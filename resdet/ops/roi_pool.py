"""RoIAlign on a pyramid (FPN, Lin et al. 2017, 4.2; Mask R-CNN, He et al. 2017, 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from resdet.ops.boxes import box_area

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4


def assign_levels(boxes: Tensor, min_level: int, max_level: int) -> Tensor:
    """Pyramid level (N,) int64 of each box (N, 4): a 224-pixel box belongs to p4 (FPN, eq. 1)."""
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
    packed: bool,
    aligned: bool = True,
    sampling_ratio: int = 0,
) -> Tensor:
    """(N, C, size, size) from levels (B, C, H, W) at `boxes` (N, 4) pixels of `images` (N,) int64.

    Aligned with adaptive sampling (0) is Detectron2's RoIAlignV2; torchvision's detectors are not
    aligned and take 2 samples a bin and side. Strides are powers of 2, finest first.
    `packed` pools all levels at once, for a GPU: no count has to reach the host. Otherwise a call
    a level, without a copy of the features; regions that are not aligned always, since they are
    made at least one cell wide, which may reach too far beyond the border of a packed level.
    """
    min_level = strides[0].bit_length() - 1
    max_level = strides[-1].bit_length() - 1
    levels = assign_levels(boxes, min_level, max_level) - min_level
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1).to(features[0].dtype)
    if len(features) == 1:
        return roi_align(features[0], rois, (size, size), 1 / strides[0], sampling_ratio, aligned)
    if packed and aligned:
        return _pool_packed(features, strides, rois, levels, size, sampling_ratio)
    order = torch.argsort(levels, stable=True)
    counts = torch.bincount(levels, minlength=len(features)).tolist()
    pooled = [
        roi_align(feature, rois[rows], (size, size), 1 / stride, sampling_ratio, aligned)
        for feature, stride, rows in zip(features, strides, order.split(counts), strict=True)
        if len(rows) > 0 or len(rois) == 0
    ]
    return torch.cat(pooled).index_select(0, torch.argsort(order))


def _pool_packed(
    features: Sequence[Tensor],
    strides: Sequence[int],
    rois: Tensor,
    levels: Tensor,
    size: int,
    sampling_ratio: int,
) -> Tensor:
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
    scale = _lookup([1 / stride for stride in strides], levels, rois)
    shift_y = _lookup(tops, levels, rois)
    boxes = rois[:, 1:] * scale[:, None]
    shift = torch.stack([torch.ones_like(shift_y), shift_y] * 2, dim=1)
    shifted = torch.cat([rois[:, :1], boxes + shift], dim=1)
    return roi_align(canvas, shifted, (size, size), 1.0, sampling_ratio, True)


def _lookup(values: Sequence[float], index: Tensor, like: Tensor) -> Tensor:
    """values[index] without a copy from the host: the values become constants of the kernel."""
    out = torch.zeros_like(index, dtype=like.dtype)
    for position, value in enumerate(values):
        out = torch.where(index == position, value, out)
    return out
