"""One box, or the best few, per class from the scored boxes of all anchors and views."""

import torch
from torch import Tensor

from resdet.ops import box_voting
from resdet.ops.boxes import is_nonempty
from resdet.ops.vision import nms

CANDIDATES = 5
"""Proposals go through NMS with this many times their number of boxes, at least a thousand."""


def usable_scores(scores: Tensor, boxes: Tensor) -> Tensor:
    """Scores (L, N), those of boxes (L, N, 4) that are empty or not finite set to −1."""
    usable = is_nonempty(boxes) & torch.isfinite(boxes).all(dim=-1) & torch.isfinite(scores)
    return scores.masked_fill(~usable, -1.0)


def best_boxes(
    scores: Tensor, boxes: Tensor, *, merge: str = "best", vote_iou: float, vote_boxes: int
) -> tuple[Tensor, Tensor]:
    """The scores (L,) and boxes (L, 4) of L classes, from scores (L, N), 0..1, and boxes (L, N, 4).

    `merge` best takes the box with the highest score. vote takes the score-weighted mean of the
    boxes that overlap that one by `vote_iou`, among the `vote_boxes` best (see `box_voting`); its
    score stays. A class without a usable box gets score −1.
    """
    scores = usable_scores(scores, boxes)
    best, position = scores.max(dim=1)
    chosen = boxes.gather(1, position[:, None, None].expand(-1, 1, 4))[:, 0]
    if merge == "best":
        return best, chosen
    assert merge == "vote", merge
    top, positions = scores.topk(min(vote_boxes, scores.shape[1]), dim=1)
    voters = boxes.gather(1, positions[..., None].expand(-1, -1, 4))
    classes = torch.arange(len(scores), device=scores.device)
    usable = top >= 0
    groups = classes[:, None].expand_as(top)[usable]
    return best, box_voting.vote_boxes(
        chosen, classes, voters[usable], top[usable], groups, vote_iou
    )


def best_proposals(
    scores: Tensor, boxes: Tensor, count: int, iou_thresh: float
) -> tuple[Tensor, Tensor]:
    """The `count` best of one class after NMS: scores (n,) and boxes (n, 4), best first.

    From scores (N,), 0..1, and boxes (N, 4); an `iou_thresh` of 1 suppresses nothing.
    """
    scores = usable_scores(scores[None], boxes[None])[0]
    top, positions = scores.topk(min(max(1000, CANDIDATES * count), len(scores)))
    positions = positions[top >= 0]
    if iou_thresh < 1:
        kept = nms(boxes[positions].double(), scores[positions].double(), iou_thresh)
        positions = positions[kept]
    return scores[positions[:count]], boxes[positions[:count]]
