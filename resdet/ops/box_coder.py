"""Boxes to deltas and back (R-CNN, Girshick et al. 2014, appendix C)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# A delta may scale a size by at most 1000 / 16, so that exp cannot overflow (Detectron's value).
MAX_LOG_SCALE = math.log(1000.0 / 16)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Deltas (…, 4) (dx, dy, dw, dh) × weights that take `anchors` to `boxes`, both (…, 4) xyxy.

    Anchors must not be empty; boxes of zero size give −inf.
    """
    anchor_sizes = anchors[..., 2:] - anchors[..., :2]
    anchor_centers = anchors[..., :2] + 0.5 * anchor_sizes
    sizes = boxes[..., 2:] - boxes[..., :2]
    centers = boxes[..., :2] + 0.5 * sizes
    scale = boxes.new_tensor(weights)
    shift = (centers - anchor_centers) / anchor_sizes * scale[:2]
    return torch.cat([shift, torch.log(sizes / anchor_sizes) * scale[2:]], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes (…, 4) xyxy pixels from deltas (…, 4) at anchors (…, 4), which broadcast."""
    anchors = anchors.to(deltas.dtype) if deltas.dtype == torch.float64 else anchors.float()
    deltas = deltas.to(anchors.dtype)
    anchor_sizes = anchors[..., 2:] - anchors[..., :2]
    anchor_centers = anchors[..., :2] + 0.5 * anchor_sizes
    deltas = deltas / deltas.new_tensor(weights)
    centers = deltas[..., :2] * anchor_sizes + anchor_centers
    half_sizes = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * anchor_sizes
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)
