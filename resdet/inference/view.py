"""One view of a batch: proposals, and the candidates that all members find in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resdet.inference.joining import concatenate
from resdet.inference.region_scores import Maps, Scales, score_regions, size_ratios
from resdet.models.regions import RoIDetections
from resdet.models.suppress import best_of_images, candidates
from resdet.ops.boxes import is_nonempty, nms_by_group


@dataclass
class View:
    """What all members see in a pass that detects by itself."""

    members: list[Scales]
    boxes: Tensor
    """(R, 4) the union of their proposals, in pixels of their frame."""
    images: Tensor
    """(R,) int64 position in the batch."""
    is_mirrored: bool

    @property
    def frame(self) -> Tensor:
        """(B, 2) int64 (height, width) of each image in the frame, in pixels."""
        return self.members[0].frame


def propose(sources: Sequence[Maps], frame: Tensor) -> tuple[Tensor, Tensor]:
    """A detector's proposals (R, 4) in the frame and their images (R,), from its maps in one size.

    From several sizes it is the best of their union by the RPN's own NMS and limit.
    """
    rpn = sources[0].model.rpn
    boxes, scores, images = [], [], []
    for maps in sources:
        proposals, _ = rpn(maps.levels, maps.sizes, None)
        image, slot = proposals.valid.nonzero(as_tuple=True)
        boxes.append(proposals.boxes[image, slot] * size_ratios(maps.sizes, frame)[image])
        scores.append(proposals.scores[image, slot])
        images.append(image)
    if len(sources) == 1:
        return boxes[0], images[0]
    every, owners = torch.cat(boxes), torch.cat(images)
    kept = nms_by_group(every, torch.cat(scores), owners, rpn.nms_thresh)
    kept = kept[best_of_images(owners[kept], rpn.post_nms_topk[1])]
    return every[kept], owners[kept]


def find_candidates(
    view: View, *, refine: str | None, score_thresh: float, min_size: float
) -> RoIDetections:
    """The detections of a view before NMS, in its frame: one per region and class that scores above
    `score_thresh`, 0..1, and has at least `min_size` pixels.

    With `refine` the regressed boxes are pooled, classified and regressed again, and both rounds
    count (He et al. 2016, appendix B): best takes the box of each region's best class, as a new
    region for every class; all takes the box of each class above the threshold, for that class.
    """
    scores, boxes = score_regions(view.members, view.boxes, view.images)

    def above(scores: Tensor, boxes: Tensor, images: Tensor) -> RoIDetections:
        valid = torch.ones_like(images, dtype=torch.bool)
        return candidates(
            scores, boxes, images, valid, score_thresh=score_thresh, min_size=min_size
        )

    found = above(scores, boxes, view.images)
    if refine is None:
        return found
    if refine == "all":
        regions, images, labels = found.boxes, found.images, found.labels
    else:
        labels = scores[:, :-1].argmax(dim=1)
        row = torch.arange(len(labels), device=labels.device)
        regions, images = boxes[row, labels if boxes.shape[1] > 1 else 0], view.images
    usable = is_nonempty(regions) & torch.isfinite(regions).all(dim=1)
    regions, images, labels = regions[usable].float(), images[usable], labels[usable]
    scores, boxes = score_regions(view.members, regions, images)
    if refine == "all":
        own = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, labels[:, None], True)
        scores = torch.where(own | torch.isnan(scores), scores, 0)
    return concatenate([found, above(scores, boxes, images)])
