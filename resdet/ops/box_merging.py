"""Soft-NMS and weighted box fusion: alternatives to NMS for candidates that overlap.

Both work on the host, one group (class and image) after the other. Their results do not depend on
the order of the candidates: equal scores are ordered by their coordinates.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: str,
    sigma: float,
    iou_thresh: float,
    score_thresh: float,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al. 2017, 3): overlap lowers a score in place of dropping the box.

    Of `boxes` (N, 4) xyxy, `scores` (N,) and `groups` (N,) int64, at most `limit` per group are
    kept: positions (n,) int64 and their new scores (n,), best first. The best box lowers the
    scores of the others of its group by their IoU with it: `method` linear multiplies by 1 − IoU
    from `iou_thresh` on (their eq. 1), gaussian by exp(−IoU² / `sigma`) everywhere (eq. 2); then
    the next best does. What falls to `score_thresh` or below is dropped.
    """
    assert method in ("linear", "gaussian"), method
    corners, values, ids = _on_host(boxes, scores, groups)
    kept: list[int] = []
    lowered: list[float] = []
    for rows in _by_group(corners, values, ids):
        own, left = corners[rows], values[rows].copy()
        for _ in range(min(limit, len(rows))):
            best = int(left.argmax())
            if not left[best] > score_thresh:
                break
            kept.append(int(rows[best]))
            lowered.append(float(left[best]))
            iou = _iou(own[best], own)
            if method == "linear":
                left *= np.where(iou >= iou_thresh, 1 - iou, 1.0)
            else:
                left *= np.exp(-(iou**2) / sigma)
            left[best] = -np.inf
    order = _best_first(np.array(lowered), corners[kept])
    position = torch.tensor(kept, dtype=torch.int64)[order].to(boxes.device)
    return position, torch.tensor(lowered, dtype=torch.float64)[order].to(scores)


def fuse_boxes(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, num_views: int, iou_thresh: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted box fusion (Solovyev et al. 2021, 3): one box per cluster of overlapping ones.

    `boxes` (N, 4) xyxy, `scores` (N,) and `groups` (N,) int64 are the detections of `num_views`
    views. Best first, a box joins the fused box of its group that it overlaps most, above
    `iou_thresh`, or starts a cluster. A fused box is the mean of its cluster weighted by the
    scores; its score is their mean, times the share of the views that see it (step 6).
    Returns boxes (n, 4), scores (n,) and groups (n,), best first.
    """
    corners, values, ids = _on_host(boxes, scores, groups)
    fused: list[tuple[Floats, Floats, int]] = []
    for rows in _by_group(corners, values, ids):
        fused.append((*_fuse(corners[rows], values[rows], num_views, iou_thresh), ids[rows[0]]))
    if not fused:
        return boxes[:0], scores[:0], groups[:0]
    all_boxes = np.concatenate([own for own, _, _ in fused])
    all_scores = np.concatenate([own for _, own, _ in fused])
    all_groups = np.concatenate([np.full(len(own), group) for own, _, group in fused])
    order = _best_first(all_scores, all_boxes)
    return (
        torch.from_numpy(all_boxes[order]).to(boxes),
        torch.from_numpy(all_scores[order]).to(scores),
        torch.from_numpy(all_groups[order]).to(groups),
    )


def _fuse(
    boxes: Floats, scores: Floats, num_views: int, iou_thresh: float
) -> tuple[Floats, Floats]:
    """Fused boxes (n, 4) and scores (n,) of one group, sorted best first."""
    # of each cluster: its fused box, the sums of s · box and of s, and its number of boxes
    fused, weighted = np.zeros_like(boxes), np.zeros_like(boxes)
    total, count = np.zeros(len(boxes)), np.zeros(len(boxes))
    clusters = 0
    for box, score in zip(boxes, scores, strict=True):
        iou = _iou(box, fused[:clusters])
        cluster = int(iou.argmax()) if clusters else 0
        if not clusters or iou[cluster] <= iou_thresh:
            cluster, clusters = clusters, clusters + 1
        weighted[cluster] += score * box
        total[cluster] += score
        count[cluster] += 1
        fused[cluster] = weighted[cluster] / total[cluster] if total[cluster] > 0 else box
    own = slice(clusters)
    share = np.minimum(count[own], num_views) / num_views
    return fused[own], total[own] / count[own] * share


def _on_host(
    boxes: Tensor, scores: Tensor, groups: Tensor
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    return (
        boxes.detach().double().cpu().numpy(),
        scores.detach().double().cpu().numpy(),
        groups.cpu().numpy(),
    )


def _by_group(corners: Floats, scores: Floats, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group, best first and ties by their coordinates."""
    order = np.lexsort((*corners.T[::-1], -scores, ids))
    starts = np.flatnonzero(np.diff(ids[order])) + 1
    return [rows for rows in np.split(order, starts) if len(rows)]


def _best_first(scores: Floats, corners: Floats) -> NDArray[np.int64]:
    return np.lexsort((*corners.reshape(-1, 4).T[::-1], -scores))


def _iou(box: Floats, others: Floats) -> Floats:
    """IoU (n,) of a box (4,) with others (n, 4); 0 where one of them is empty."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    inter = width.clip(min=0) * height.clip(min=0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap: Floats = np.where(inter > 0, inter / (area + areas - inter), 0.0)
    return overlap
