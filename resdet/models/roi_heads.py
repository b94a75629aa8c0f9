"""The stage loop over regions: Faster (one stage), Cascade (several), and branches (masks)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.models.box_head import BoxHead
from resdet.models.regions import Branch, RegionSamples, RoIDetections, RoIFeatures
from resdet.models.rpn import Proposals
from resdet.models.suppress import candidates, suppress, suppress_slots
from resdet.ops.boxes import clip_boxes, is_nonempty
from resdet.ops.sampler import match_boxes, random_order, sample_slots
from resdet.structures import TargetBatch, map_tensors

STREAM = 1
"""Random stream of the proposal sampling, see `random_order`."""


class RoIHeads(nn.Module):
    """Box stages one after another, each on the boxes of the one before, and branches.

    Cascade R-CNN (Cai & Vasconcelos 2018, 4.1): stage t matches at its own IoU, later stages take
    the refined boxes without sampling again, and the test score is the mean over the stages.

    With `context`, the whole image is one more region through the same layers, and its hidden
    features stand beside those of each region when class and box are predicted: what is around an
    object says what it may be (He et al. 2016, appendix B, "global context").
    """

    def __init__(
        self,
        stages: Sequence[BoxHead],
        foreground_ious: Sequence[float],
        branches: Mapping[str, nn.Module],
        *,
        res5: nn.Module | None,
        context: bool,
        strides: Sequence[int],
        box_pool_size: int,
        pooling: str,
        aligned: bool,
        sampling_ratio: int,
        num_samples: int,
        positive_fraction: float,
        score_thresh: float,
        nms_thresh: float,
        detections_per_image: int,
        min_detection_size: float,
    ) -> None:
        """`branches` by name, which starts the names of their parameters. `res5`, where given, runs
        on every pooled region, once for all heads (C4). With `context` the stages are built for
        it as well."""
        super().__init__()
        if len(stages) > 1 and not all(stage.class_agnostic for stage in stages):
            raise UserError(
                "model.roi.box_head.class_agnostic: several stages refine one box per proposal; "
                "set it to true"
            )
        self.stages = nn.ModuleList(stages)
        for name, branch in branches.items():
            if hasattr(self, name) or name == "res5":
                raise UserError(f"model.roi.branches.{name}: the name is taken; use another")
            self.add_module(name, branch)
        self.res5, self.context = res5, context
        self._branch_names = list(branches)
        self.num_classes = stages[0].num_classes
        self.foreground_ious = list(foreground_ious)
        self.strides = list(strides)
        self.box_pool_size, self.fixed_slots = box_pool_size, False
        self.num_samples, self.positive_fraction = num_samples, positive_fraction
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_image = detections_per_image
        self.min_detection_size = min_detection_size
        self.pooling, self.aligned, self.sampling_ratio = pooling, aligned, sampling_ratio

    @property
    def box_heads(self) -> list[BoxHead]:
        """The stages, typed."""
        return [cast(BoxHead, stage) for stage in self.stages]

    @property
    def branches(self) -> dict[str, Branch]:
        """By name, in the order of their parameters."""
        return {name: cast(Branch, self.get_submodule(name)) for name in self._branch_names}

    # Training

    def losses(
        self,
        levels: Sequence[Tensor],
        proposals: Proposals,
        sizes: Tensor,
        targets: TargetBatch,
        *,
        seed: int,
        step: int,
    ) -> dict[str, Tensor]:
        """Levels (B, C, H, W), finest first → loss_cls, loss_box (…_stage1 on a cascade), and the
        losses of the branches."""
        features = self.features(levels)
        samples = self.sample(proposals, targets, seed=seed, step=step)
        losses, pooled = self.box_losses(features, samples, sizes, targets)
        if self.branches:
            positives = self._positives(samples, None if self.res5 is None else pooled)
        for name, branch in self.branches.items():
            own = branch.losses(features, positives, targets)
            if twice := losses.keys() & own.keys():
                raise UserError(f"model.roi.branches.{name}: another branch has {', '.join(twice)}")
            losses |= own
        return losses

    @torch.no_grad()
    def sample(
        self, proposals: Proposals, targets: TargetBatch, *, seed: int, step: int
    ) -> RegionSamples:
        """Append the objects to the proposals, match, and draw those that are trained on.

        The appended objects are perfect proposals: the heads have positives to learn from while the
        RPN is still poor (Detectron's `add_gt_as_proposals`).
        """
        boxes = torch.cat([proposals.boxes, targets.boxes.to(proposals.boxes.dtype)], dim=1)
        usable = torch.cat([proposals.valid, targets.valid], dim=1) & targets.readable[:, None]
        matches, labels = self._match(boxes, usable, targets, self.foreground_ious[0])
        order = random_order(
            targets.image_keys, labels.shape[1], seed=seed, step=step, stream=STREAM
        )
        positions, positive, valid = sample_slots(
            labels, order, num_samples=self.num_samples, positive_fraction=self.positive_fraction
        )
        picked = boxes.gather(1, positions[..., None].expand(-1, -1, 4)) * valid[..., None]
        return self._label(picked, matches.gather(1, positions), positive, valid, targets)

    def _match(
        self, boxes: Tensor, usable: Tensor, targets: TargetBatch, foreground_iou: float
    ) -> tuple[Tensor, Tensor]:
        matches, labels = match_boxes(
            targets.boxes,
            targets.valid,
            boxes,
            background_iou=foreground_iou,
            foreground_iou=foreground_iou,
            best_of_each_object=False,
        )
        return matches, labels.masked_fill(~usable, -1)

    def _label(
        self,
        boxes: Tensor,
        objects: Tensor,
        positive: Tensor,
        valid: Tensor,
        targets: TargetBatch,
    ) -> RegionSamples:
        gt_boxes = targets.boxes.gather(1, objects[..., None].expand(-1, -1, 4))
        labels = targets.labels.gather(1, objects).masked_fill(~positive, self.num_classes)
        images = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(objects)
        return RegionSamples(boxes, labels, gt_boxes, images, objects, valid)

    def box_losses(
        self,
        features: RoIFeatures,
        samples: RegionSamples,
        sizes: Tensor,
        targets: TargetBatch,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The box losses of every stage, and the last stage's pooled regions at `_rows` of its
        samples."""
        losses: dict[str, Tensor] = {}
        for number, head in enumerate(self.box_heads):
            if number > 0:
                # The stage before moved the boxes towards the objects, so that a higher IoU still
                # leaves enough positives: each stage learns from better boxes (Cascade, 4.2).
                samples = self._relabel(samples, targets, self.foreground_ious[number])
            rows, _ = self._rows(samples.valid)
            flat = samples.at(rows)
            pooled = self._pool(features, flat.boxes, flat.images, sizes)
            hidden = self._embed(head, _scale_gradient(pooled, 1 / len(self.stages)), flat.images)
            logits, deltas = head.predict(hidden)
            suffix = f"_stage{number + 1}" if len(self.stages) > 1 else ""
            loss_cls, loss_box = head.losses(logits, deltas, flat)
            losses["loss_cls" + suffix], losses["loss_box" + suffix] = loss_cls, loss_box
            if number + 1 < len(self.stages):
                samples = self._refine(samples, head, deltas, rows, sizes)
        return losses, pooled[: len(flat.images)]

    @torch.no_grad()
    def _refine(
        self, samples: RegionSamples, head: BoxHead, deltas: Tensor, rows: Tensor, sizes: Tensor
    ) -> RegionSamples:
        """Move the samples to the boxes that `head` predicts; boxes that become empty drop out."""
        flat = samples.boxes.flatten(0, 1)
        decoded = head.decode(deltas, flat[rows])[:, 0].to(flat.dtype)
        refined = torch.zeros_like(flat).index_copy(0, rows, decoded)
        boxes = clip_boxes(refined.view_as(samples.boxes), sizes[:, None, :])
        valid = samples.valid & is_nonempty(boxes)
        return replace(samples, boxes=boxes * valid[..., None], valid=valid)

    @torch.no_grad()
    def _relabel(
        self, samples: RegionSamples, targets: TargetBatch, foreground_iou: float
    ) -> RegionSamples:
        matches, labels = self._match(samples.boxes, samples.valid, targets, foreground_iou)
        return self._label(samples.boxes, matches, labels == 1, samples.valid, targets)

    def _positives(self, samples: RegionSamples, shared: Tensor | None) -> RegionSamples:
        """The samples with an object, as the first stage matched them.

        `shared` (R, C, S, S) are regions at `_rows` of the samples, pooled already.
        """
        # Positives come first, so that these slots hold all of them.
        slots = min(int(self.num_samples * self.positive_fraction), samples.valid.shape[1])
        first = map_tensors(samples, lambda values: values[:, :slots])
        is_positive = first.valid & (first.labels < self.num_classes)
        rows, _ = self._rows(is_positive)
        if shared is not None:
            shared = shared[self._places(samples.valid, slots)[rows]]
        labels = first.labels.clamp(max=self.num_classes - 1)
        return replace(replace(first, labels=labels, valid=is_positive).at(rows), shared=shared)

    # Inference

    def detect(
        self,
        levels: Sequence[Tensor],
        proposals: Proposals,
        sizes: Tensor,
        score_thresh: float | None = None,
    ) -> RoIDetections:
        """Score, threshold, NMS per class, best `detections_per_image`, and the branches' results
        for those only. `score_thresh` replaces the heads' own."""
        features = self.features(levels)
        thresh = self.score_thresh if score_thresh is None else score_thresh
        boxes, images, valid = self.flatten(proposals)
        scores, decoded = self.score(features, boxes, images, sizes)
        if self.fixed_slots:
            shape = proposals.valid.shape
            detections = suppress_slots(
                scores.unflatten(0, shape),
                decoded.unflatten(0, shape),
                valid.unflatten(0, shape),
                score_thresh=thresh,
                min_size=self.min_detection_size,
                nms_thresh=self.nms_thresh,
                limit=self.detections_per_image,
                fixed_slots=True,
            )
        else:
            detections = self.suppress(self.candidates(scores, decoded, images, valid, thresh))
        for branch in self.branches.values():
            detections.extra |= branch.detect(features, detections)
        return detections

    def flatten(self, proposals: Proposals) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (R, 4), their image (R,), and which are real (R,): every slot where slots are
        fixed, else the valid ones."""
        rows, images = self._rows(proposals.valid)
        return proposals.boxes.flatten(0, 1)[rows], images, proposals.valid.flatten()[rows]

    def score(
        self, features: RoIFeatures, boxes: Tensor, images: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (R, 4) of `images` (R,), whose sizes are (B, 2) → class scores (R, K + 1), the mean
        of all stages, and the last stage's boxes (R, K or 1, 4) inside the images."""
        scores = torch.zeros((), device=boxes.device)
        for number, head in enumerate(self.box_heads):
            logits, deltas = head.predict(self.hidden(features, boxes, images, sizes, number))
            scores = scores + F.softmax(logits, dim=-1) / len(self.stages)
            decoded = clip_boxes(head.decode(deltas, boxes), sizes[images][:, None, :])
            if number + 1 < len(self.stages):
                boxes = decoded[:, 0].to(boxes.dtype)
        return scores, decoded

    def candidates(
        self,
        scores: Tensor,
        boxes: Tensor,
        images: Tensor,
        valid: Tensor,
        score_thresh: float | None = None,
    ) -> RoIDetections:
        """From `score`, and valid (R,): the detections before NMS. `score_thresh` replaces the
        heads' own."""
        return candidates(
            scores,
            boxes,
            images,
            valid,
            score_thresh=self.score_thresh if score_thresh is None else score_thresh,
            min_size=self.min_detection_size,
        )

    def suppress(self, candidates: RoIDetections) -> RoIDetections:
        """NMS per class and the best `detections_per_image`, image by image, best first."""
        return suppress(
            candidates,
            num_classes=self.num_classes,
            nms_thresh=self.nms_thresh,
            limit=self.detections_per_image,
        )

    # Shared

    def features(self, levels: Sequence[Tensor]) -> RoIFeatures:
        """Levels (B, C, H, W), finest first, with what pooling from them needs. The RPN sees p2…p6
        and the heads p2…p5 (Lin et al. 2017, 4.2); a single map serves both."""
        return RoIFeatures(
            levels[: len(self.strides)],
            self.strides,
            self.pooling,
            self.aligned,
            self.sampling_ratio,
            self.fixed_slots,
            self.res5,
        )

    def hidden(
        self, features: RoIFeatures, boxes: Tensor, images: Tensor, sizes: Tensor, stage: int = 0
    ) -> Tensor:
        """What `stage` predicts from, (R, D), of boxes (R, 4) of `images` (R,), whose sizes are
        (B, 2); with context (R, 2D), the region's half first."""
        pooled = self._pool(features, boxes, images, sizes)
        return self._embed(self.box_heads[stage], pooled, images)

    def _pool(self, features: RoIFeatures, boxes: Tensor, images: Tensor, sizes: Tensor) -> Tensor:
        """(R, C, S, S) at boxes (R, 4); with context (R + B, …), the B whole images last."""
        if self.context:
            whole = torch.cat([torch.zeros_like(sizes), sizes.flip(1)], dim=1).to(boxes.dtype)
            boxes = torch.cat([boxes, whole])
            images = torch.cat([images, torch.arange(sizes.shape[0], device=images.device)])
        return features.pool(boxes, images, self.box_pool_size)

    def _embed(self, head: BoxHead, pooled: Tensor, images: Tensor) -> Tensor:
        """What `head` predicts from: (R, D) of regions from `_pool`, with context (R, 2D)."""
        embedded = head.embed(pooled)
        if not self.context:
            return embedded
        regions = images.shape[0]
        return torch.cat([embedded[:regions], embedded[regions:][images]], dim=1)

    def _places(self, valid: Tensor, slots: int) -> Tensor:
        """Of the first `slots` of each image, flat: their positions among the rows of `_rows`."""
        rows, _ = self._rows(valid)
        places = torch.zeros(valid.numel(), dtype=torch.int64, device=valid.device)
        places[rows] = torch.arange(len(rows), device=valid.device)
        return places.view_as(valid)[:, :slots].flatten()

    def _rows(self, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Flat positions (R,) of the slots to work on and their image (R,).

        With fixed slots that is every slot; otherwise the valid ones only, or one empty slot where
        there are none, which norms and convolutions can still take.
        """
        image = torch.arange(len(valid), device=valid.device)[:, None].expand_as(valid).flatten()
        if self.fixed_slots:
            return torch.arange(valid.numel(), device=valid.device), image
        rows = valid.flatten().nonzero()[:, 0]
        if len(rows) == 0:
            rows = rows.new_zeros(1)
        return rows, image[rows]


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x itself, with its gradient times `scale`: the maps below get the mean of the gradients of
    all cascade stages, not their sum, as in Detectron2."""
    if scale == 1:
        return x
    fixed = x.detach()
    return fixed + (x - fixed) * scale
