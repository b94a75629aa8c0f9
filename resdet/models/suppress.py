"""From class scores and boxes of regions to detections: threshold, NMS per class, the best."""

import torch
from torch import Tensor

from resdet.models.regions import RoIDetections
from resdet.ops.boxes import is_at_least, nms_by_group, nms_of_groups


def candidates(
    scores: Tensor,
    boxes: Tensor,
    images: Tensor,
    valid: Tensor,
    *,
    score_thresh: float,
    min_size: float,
) -> RoIDetections:
    """Scores (R, K + 1), boxes (R, K or 1, 4) pixels, images and valid (R,) → one detection per
    region and class above the threshold and of at least `min_size` pixels, in their order."""
    finite = torch.isfinite(scores).all(dim=1) & torch.isfinite(boxes).all(dim=(1, 2))
    above = (scores[:, :-1] > score_thresh) & (valid & finite)[:, None]
    roi, label = above.nonzero(as_tuple=True)
    box = boxes[roi, label if boxes.shape[1] > 1 else 0]
    if min_size > 0:
        large = is_at_least(box, min_size)
        roi, label, box = roi[large], label[large], box[large]
    return RoIDetections(box, scores[roi, label], label, images[roi])


def suppress(
    candidates: RoIDetections, *, num_classes: int, nms_thresh: float, limit: int
) -> RoIDetections:
    """NMS within each class of an image, and the best `limit` of each image; image by image."""
    box, score, label, image = (
        candidates.boxes,
        candidates.scores,
        candidates.labels,
        candidates.images,
    )
    # One call for the batch: a group is a class of an image, and groups do not suppress others.
    kept = nms_by_group(box, score, image * num_classes + label, nms_thresh)
    kept = kept[best_of_images(image[kept], limit)]
    return RoIDetections(box[kept], score[kept], label[kept], image[kept])


def best_of_images(images: Tensor, limit: int) -> Tensor:
    """Positions of the first `limit` of each image, image by image; `images` (N,) int64 belong to
    detections that are sorted best first."""
    # stable: sorting by image leaves the order within each
    order = torch.argsort(images, stable=True)
    counts = torch.bincount(images)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(images), device=images.device) - first[images[order]]
    return order[rank < limit]


def suppress_slots(
    scores: Tensor,
    boxes: Tensor,
    valid: Tensor,
    *,
    score_thresh: float,
    min_size: float,
    nms_thresh: float,
    limit: int,
    fixed_slots: bool,
) -> RoIDetections:
    """As `suppress` of `candidates`, from scores (B, R, K + 1), boxes (B, R, K or 1, 4) and valid
    (B, R).

    All shapes are fixed up to the last step, the only one that waits for a GPU.
    """
    finite = torch.isfinite(scores).all(dim=2) & torch.isfinite(boxes).all(dim=(2, 3))
    usable = (scores[..., :-1] > score_thresh) & (valid & finite)[..., None]
    if min_size > 0:
        usable &= is_at_least(boxes, min_size)
    # (B, K, R): a class is a group, best first; what is not usable sinks to its end
    ranked = scores[..., :-1].masked_fill(~usable, -torch.inf).transpose(1, 2)
    ranked, order = ranked.sort(dim=2, descending=True, stable=True)
    by_class = boxes.transpose(1, 2).expand(-1, ranked.shape[1], -1, -1)
    by_class = by_class.gather(2, order[..., None].expand(-1, -1, -1, 4))
    keep = nms_of_groups(
        by_class.flatten(0, 1), usable.sum(dim=1).flatten(), nms_thresh, fixed_slots=fixed_slots
    ).view_as(ranked)
    ranked = ranked.masked_fill(~keep, -torch.inf).flatten(1)
    top, position = ranked.topk(min(limit, ranked.shape[1]), dim=1)
    image, rank = (top > -torch.inf).nonzero(as_tuple=True)
    position = position[image, rank]
    label = position // order.shape[2]
    box = by_class.flatten(1, 2)[image, position]
    return RoIDetections(box, top[image, rank], label, image)
