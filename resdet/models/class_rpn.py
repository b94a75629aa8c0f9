"""The per-class region proposal network for localization (He et al. 2016, appendix C).

As the RPN of Ren et al. 2015, but both predictors have filters of their own for every class: at
each anchor K binary logistic classifiers and K box regressors. An image has one class, so that only
the filters of the classes that are asked for are computed: in training those of the image's class,
and only at the few anchors that are sampled.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.layers import conv_stack, normal_init
from resdet.models.losses import box_loss_sum, full_precision, mean_over_processes
from resdet.models.rpn import WEIGHTS, AnchorSamples, sample_anchors
from resdet.ops.boxes import cell_anchors, decode_boxes, grid_anchors
from resdet.structures import TargetBatch


class ClassRPN(nn.Module):
    """3×3 convolutions, then K logits and K × 4 deltas at every anchor of one map."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        stride: int,
        *,
        anchor_sizes: Sequence[float],
        aspect_ratios: Sequence[float],
        num_convs: int,
        conv_dim: int,
        foreground_iou: float,
        background_iou: float,
        num_samples: int,
        positive_fraction: float,
        trained_classes: str,
        box_loss: str,
        smooth_l1_beta: float,
    ) -> None:
        """`stride` in pixels is that of the map; `trained_classes` is own or all."""
        super().__init__()
        self.num_classes, self.stride = num_classes, stride
        self.foreground_iou, self.background_iou = foreground_iou, background_iou
        self.num_samples, self.positive_fraction = num_samples, positive_fraction
        self.trained_classes = trained_classes
        self.box_loss, self.smooth_l1_beta = box_loss, smooth_l1_beta
        self.conv, width = conv_stack(in_channels, conv_dim, num_convs, "none")
        cell = cell_anchors(anchor_sizes, aspect_ratios)
        self.num_anchors = len(cell)
        self.register_buffer("cell_anchors", cell, persistent=False)
        # class by class, and within a class anchor by anchor
        self.logits = nn.Conv2d(width, num_classes * self.num_anchors, 1)
        self.deltas = nn.Conv2d(width, num_classes * self.num_anchors * 4, 1)
        for layer in (self.logits, self.deltas):
            normal_init(layer, 0.01)
        if trained_classes == "all":
            # Of all classes' answers at the sampled anchors, half of one class's are positive: with
            # this prior the K losses do not start at log 2 each (Lin et al. 2017, focal loss, 3.3).
            nn.init.constant_(self.logits.bias, -math.log(2 * num_classes - 1))  # type: ignore[arg-type]

    def anchors(self, hidden: Tensor) -> Tensor:
        """(N, 4) xyxy pixels of a map (…, h, w), N = h · w · A: by place, then by anchor."""
        grid = (hidden.shape[-2], hidden.shape[-1])
        return grid_anchors(self.get_buffer("cell_anchors"), grid, self.stride)

    def forward(
        self, features: Tensor, targets: TargetBatch, *, seed: int, step: int
    ) -> dict[str, Tensor]:
        """Named scalar losses of features (B, C, h, w)."""
        hidden = self.conv(features)
        anchors = self.anchors(hidden)
        samples = self.sample(anchors, targets, seed=seed, step=step)
        return self.losses(hidden, anchors, samples, targets.labels[:, 0])

    @torch.no_grad()
    def sample(
        self, anchors: Tensor, targets: TargetBatch, *, seed: int, step: int
    ) -> AnchorSamples:
        """Match anchors (N, 4) to the objects and draw those the loss is taken over.

        A crop that shows no object has no valid sample: its class is not among its targets.
        """
        samples = sample_anchors(
            anchors,
            targets,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            num_samples=self.num_samples,
            positive_fraction=self.positive_fraction,
            seed=seed,
            step=step,
        )
        shows_object = targets.valid.any(dim=1, keepdim=True)
        return replace(samples, valid=samples.valid & shows_object)

    def losses(
        self, hidden: Tensor, anchors: Tensor, samples: AnchorSamples, labels: Tensor
    ) -> dict[str, Tensor]:
        """Scalars from hidden (B, C, h, w), anchors (N, 4) and the images' labels (B,).

        Both are sums divided by the number of sampled anchors of all processes.
        """
        cells = samples.positions // self.num_anchors
        rows = labels[:, None] * self.num_anchors + samples.positions % self.num_anchors
        flat = hidden.flatten(2).transpose(1, 2)
        # (B, S, C): nothing is computed at the anchors that were not drawn
        picked = full_precision(flat.gather(1, cells[..., None].expand(-1, -1, flat.shape[2])))
        positive = samples.positive.to(picked.dtype)
        if self.trained_classes == "own":
            cls = F.binary_cross_entropy_with_logits(
                self._products(self.logits, rows, picked, 1)[..., 0], positive, reduction="none"
            )
        else:
            cls = self._loss_of_all(picked, samples, labels, positive)
        box = box_loss_sum(
            self._products(self.deltas, rows, picked, 4),
            anchors[samples.positions],
            samples.gt_boxes,
            samples.positive & samples.valid,
            weights=WEIGHTS,
            loss=self.box_loss,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        cls = torch.where(samples.valid, cls, cls.new_zeros(())).sum()
        count = samples.valid.sum()
        return {
            "loss_rpn_cls": mean_over_processes(cls, count),
            "loss_rpn_box": mean_over_processes(box, count),
        }

    def _products(self, layer: nn.Conv2d, rows: Tensor, picked: Tensor, size: int) -> Tensor:
        """(B, S, size): the filters `rows` (B, S) of a predictor, `size` of them each, at vectors
        `picked` (B, S, C)."""
        assert layer.bias is not None
        weight = layer.weight.flatten(1).unflatten(0, (-1, size))
        # index_select: its gradient is added in order, so that runs repeat bit by bit
        own = weight.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        bias = layer.bias.unflatten(0, (-1, size)).index_select(0, rows.flatten())
        return (own * picked[..., None, :]).sum(dim=-1) + bias.unflatten(0, rows.shape)

    def _loss_of_all(
        self, picked: Tensor, samples: AnchorSamples, labels: Tensor, positive: Tensor
    ) -> Tensor:
        """(B, S): the sum over the K classifiers at each sample; only the own may be positive."""
        assert self.logits.bias is not None
        weight = full_precision(self.logits.weight.flatten(1))
        with torch.autocast(picked.device.type, enabled=False):
            every = F.linear(picked, weight, full_precision(self.logits.bias))
        every = every.unflatten(2, (self.num_classes, self.num_anchors))
        anchor = (samples.positions % self.num_anchors)[..., None, None]
        logits = every.gather(3, anchor.expand(-1, -1, self.num_classes, 1))[..., 0]
        is_own = F.one_hot(labels, self.num_classes)[:, None]
        wanted = is_own.to(positive.dtype) * positive[..., None]
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return loss.sum(dim=2)

    def score(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (B, L, N) of the classes `labels` (L,), or of all K, on hidden (B, C, h, w)."""
        maps = self._maps(self.logits, hidden, labels, self.num_anchors)
        return maps.permute(0, 1, 3, 4, 2).flatten(2)

    def boxes(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(B, L, N, 4) xyxy pixels of the map's image, of the classes `labels` (L,)."""
        maps = self._maps(self.deltas, hidden, labels, self.num_anchors * 4)
        deltas = maps.unflatten(2, (self.num_anchors, 4)).permute(0, 1, 4, 5, 2, 3).flatten(2, 4)
        return decode_boxes(deltas, self.anchors(hidden), WEIGHTS)

    def _maps(self, layer: nn.Conv2d, hidden: Tensor, labels: Tensor | None, size: int) -> Tensor:
        """(B, L, size, h, w): the `size` filters of each of the classes.

        In full precision: among hundreds of anchors of one object the best is wanted, and in bf16
        the logits of many are the same number.
        """
        assert layer.bias is not None
        weight, bias = layer.weight, layer.bias
        if labels is not None:
            weight = weight.unflatten(0, (-1, size))[labels].flatten(0, 1)
            bias = bias.unflatten(0, (-1, size))[labels].flatten()
        with torch.autocast(hidden.device.type, enabled=False):
            maps = F.conv2d(full_precision(hidden), full_precision(weight), full_precision(bias))
        return maps.unflatten(1, (-1, size))
