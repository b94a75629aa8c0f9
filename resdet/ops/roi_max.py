"""RoI max pooling: the quantised regions of Fast R-CNN (Girshick 2015, 2.1) and SPP-net.

A box is rounded to whole cells, its last row and column included, and cut into size × size bins
whose edges are rounded outwards, so that neighbours overlap. A bin is the maximum of its cells. The
rounding is that of Fast R-CNN's code, which torchvision's `roi_pool` has kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from resdet.ops.roi_windows import pool_windows
from resdet.ops.vision import roi_pool

LARGEST = 1e6
"""Coordinates in pixels are cut at this magnitude: whole cells then fit into 32 bits."""


def pool_maxima(
    features: Sequence[Tensor],
    levels: Tensor,
    boxes: Tensor,
    images: Tensor,
    scales: Sequence[float],
    size: int,
    *,
    fixed_slots: bool,
) -> Tensor:
    """(N, C, size, size) from maps (B, C, H, W), `scales` cells per pixel each.

    Region n is `boxes` (N, 4) pixels of `images` (N,) on the map `levels` (N,). A bin outside the
    map is 0. The gradient goes to the first of equal cells, row by row; ReLU leaves many zeros that
    are equal. Coordinates that are not finite count as 0.
    A CPU without `fixed_slots` uses `pool_windows`, whose result has its channels last. Otherwise
    no shape depends on the regions, and torchvision's kernel pools them.
    """
    dtype = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    # boxes of a model that diverged have no place; what they give is not finite all the same
    boxes = boxes.to(dtype).nan_to_num(0, 0, 0).clamp(-LARGEST, LARGEST)
    if features[0].device.type == "cpu" and not fixed_slots and dtype == torch.float32:
        return pool_windows(features, levels, boxes, images, scales, size)
    rois = torch.cat([images[:, None].to(dtype), boxes], dim=1)
    pooled = features[0].new_zeros((rois.shape[0], features[0].shape[1], size, size), dtype=dtype)
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        # every level takes every region, so that no shape depends on them
        values = roi_pool(feature.to(dtype), rois, size, scale)
        pooled = torch.where((levels == level)[:, None, None, None], values, pooled)
    return pooled.to(features[0].dtype)
