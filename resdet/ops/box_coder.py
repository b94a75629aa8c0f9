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
    wx, wy, ww, wh = weights
    width, height, center_x, center_y = _sizes_and_centers(anchors)
    box_width, box_height, box_x, box_y = _sizes_and_centers(boxes)
    # Shifts relative to the anchor's size and logarithms of scales: the same numbers for small and
    # large boxes. The weights bring them to about unit variance.
    dx = (box_x - center_x) / width * wx
    dy = (box_y - center_y) / height * wy
    dw = torch.log(box_width / width) * ww
    dh = torch.log(box_height / height) * wh
    return torch.stack([dx, dy, dw, dh], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes (…, 4) xyxy pixels from deltas (…, 4) at anchors (…, 4), which broadcast."""
    if deltas.dtype != torch.float64:
        deltas, anchors = deltas.float(), anchors.float()
    wx, wy, ww, wh = weights
    width, height, center_x, center_y = _sizes_and_centers(anchors.to(deltas.dtype))
    dx, dy, dw, dh = deltas.unbind(dim=-1)
    box_x = dx / wx * width + center_x
    box_y = dy / wy * height + center_y
    half_width = 0.5 * torch.exp((dw / ww).clamp(max=MAX_LOG_SCALE)) * width
    half_height = 0.5 * torch.exp((dh / wh).clamp(max=MAX_LOG_SCALE)) * height
    return torch.stack(
        [box_x - half_width, box_y - half_height, box_x + half_width, box_y + half_height], dim=-1
    )


def _sizes_and_centers(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Width, height, centre x and centre y, each (…,)."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    width, height = x2 - x1, y2 - y1
    return width, height, x1 + 0.5 * width, y1 + 0.5 * height
