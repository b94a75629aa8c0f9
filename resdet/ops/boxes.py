"""Box arithmetic; boxes are (…, 4) xyxy float pixels with width = x2 − x1, background is K."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from resdet.ops import kernels

MAX_BOXES_A_CALL = 500
"""Of NMS on a CPU, whatever their groups."""
MAX_BOXES_OF_A_GPU = 2**15
"""Of torchvision's NMS on a GPU: its memory grows with their square (128 MB here)."""


def box_area(boxes: Tensor) -> Tensor:
    """Areas (…,) of boxes (…, 4), in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU (…, N, M), 0..1, of boxes (…, N, 4) and (…, M, 4) that share their leading dimensions.

    Empty boxes have IoU 0 with everything.
    """
    # A coordinate at a time: no (…, N, M, 2) intermediates.
    b1, b2 = boxes1[..., :, None, :], boxes2[..., None, :, :]
    width = torch.minimum(b1[..., 2], b2[..., 2]) - torch.maximum(b1[..., 0], b2[..., 0])
    height = torch.minimum(b1[..., 3], b2[..., 3]) - torch.maximum(b1[..., 1], b2[..., 1])
    inter = width.clamp_(min=0) * height.clamp_(min=0)
    union = box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - inter
    return torch.where(inter > 0, inter / union, inter.new_zeros(()))


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (…, 4) moved inside images of `sizes` (…, 2) (height, width), which broadcasts."""
    height, width = sizes[..., 0].to(boxes.dtype), sizes[..., 1].to(boxes.dtype)
    limits = torch.stack([width, height, width, height], dim=-1)
    return torch.minimum(boxes.clamp(min=0), limits)


def is_nonempty(boxes: Tensor) -> Tensor:
    """(…,) bool: width and height above 0."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def is_at_least(boxes: Tensor, size: float) -> Tensor:
    """(…,) bool: width and height of `size` pixels or more."""
    return (boxes[..., 2] - boxes[..., 0] >= size) & (boxes[..., 3] - boxes[..., 1] >= size)


def giou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """1 − GIoU (…,), 0..2, of boxes (…, 4) pair by pair (Rezatofighi et al. 2019).

    The hull is the smallest box around both. The share of it that neither covers pulls boxes
    together that do not overlap, where the IoU is 0 and has no gradient.

    torchvision's function of this kind selects by a mask, which makes a GPU wait for the host.
    """
    eps = 1e-7
    size = torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(
        boxes1[..., :2], boxes2[..., :2]
    )
    inter = size.clamp(min=0).prod(dim=-1)
    union = box_area(boxes1) + box_area(boxes2) - inter
    hull = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(
        boxes1[..., :2], boxes2[..., :2]
    )
    hull_area = hull.prod(dim=-1)
    return 1 - inter / (union + eps) + (hull_area - union) / (hull_area + eps)


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """NMS within each group: positions kept (n,) int64, best score first.

    `boxes` (N, 4) xyxy, `scores` (N,), `groups` (N,) int64 ≥ 0. A GPU takes all groups in one call.
    On a CPU the cost grows with the square of the boxes in a call, so that many boxes are one call
    per group.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    boxes, scores = boxes.double(), scores.double()
    if boxes.is_cuda or len(boxes) <= MAX_BOXES_A_CALL:
        return nms(_apart(boxes, groups, boxes), scores, iou_thresh)
    _, counts = torch.unique(groups, return_counts=True)
    kept = torch.cat(
        [
            rows[nms(boxes[rows], scores[rows], iou_thresh)]
            for rows in torch.argsort(groups, stable=True).split(counts.tolist())
        ]
    )
    # equal scores stay in the order of their positions
    kept = kept.sort().values
    return kept[torch.argsort(scores[kept], descending=True, stable=True)]


def _apart(boxes: Tensor, groups: Tensor, all_boxes: Tensor) -> Tensor:
    """Boxes (N, 4), each group (N,) shifted by its number times what `all_boxes` span.

    Boxes of different groups then cannot overlap, and one NMS call serves all groups. In float64,
    since in float32 the shift would coarsen the coordinates (to 1/64 px past 2^17).
    """
    span = (all_boxes.amax() - all_boxes.amin() + 1).double()
    return boxes.double() + (groups.double() * span)[:, None]


def nms_of_groups(boxes: Tensor, counts: Tensor, iou_thresh: float, *, fixed_slots: bool) -> Tensor:
    """(G, N) bool: what NMS keeps of the first `counts` (G,) int64 boxes of each group.

    `boxes` (G, N, 4) xyxy are sorted best first. Empty boxes are kept and suppress nothing. With
    `fixed_slots` nothing here depends on how many boxes there are, so that it can be exported; with
    our kernels no GPU waits for the host.
    """
    if kernels.usable(boxes):
        from resdet.ops.triton_nms import nms_of_groups as kernel

        return kernel(boxes, counts, iou_thresh)
    groups, num_boxes = boxes.shape[:2]
    keep = torch.arange(num_boxes, device=boxes.device) < counts[:, None]
    part = max(1, MAX_BOXES_OF_A_GPU // max(1, num_boxes))
    for start in range(0, groups, part):
        some = keep[start : start + part]
        group, rank = some.nonzero(as_tuple=True)
        own = boxes[start : start + part][group, rank]
        if fixed_slots:
            kept = nms(_apart(own, group, boxes), -rank.double(), iou_thresh)
        else:
            kept = nms_by_group(own, -rank.double(), group, iou_thresh)
        # what was a candidate is dropped, and what NMS keeps comes back
        some[group, rank] = False
        some[group[kept], rank[kept]] = True
    return keep
