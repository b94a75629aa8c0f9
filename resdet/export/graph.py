"""Trained models as networks that a runtime can hold: tensors in, tensors of fixed meaning out.

Everything a model computes between pixels and detections is inside. Numbers of regions that depend
on the image (those of a level, those with a mask) are dynamic inside the graph, and nothing outside
depends on them: the outputs have D = detections_per_image rows per image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.backbones.norm import FrozenBatchNorm2d
from resdet.export.nms import nms_by_rows
from resdet.export.pooling import GroupedFeatures, level_areas
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN
from resdet.models.regions import RoIDetections
from resdet.models.rpn import WEIGHTS, Proposals
from resdet.ops.boxes import clip_boxes, decode_boxes, is_at_least, is_nonempty
from resdet.structures import ImageBatch

AnyModel = TypeVar("AnyModel", RCNN, Classifier)

Suppress = Callable[[Tensor, Tensor, float, int], Tensor]
"""`nms_by_rows`, or a function like it."""


class DetectorGraph(nn.Module):
    """A detector as a network of two inputs and four or five outputs, see `forward`."""

    def __init__(self, model: RCNN, suppress: Suppress = nms_by_rows) -> None:
        """A copy of `model` on the CPU, in fp32; `suppress` is the NMS that a target can hold."""
        super().__init__()
        self.model = _copied(model)
        self.model.set_fixed_slots(True)
        self.suppress = suppress
        self.limit = model.roi_heads.detections_per_image
        self.level_areas = level_areas(model.roi_heads.strides)

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) uint8 RGB, 0 outside their true `sizes` (N, 2) int64 (height, width)
        → boxes (N, D, 4) xyxy pixels of these images, scores (N, D), labels (N, D) int64, with a
        mask head masks (N, D, m, m) 0..1, and counts (N,) int64. Rows from counts on are 0."""
        levels = self.model.levels(ImageBatch(images, sizes))
        proposals = self.proposals(levels, sizes)
        heads = self.model.roi_heads
        features = GroupedFeatures(**vars(heads.features(levels)), level_areas=self.level_areas)
        class_scores, boxes = self.score(features, proposals, sizes)
        top, labels, boxes = self.best(class_scores, boxes, proposals.valid)
        is_real = top > -torch.inf
        boxes = torch.where(is_real[..., None], boxes, 0)
        labels = torch.where(is_real, labels, 0)
        scores = torch.where(is_real, top, 0)
        outputs = {"boxes": boxes, "scores": scores, "labels": labels}
        outputs |= self.extras(features, boxes, scores, labels, is_real)
        return outputs | {"counts": is_real.sum(dim=1)}

    def proposals(self, levels: list[Tensor], sizes: Tensor) -> Proposals:
        """As `RPN.select`, of levels whose numbers of anchors are not known yet."""
        rpn = self.model.rpn
        keep_level, keep = rpn.pre_nms_topk[1], rpn.post_nms_topk[1]
        logits, deltas = rpn.predict(levels)
        boxes, scores = [], []
        for logit, delta, anchors in zip(logits, deltas, rpn.anchors(levels), strict=True):
            # a coarse level may have fewer anchors than are kept
            missing = max(0, keep_level - logit.shape[1]) if _is_fixed(logit) else keep_level
            top, position = F.pad(logit, (0, missing), value=-torch.inf).topk(keep_level, dim=1)
            position = position.clamp(max=logit.shape[1] - 1)
            delta = delta.gather(1, position[..., None].expand(-1, -1, 4))
            boxes.append(decode_boxes(delta, anchors[position], WEIGHTS))
            scores.append(top)
        box = clip_boxes(torch.stack(boxes, dim=1), sizes[:, None, None, :])
        score = torch.stack(scores, dim=1)
        usable = is_nonempty(box) & torch.isfinite(score)
        if rpn.min_size > 0:
            usable &= is_at_least(box, rpn.min_size)
        score = score.masked_fill(~usable, -torch.inf)
        num_levels = len(levels)
        kept = self.suppress(
            box.flatten(0, 1), score.flatten(0, 1)[:, None], rpn.nms_thresh, min(keep, keep_level)
        )
        flat = kept[:, 0] * keep_level + kept[:, 2]
        score = _only(score.flatten(), flat).unflatten(0, (-1, num_levels * keep_level))
        top, position = score.topk(min(keep, num_levels * keep_level), dim=1)
        valid = top > -torch.inf
        picked = box.flatten(1, 2).gather(1, position[..., None].expand(-1, -1, 4))
        return Proposals(picked * valid[..., None], top, valid)

    def score(
        self, features: GroupedFeatures, proposals: Proposals, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class scores (N, R, K + 1) and boxes (N, R, K or 1, 4) of the slots; those of slots that
        are not valid are another's."""
        slots = proposals.valid.shape[1]
        rows, places = _compact(proposals.valid)
        boxes = proposals.boxes.flatten(0, 1)[rows]
        scores, decoded = self.model.roi_heads.score(features, boxes, rows // slots, sizes)
        return (
            scores[places].unflatten(0, (-1, slots)),
            decoded[places].unflatten(0, (-1, slots)),
        )

    def best(self, scores: Tensor, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The D best after NMS per class, of scores (N, R, K + 1), boxes (N, R, K or 1, 4) and
        valid (N, R): scores (N, D), −inf past the last, labels (N, D) and boxes (N, D, 4)."""
        heads = self.model.roi_heads
        finite = torch.isfinite(scores).all(dim=2) & torch.isfinite(boxes).all(dim=3).all(dim=2)
        usable = (scores[..., :-1] > heads.score_thresh) & (valid & finite)[..., None]
        if heads.min_detection_size > 0:
            usable &= is_at_least(boxes, heads.min_detection_size)
        scores = scores[..., :-1].masked_fill(~usable, -torch.inf)
        slots, classes = scores.shape[1:]
        by_class = scores.transpose(1, 2)
        if boxes.shape[2] == 1:
            kept = self.suppress(boxes[:, :, 0], by_class, heads.nms_thresh, self.limit)
            image, label, row = kept.unbind(dim=1)
        else:
            group = boxes.transpose(1, 2).flatten(0, 1)
            one = by_class.flatten(0, 1)[:, None]
            kept = self.suppress(group, one, heads.nms_thresh, self.limit)
            image, label, row = kept[:, 0] // classes, kept[:, 0] % classes, kept[:, 2]
        # by region, then by class: of equal scores the first, as in eager torch
        flat = (image * slots + row) * classes + label
        ranked = _only(scores.flatten(), flat).unflatten(0, (-1, slots * classes))
        missing = max(0, self.limit - slots * classes)
        top, position = F.pad(ranked, (0, missing), value=-torch.inf).topk(self.limit, dim=1)
        position = position.clamp(max=slots * classes - 1)
        candidates = boxes.flatten(1, 2)
        at = position if boxes.shape[2] > 1 else position // classes
        picked = candidates.gather(1, at[..., None].expand(-1, -1, 4))
        return top, position % classes, picked

    def extras(
        self,
        features: GroupedFeatures,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        is_real: Tensor,
    ) -> dict[str, Tensor]:
        """What the branches give, (N, D, …) by name; computed for real detections only."""
        rows, places = _compact(is_real)
        detections = RoIDetections(
            boxes.flatten(0, 1)[rows],
            scores.flatten()[rows],
            labels.flatten()[rows],
            rows // self.limit,
        )
        results = {}
        for branch in self.model.roi_heads.branches.values():
            for name, values in branch.detect(features, detections).items():
                dense = values[places].unflatten(0, (-1, self.limit))
                is_row = is_real.view(*is_real.shape, *[1] * (dense.ndim - 2))
                results["masks" if name == "mask_probs" else name] = torch.where(is_row, dense, 0)
        return results


class ClassifierGraph(nn.Module):
    """A classifier as a network of one input and one output, see `forward`."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = _copied(model)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Centre crops (N, 3, S, S) uint8 RGB → probabilities (N, K)."""
        logits = self.model.logits(self.model.normalize(images))[0]
        return {"probabilities": logits.softmax(dim=1)}


def _copied(model: AnyModel) -> AnyModel:
    """A copy in evaluation mode, fp32 and torch's plain memory layout, its frozen norms as those
    that runtimes merge into convolutions."""
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    model.channels_last = False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenBatchNorm2d):
                norm = nn.BatchNorm2d(len(child.weight), child.eps).eval().requires_grad_(False)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, norm)
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data = tensor.data.contiguous()
    return model


def _is_fixed(x: Tensor) -> bool:
    return isinstance(x.shape[1], int)


def _only(scores: Tensor, rows: Tensor) -> Tensor:
    """Scores (N,) at `rows`, −inf elsewhere."""
    return torch.full_like(scores, -torch.inf).index_put((rows,), scores[rows])


def _compact(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions (n,) of the valid slots (N, S), and (N · S,) where each slot is among them.

    The first slot is always among them, so that nothing is ever computed of no region at all.
    """
    first = torch.zeros_like(valid.flatten())
    first[0] = True
    taken = valid.flatten() | first
    rows = taken.nonzero()[:, 0]
    torch._check(rows.shape[0] >= 1)
    return rows, (taken.to(torch.int64).cumsum(0) - 1).clamp(min=0)
