"""Which object each anchor or proposal belongs to (Faster R-CNN, Ren et al. 2015, 3.1.2).

Boxes that overlap an object well learn to find it, boxes that overlap none learn the background,
and those in between are left out, since either answer would be half wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from resdet.ops.boxes import pairwise_iou

# IoU elements computed at once (256 MB in float32): more are split over the images.
MAX_IOU_ELEMENTS = 2**26


def match_boxes(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    boxes: Tensor,
    *,
    background_iou: float,
    foreground_iou: float,
    best_of_each_object: bool,
) -> tuple[Tensor, Tensor]:
    """Match boxes (B, N, 4) or (N, 4) to objects (B, G, 4) of which `gt_valid` (B, G) are real.

    Returns the object of highest IoU (B, N) int64 and labels (B, N) int8: 1 at or above
    `foreground_iou`, 0 below `background_iou`, −1 between. With `best_of_each_object` the boxes
    that overlap an object most (ties included) are 1 as well; they keep their own best object.
    """
    batch, num_objects = gt_valid.shape
    if boxes.dim() == 2:
        boxes = boxes.expand(batch, -1, -1)
    part = max(1, MAX_IOU_ELEMENTS // max(1, num_objects * boxes.shape[1]))
    matches, labels = [], []
    for objects, valid, candidates in zip(
        gt_boxes.split(part), gt_valid.split(part), boxes.split(part), strict=True
    ):
        # (b, G, N); −1 where there is no object, so that it is nobody's best
        iou = pairwise_iou(objects, candidates).masked_fill_(~valid[:, :, None], -1.0)
        # Each box belongs to the object that it overlaps most …
        best_iou, match = iou.max(dim=1)
        label = torch.full_like(match, -1, dtype=torch.int8)
        label.masked_fill_(best_iou < background_iou, 0)
        label.masked_fill_(best_iou >= foreground_iou, 1)
        if best_of_each_object:
            # … and small or oddly shaped objects, which no anchor overlaps by `foreground_iou`, get
            # their best anchors all the same: otherwise nothing would ever learn them.
            best_of_object = iou.amax(dim=2, keepdim=True)
            tied = (iou == best_of_object) & (best_of_object > 0)
            label.masked_fill_(tied.any(dim=1), 1)
        matches.append(match)
        labels.append(label)
    return torch.cat(matches), torch.cat(labels)
