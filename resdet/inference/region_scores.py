"""What one detector, or several, predict at regions of an image that is there in several sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.models.rcnn import RCNN
from resdet.models.regions import RoIDetections, RoIFeatures
from resdet.ops.boxes import box_area, clip_boxes, decode_boxes, encode_boxes

CANONICAL_AREA = 224.0**2
"""Square pixels of a region at the scale that suits it (He et al. 2014, SPP-net, 4.2)."""
MAX_REGIONS = 1000
"""Regions per pass through the heads; bounds the memory for many proposals."""
UNIT = (1.0, 1.0, 1.0, 1.0)
Results = dict[str, Tensor]


@dataclass
class Maps:
    """What a detector computes of a batch of images in one size."""

    model: RCNN
    levels: list[Tensor]
    """(B, C, H, W), finest first."""
    sizes: Tensor
    """(B, 2) int64 true (height, width) of the images, in pixels."""

    @property
    def features(self) -> RoIFeatures:
        return self.model.roi_heads.features(self.levels)


@dataclass
class Scales:
    """A detector on a batch in one size, or in several whose features meet (`adjacent_scales`).

    Boxes are given and returned in pixels of a frame, which all detectors of an ensemble share.
    """

    maps: Sequence[Maps]
    """Small sizes first."""
    frame: Tensor
    """(B, 2) int64 (height, width) of each image in the frame."""
    class_order: Tensor
    """(K,) int64 the detector's own label of each class of the ensemble."""
    maxout: str = "after_head"
    second_scale: str = "other_side"
    """See the section `test` of the config."""

    @property
    def model(self) -> RCNN:
        return self.maps[0].model

    def ratios(self, maps: Maps, images: Tensor) -> Tensor:
        """(R, 4): pixels of `maps` per pixel of the frame, for xyxy boxes of `images` (R,)."""
        return size_ratios(self.frame, maps.sizes)[images]

    def chosen(self, boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of boxes (R, 4): their first and second scale, each (R,) int64 into `maps`."""
        area = box_area(boxes)
        areas = [area * self.ratios(maps, images)[:, :2].prod(dim=1) for maps in self.maps]
        return adjacent_scales(torch.stack(areas, dim=1), self.second_scale)

    def score(self, boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `RoIHeads.score`, of boxes (R, 4) of `images` (R,) in the frame, with the labels of
        the ensemble; the boxes are not clipped."""
        heads, limits = self.model.roi_heads, self.frame[images]
        scores = torch.zeros((), device=boxes.device)
        for number, head in enumerate(heads.box_heads):
            logits, deltas = head.predict(self.hidden(boxes, images, number))
            scores = scores + F.softmax(logits, dim=-1) / len(heads.stages)
            decoded = head.decode(deltas, boxes)
            if number + 1 < len(heads.stages):
                boxes = clip_boxes(decoded[:, 0].to(boxes.dtype), limits)
        scores = torch.cat([scores[:, self.class_order], scores[:, -1:]], dim=1)
        return scores, decoded[:, self.class_order] if decoded.shape[1] > 1 else decoded

    def hidden(self, boxes: Tensor, images: Tensor, stage: int) -> Tensor:
        """What the box head `stage` predicts from: (R, D), with context (R, 2D)."""
        heads = self.model.roi_heads
        if len(self.maps) == 1:
            (maps,) = self.maps
            own = boxes * self.ratios(maps, images)
            return heads.hidden(maps.features, own, images, maps.sizes, stage)
        if not heads.context:
            return self._meet(boxes, images, stage)
        # the whole image is one more region, with two scales of its own
        corner = torch.zeros_like(self.frame)
        whole = torch.cat([corner, self.frame.flip(1)], dim=1).to(boxes.dtype)
        every = torch.arange(len(whole), device=images.device)
        embedded = self._meet(torch.cat([boxes, whole]), torch.cat([images, every]), stage)
        return torch.cat([embedded[: len(boxes)], embedded[len(boxes) :][images]], dim=1)

    def _meet(self, boxes: Tensor, images: Tensor, stage: int) -> Tensor:
        """The element-wise maximum of the features of each region at its two scales (maxout of
        Ren et al. 2016, "NoC"), (R, D): that of the layers of the box head, or what they see."""
        heads = self.model.roi_heads
        head, size = heads.box_heads[stage], heads.box_pool_size
        before = self.maxout == "after_pooling"

        def compute(maps: Maps, own: Tensor, rows: Tensor) -> Results:
            pooled = maps.features.pool_maps(own, images[rows], size)
            return {"": pooled if before else head.embed(maps.features.finish(pooled))}

        first, second = self._at_both(compute, boxes, images)
        best = torch.maximum(first[""], second[""])
        return head.embed(self.maps[0].features.finish(best)) if before else best

    def branch_results(self, name: str, detections: RoIDetections) -> list[Results]:
        """What the branch `name` gives for detections in the frame, with the labels of the
        ensemble: one result, or one at each of two scales."""
        labels = self.class_order[detections.labels]

        def compute(maps: Maps, own: Tensor, rows: Tensor) -> Results:
            scores, images = detections.scores[rows], detections.images[rows]
            some = RoIDetections(own, scores, labels[rows], images)
            return maps.model.roi_heads.branches[name].detect(maps.features, some)

        if len(self.maps) > 1:
            return self._at_both(compute, detections.boxes, detections.images)
        (maps,) = self.maps
        own = detections.boxes * self.ratios(maps, detections.images)
        return [compute(maps, own, torch.arange(len(own), device=own.device))]

    def _at_both(
        self, compute: Callable[[Maps, Tensor, Tensor], Results], boxes: Tensor, images: Tensor
    ) -> list[Results]:
        """`compute(maps, boxes, rows)` (R, …) of each region at its first and at its second scale;
        `rows` are the positions among the R of the regions that it gets."""
        results = []
        for chosen in self.chosen(boxes, images):
            parts, order = [], []
            for number, maps in enumerate(self.maps):
                rows = (chosen == number).nonzero()[:, 0]
                if len(rows) or (number == 0 and not len(boxes)):
                    own = boxes[rows] * self.ratios(maps, images[rows])
                    parts.append(compute(maps, own, rows))
                    order.append(rows)
            back = torch.cat(order).argsort()
            keys = parts[0]
            results.append({key: torch.cat([part[key] for part in parts])[back] for key in keys})
        return results


def size_ratios(sizes: Tensor, others: Tensor) -> Tensor:
    """(B, 4) for xyxy boxes: pixels of `others` per pixel of `sizes`, both (B, 2) (height, width).
    Exactly 1 where they are equal."""
    return (others / sizes).flip(1).repeat(1, 2).float()


def adjacent_scales(areas: Tensor, second: str) -> tuple[Tensor, Tensor]:
    """The two neighbouring scales (R,) and (R,) int64 of each region, from its `areas` (R, S) in
    square pixels at S ≥ 2 scales, small ones first.

    The first is where the region is nearest to 224² pixels (argmin |area − 224²| as in
    py-faster-rcnn; the smaller scale of equals). The `second` is its neighbour on the other_side of
    224², or the neighbour that is nearest to it; at either end the only one there is.
    """
    assert second in ("other_side", "nearest"), second
    distance = (areas - CANONICAL_AREA).abs()
    first = distance.argmin(dim=1)
    below, above = first - 1, first + 1
    last = areas.shape[1] - 1
    if second == "other_side":
        is_below = areas.gather(1, first[:, None])[:, 0] >= CANONICAL_AREA
    else:
        left = distance.gather(1, below.clamp(min=0)[:, None])[:, 0]
        right = distance.gather(1, above.clamp(max=last)[:, None])[:, 0]
        is_below = left <= right
    is_below = (is_below & (below >= 0)) | (above > last)
    return first, torch.where(is_below, below, above)


def score_regions(
    members: Sequence[Scales], boxes: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Class scores (R, K + 1) and boxes (R, K or 1, 4) of regions (R, 4) of `images` (R,).

    Several members classify the same regions; their scores and their deltas are averaged (He et
    al. 2016, appendix C). A delta is that from the region to the box that a member ends at, in
    widths and heights of the region: members may scale their deltas differently, predict one box
    for all classes, or refine it in several stages. All boxes are in the frame, and inside it.
    """
    limits = members[0].frame
    scores, moved = [], []
    for start in range(0, max(len(boxes), 1), MAX_REGIONS):
        part = slice(start, start + MAX_REGIONS)
        one, two = _mean_of_members(members, boxes[part], images[part])
        scores.append(one)
        moved.append(clip_boxes(two, limits[images[part]][:, None, :]))
    return torch.cat(scores), torch.cat(moved)


def _mean_of_members(
    members: Sequence[Scales], boxes: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    num_classes = len(members[0].class_order)
    if len(boxes) == 0:
        return boxes.new_zeros((0, num_classes + 1)), boxes.new_zeros((0, 1, 4))
    results = [member.score(boxes, images) for member in members]
    if len(results) == 1:
        return results[0]
    scores = torch.stack([scores.double() for scores, _ in results]).mean(dim=0)
    regions = boxes.double()[:, None, :]
    width = max(moved.shape[1] for _, moved in results)
    deltas = [
        encode_boxes(moved.double(), regions, UNIT).expand(-1, width, -1) for _, moved in results
    ]
    moved = decode_boxes(torch.stack(deltas).mean(dim=0), regions, UNIT)
    return scores.float(), moved.float()
