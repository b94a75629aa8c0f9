"""Candidates of all regions and views become the detections of a batch."""

import torch

from resdet.config.testing import WBF_IOU, TestConfig
from resdet.models.regions import RoIDetections
from resdet.models.suppress import best_of_images
from resdet.ops.box_merging import fuse_boxes, soft_nms
from resdet.ops.box_voting import vote_boxes
from resdet.ops.boxes import nms_by_group


def concatenate(parts: list[RoIDetections]) -> RoIDetections:
    """All of them, in this order."""
    return RoIDetections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.images for part in parts]),
    )


def join(
    candidates: RoIDetections,
    test: TestConfig,
    *,
    num_classes: int,
    num_views: int,
    nms_thresh: float,
    score_thresh: float,
    limit: int,
) -> RoIDetections:
    """The best `limit` detections of each image, image by image and best first, in pixels of the
    candidates; those score above `score_thresh`, 0..1.

    `nms_thresh` is the model's. `num_views` detected by themselves; for wbf, NMS of each view has
    been done.
    """
    groups = candidates.images * num_classes + candidates.labels
    boxes, scores = candidates.boxes, candidates.scores
    if test.merge == "wbf":
        boxes, scores, owners = fuse_boxes(
            boxes, scores, groups, num_views=num_views, iou_thresh=test.merge_iou or WBF_IOU
        )
    elif test.merge == "soft_nms":
        kept, scores = soft_nms(
            boxes,
            scores,
            groups,
            method=test.soft_nms,
            sigma=test.soft_nms_sigma,
            iou_thresh=test.merge_iou or nms_thresh,
            score_thresh=score_thresh,
            limit=limit,
        )
        boxes, owners = boxes[kept], groups[kept]
    else:
        kept = nms_by_group(boxes, scores, groups, test.merge_iou or nms_thresh)
        boxes, scores, owners = boxes[kept], scores[kept], groups[kept]
    # best first, so that no row below counts for the limit
    above = scores > score_thresh
    boxes, scores, owners = boxes[above], scores[above], owners[above]
    rows = best_of_images(owners // num_classes, limit)
    boxes, scores, owners = boxes[rows], scores[rows], owners[rows]
    if test.box_voting is not None:
        boxes = vote_boxes(
            boxes, owners, candidates.boxes, candidates.scores, groups, test.box_voting
        )
    return RoIDetections(boxes, scores, owners % num_classes, owners // num_classes)
