"""Box voting (Gidaris & Komodakis 2015, 3.3): what NMS drops still says where the object is."""

import torch
from torch import Tensor

from resdet.ops.boxes import pairwise_iou

MAX_PAIRS = 2**22
"""IoUs held at once; bounds the memory for many detections of many candidates."""


def vote_boxes(
    kept: Tensor,
    kept_groups: Tensor,
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_thresh: float,
) -> Tensor:
    """Boxes (n, 4) in the type of `kept` (n, 4) xyxy, each moved to the mean of its voters.

    Voters are the candidates `boxes` (N, 4) of the same group (class and image, int64) whose IoU
    with it is at least `iou_thresh`, weighted by their `scores` (N,) ≥ 0. A box without a voter of
    a score above 0 stays as it is. The order of the candidates does not matter, up to rounding.
    """
    if len(kept) == 0 or len(boxes) == 0:
        return kept
    voters, weights = boxes.double(), scores.double()
    parts = []
    step = max(1, MAX_PAIRS // len(boxes))
    for start in range(0, len(kept), step):
        own = kept[start : start + step].double()
        votes = pairwise_iou(own, voters) >= iou_thresh
        votes &= kept_groups[start : start + step, None] == groups
        share = votes * weights
        total = share.sum(dim=1, keepdim=True)
        # relative to the box itself: a mean of large coordinates keeps its digits, and a box that
        # only votes for itself does not move at all
        offset = (share[..., None] * (voters - own[:, None])).sum(dim=1)
        parts.append(torch.where(total > 0, own + offset / total.clamp(min=1e-300), own))
    return torch.cat(parts).to(kept.dtype)
