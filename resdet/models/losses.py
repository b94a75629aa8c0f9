"""Losses over sampled boxes, with denominators that hold over all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from resdet.ops.box_coder import decode_boxes, encode_boxes
from resdet.ops.boxes import giou_loss


def mean_over_processes(total: Tensor, count: Tensor) -> Tensor:
    """`total` / `count`, both scalars of this process, as a mean over every process's samples.

    DDP averages gradients over processes, so the local sum is divided by the mean local count:
    the averaged gradient is then that of one process with the whole batch. A count of 0 gives 0.
    Without gradients, as in validation, processes may have different numbers of batches, and each
    divides by its own count without waiting for the others.
    """
    count = count.detach().to(total.dtype)
    if torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return torch.where(count > 0, total / count.clamp(min=1e-6), total * 0)


def full_precision(x: Tensor) -> Tensor:
    """Half precision to float32, which every loss is computed in; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def box_loss_sum(
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Tensor,
    selected: Tensor,
    *,
    weights: Sequence[float],
    loss: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Sum of the box losses of the `selected` (…,) rows; deltas, anchors, gt_boxes are (…, 4).

    l1 and smooth_l1 (Girshick 2015, 2.3) compare deltas; giou (Rezatofighi et al. 2019) compares
    decoded boxes. Rows that are not selected may hold anything finite.
    """
    # Rows that do not count get a unit box: where() still differentiates the side that it drops,
    # and 0 · inf would be NaN.
    unit = torch.zeros_like(anchors)
    unit[..., 2:] = 1
    anchors = torch.where(selected[..., None], anchors, unit)
    gt_boxes = torch.where(selected[..., None], gt_boxes, unit)
    deltas = full_precision(deltas)
    if loss == "giou":
        loss_per_row = giou_loss(decode_boxes(deltas, anchors, weights), gt_boxes.to(deltas.dtype))
    else:
        targets = encode_boxes(gt_boxes, anchors, weights).to(deltas.dtype)
        if loss == "l1":
            loss_per_row = F.l1_loss(deltas, targets, reduction="none").sum(dim=-1)
        else:
            elements = F.smooth_l1_loss(deltas, targets, reduction="none", beta=smooth_l1_beta)
            loss_per_row = elements.sum(dim=-1)
    return torch.where(selected, loss_per_row, loss_per_row.new_zeros(())).sum()
