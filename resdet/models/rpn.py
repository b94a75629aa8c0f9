"""Region proposal network (Ren et al. 2015, 3.1), on a pyramid (Lin et al. 2017, 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.models.layers import conv_norm_relu, normal_init
from resdet.models.losses import box_loss_sum, full_precision, mean_over_processes
from resdet.ops.boxes import (
    cell_anchors,
    clip_boxes,
    decode_boxes,
    grid_anchors,
    is_at_least,
    is_nonempty,
    nms_of_groups,
)
from resdet.ops.sampler import match_boxes, random_order, sample_slots
from resdet.structures import TargetBatch

WEIGHTS = (1.0, 1.0, 1.0, 1.0)
STREAM = 0
"""Random stream of the anchor sampling, see `random_order`."""


@dataclass
class Proposals:
    """Fixed-size slots: the best proposals of each image, best first, then empty ones."""

    boxes: Tensor
    """(B, R, 4) float32 xyxy in pixels, inside the image; 0 in empty slots."""
    scores: Tensor
    """(B, R) objectness logits; −inf in empty slots."""
    valid: Tensor
    """(B, R) bool."""


@dataclass
class AnchorSamples:
    """The anchors a loss is taken over, in fixed-size slots."""

    positions: Tensor
    """(B, S) int64 into the anchors of all levels."""
    positive: Tensor
    """(B, S) bool."""
    valid: Tensor
    """(B, S) bool."""
    gt_boxes: Tensor
    """(B, S, 4) xyxy pixels of the matched object; anything where not positive."""


def sample_anchors(
    anchors: Tensor,
    targets: TargetBatch,
    *,
    foreground_iou: float,
    background_iou: float,
    num_samples: int,
    positive_fraction: float,
    seed: int,
    step: int,
) -> AnchorSamples:
    """Match anchors (N, 4) to the objects and draw `num_samples` per image: at most
    `positive_fraction` of them positive, and negatives for the rest (Ren et al. 2015, 3.1.3)."""
    matches, labels = match_boxes(
        targets.boxes,
        targets.valid,
        anchors,
        background_iou=background_iou,
        foreground_iou=foreground_iou,
        best_of_each_object=True,
    )
    # an image that could not be read has no background either
    labels = labels.masked_fill_(~targets.readable[:, None], -1)
    order = random_order(targets.image_keys, labels.shape[1], seed=seed, step=step, stream=STREAM)
    positions, positive, valid = sample_slots(
        labels, order, num_samples=num_samples, positive_fraction=positive_fraction
    )
    matched = matches.gather(1, positions)
    gt_boxes = targets.boxes.gather(1, matched[..., None].expand(-1, -1, 4))
    return AnchorSamples(positions, positive, valid, gt_boxes)


class RPN(nn.Module):
    """Shared 3×3 convolutions, then objectness and deltas at every anchor of every level."""

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        *,
        anchor_sizes: Sequence[float | Sequence[float]],
        aspect_ratios: Sequence[float],
        round_anchors: bool,
        anchor_spacing: str,
        num_convs: int,
        foreground_iou: float,
        background_iou: float,
        num_samples: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float,
        min_size: float,
        box_loss: str,
        smooth_l1_beta: float,
        loss_normalizer: str,
    ) -> None:
        """One anchor size or a list of them per level, equally many at each; `pre_nms_topk` and
        `post_nms_topk` are (train, test)."""
        super().__init__()
        if len(anchor_sizes) != len(strides):
            raise UserError(
                f"model.rpn.anchor_sizes: {len(anchor_sizes)} sizes for {len(strides)} levels; "
                "give one for each level"
            )
        self.strides, self.anchor_spacing = list(strides), anchor_spacing
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.num_samples, self.positive_fraction = num_samples, positive_fraction
        self.pre_nms_topk, self.post_nms_topk = pre_nms_topk, post_nms_topk
        sizes = [[size] if isinstance(size, int | float) else list(size) for size in anchor_sizes]
        if len({len(of_level) for of_level in sizes}) > 1:
            raise UserError(
                f"model.rpn.anchor_sizes: {anchor_sizes} has levels of "
                f"{' and '.join(str(len(of_level)) for of_level in sizes)} sizes; give as many for "
                "each, since one predictor serves all levels"
            )
        self.nms_thresh, self.min_size = nms_thresh, min_size
        self.fixed_slots = False
        self.box_loss, self.smooth_l1_beta = box_loss, smooth_l1_beta
        self.loss_normalizer = loss_normalizer

        blocks = [conv_norm_relu(in_channels, in_channels, "none") for _ in range(num_convs)]
        self.conv = nn.Sequential(*blocks)
        num_anchors = len(sizes[0]) * len(aspect_ratios)
        self.objectness = nn.Conv2d(in_channels, num_anchors, 1)
        self.deltas = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                normal_init(layer, 0.01)
        for level, of_level in enumerate(sizes):
            cell = cell_anchors(of_level, aspect_ratios, rounded=round_anchors)
            self.register_buffer(f"cell_anchors_{level}", cell, persistent=False)

    def forward(
        self,
        features: Sequence[Tensor],
        sizes: Tensor,
        targets: TargetBatch | None,
        *,
        seed: int = 0,
        step: int = 0,
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Features (B, C, H, W) per level, true sizes (B, 2) → proposals; losses with targets."""
        logits, deltas = self.predict(features)
        anchors = self.anchors(features)
        losses: dict[str, Tensor] = {}
        if targets is not None:
            samples = self.sample(torch.cat(anchors), targets, seed=seed, step=step)
            losses = self.losses(
                torch.cat(logits, dim=1),
                torch.cat(deltas, dim=1),
                torch.cat(anchors),
                samples,
                num_images=targets.readable.sum(),
            )
        with torch.no_grad():
            proposals = self.select(logits, deltas, anchors, sizes)
        return proposals, losses

    def predict(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (B, H·W·A) and deltas (B, H·W·A, 4) per level, in the order of the anchors."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            batch = feature.shape[0]  # not len(), which an export would take for a constant
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).reshape(batch, -1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(batch, -1, 4))
        return logits, deltas

    def anchors(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(H·W·A, 4) xyxy pixels per level."""
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        spacings = [(stride, stride) for stride in self.strides]
        if self.anchor_spacing == "rounded":
            # of the padded image, whose sides are multiples of the finest level's stride
            height, width = (side * self.strides[0] for side in grids[0])
            spacings = [(height // rows, width // columns) for rows, columns in grids]
        return [
            grid_anchors(self.get_buffer(f"cell_anchors_{level}"), grid, spacing)
            for level, (grid, spacing) in enumerate(zip(grids, spacings, strict=True))
        ]

    @torch.no_grad()
    def sample(
        self, anchors: Tensor, targets: TargetBatch, *, seed: int, step: int
    ) -> AnchorSamples:
        """Match anchors (N, 4) to the objects and draw those the loss is taken over."""
        return sample_anchors(
            anchors,
            targets,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            num_samples=self.num_samples,
            positive_fraction=self.positive_fraction,
            seed=seed,
            step=step,
        )

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        samples: AnchorSamples,
        *,
        num_images: Tensor,
    ) -> dict[str, Tensor]:
        """Scalars from logits (B, N), deltas (B, N, 4) and anchors (N, 4); `num_images` () are
        those that could be read.

        Both are sums divided by `num_samples` × images, as Detectron2 normalises them, or by the
        anchors that were really sampled, as torchvision does.
        """
        # one logit per anchor, object or not: a sigmoid in place of the paper's softmax of two
        picked = full_precision(logits.gather(1, samples.positions))
        cls = F.binary_cross_entropy_with_logits(
            picked, samples.positive.to(picked.dtype), reduction="none"
        )
        cls = torch.where(samples.valid, cls, cls.new_zeros(())).sum()
        box = box_loss_sum(
            deltas.gather(1, samples.positions[..., None].expand(-1, -1, 4)),
            anchors[samples.positions],
            samples.gt_boxes,
            samples.positive,
            weights=WEIGHTS,
            loss=self.box_loss,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        count = self.num_samples * num_images
        if self.loss_normalizer == "sampled":
            count = samples.valid.sum()
        return {
            "loss_rpn_cls": mean_over_processes(cls, count),
            "loss_rpn_box": mean_over_processes(box, count),
        }

    def select(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Tensor,
    ) -> Proposals:
        """The best proposals per image: top-k per level, decode, clip, NMS per level, top-k of all.

        NMS per level alone (Lin et al. 2017, 4.1): boxes of different levels differ in size, so
        that few of them overlap enough to suppress each other.
        """
        pre_nms_topk = self.pre_nms_topk[0 if self.training else 1]
        post_nms_topk = self.post_nms_topk[0 if self.training else 1]
        batch, slots = len(sizes), max(min(pre_nms_topk, logit.shape[1]) for logit in logits)
        # (B, levels, slots), those past a level's count empty
        boxes = anchors[0].new_zeros((batch, len(logits), slots, 4), dtype=torch.float32)
        scores = boxes.new_full((batch, len(logits), slots), -torch.inf)
        counts = torch.zeros((batch, len(logits)), dtype=torch.int64, device=boxes.device)
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
            # only the best are decoded and go through NMS: an image has about 200,000 anchors
            top, position = logit.topk(min(pre_nms_topk, logit.shape[1]), dim=1)
            delta = delta.gather(1, position[..., None].expand(-1, -1, 4))
            count = top.shape[1]
            boxes[:, level, :count] = decode_boxes(delta, anchor[position], WEIGHTS)
            scores[:, level, :count] = top
            counts[:, level] = count
        boxes = clip_boxes(boxes, sizes[:, None, None, :])
        usable = is_nonempty(boxes) & torch.isfinite(scores)
        if self.min_size > 0:
            usable &= is_at_least(boxes, self.min_size)
        # Boxes that are not usable become empty, and empty ones suppress nothing.
        boxes = torch.where(usable[..., None], boxes, 0)
        keep = nms_of_groups(
            boxes.flatten(0, 1), counts.flatten(), self.nms_thresh, fixed_slots=self.fixed_slots
        )
        all_boxes = boxes.flatten(1, 2)
        all_scores = scores.masked_fill(~(usable & keep.view_as(usable)), -torch.inf).flatten(1)
        top, position = all_scores.topk(min(post_nms_topk, all_scores.shape[1]), dim=1)
        valid = top > -torch.inf
        picked = all_boxes.gather(1, position[..., None].expand(-1, -1, 4))
        return Proposals(picked * valid[..., None], top, valid)
