"""Box heads and their losses (Fast R-CNN, Girshick 2015, 2; 4conv1fc of Wu & He 2018, 5.2)."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.layers import conv_stack, normal_init, xavier_uniform
from resdet.models.losses import (
    box_loss_sum,
    full_precision,
    mean_over_processes,
    region_loss,
)
from resdet.models.regions import RegionSamples
from resdet.ops.boxes import decode_boxes

MOST_REORDERED = 2**24
"""Weights of a first layer that a CPU computes as a convolution; VGG's fc6 has 103 million."""


class BoxHead(nn.Module):
    """Pooled features → hidden convolutions and fully connected layers → class logits and deltas.

    2fc, and fc6 and fc7 of VGG, are `num_convs=0, num_fcs=2`; 4conv1fc is `num_convs=4, num_fcs=1`;
    with `average` and neither it is the mean over the map, as on res5 (He et al. 2016, appendix A).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        pool_size: int,
        num_convs: int,
        conv_dim: int,
        num_fcs: int,
        fc_dim: int,
        dropout: float,
        norm: str,
        average: bool,
        class_agnostic: bool,
        context: bool,
        box_weights: Sequence[float],
        box_loss: str,
        smooth_l1_beta: float,
        focal_gamma: float | None = None,
    ) -> None:
        """With `context` the predictors see the whole image's hidden features beside the region's,
        see `RoIHeads`; `focal_gamma` None is the cross-entropy."""
        super().__init__()
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.average = average
        self.box_weights = tuple(box_weights)
        self.box_loss, self.smooth_l1_beta = box_loss, smooth_l1_beta
        self.focal_gamma = focal_gamma or 0.0
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None, persistent=False)
        self.convs, channels = conv_stack(in_channels, conv_dim, num_convs, norm)
        fcs: list[nn.Module] = []
        width = channels if average else channels * pool_size**2
        for _ in range(num_fcs):
            linear = nn.Linear(width, fc_dim)
            xavier_uniform(linear)
            relu = nn.ReLU(inplace=True)
            # one entry with or without dropout, so that the layers have the same names
            fcs += [linear, nn.Sequential(relu, nn.Dropout(dropout)) if dropout else relu]
            width = fc_dim
        self.fcs = nn.Sequential(*fcs)
        width *= 2 if context else 1
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4 if class_agnostic else 4 * num_classes)
        normal_init(self.cls_score, 0.01)
        normal_init(self.bbox_pred, 0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, S, S) → class logits (R, K + 1), background last, and deltas (R, K or 1, 4)."""
        return self.predict(self.embed(pooled))

    def embed(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) → hidden features (R, D), those of the last layer before the predictors."""
        maps = self.convs(pooled)
        if self.average:
            return self.fcs(maps.mean((2, 3)))
        is_cpu = maps.device.type == "cpu" and maps.dtype == torch.float32
        if is_cpu and len(self.fcs) > 0 and not torch.compiler.is_exporting():
            first = cast(nn.Linear, self.fcs[0])
            if first.weight.numel() <= MOST_REORDERED:
                return self.fcs[1:](_first_as_convolution(first, maps))
        return self.fcs(maps.flatten(1))

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden features (R, D), with context (R, 2D) → class logits (R, K + 1), background last,
        and deltas (R, K or 1, 4)."""
        deltas = self.bbox_pred(hidden)
        return full_precision(self.cls_score(hidden)), full_precision(deltas).unflatten(1, (-1, 4))

    def decode(self, deltas: Tensor, proposals: Tensor) -> Tensor:
        """Boxes (R, K or 1, 4) xyxy pixels from deltas of that shape at proposals (R, 4)."""
        return decode_boxes(deltas, proposals[:, None, :], self.box_weights)

    def weigh_classes(self, weights: Sequence[float]) -> None:
        """Weights of the K classes and of background in the training loss; the loss of validation
        has none, so that it compares runs with different ones."""
        assert len(weights) == self.num_classes + 1
        self.class_weights = self.cls_score.weight.new_tensor(weights)

    def losses(
        self, logits: Tensor, deltas: Tensor, samples: RegionSamples
    ) -> tuple[Tensor, Tensor]:
        """Scalars loss_cls, the mean `region_loss` over valid samples, and loss_box, summed over
        positives and divided by all valid samples (Detectron2's normaliser); of flat samples."""
        count = samples.valid.sum()
        cls = region_loss(
            logits,
            samples.labels,
            samples.valid,
            focal_gamma=self.focal_gamma,
            weights=self.class_weights if self.training else None,
        )
        if self.class_agnostic:
            picked = deltas[:, 0]
        else:
            row = samples.labels.clamp(max=self.num_classes - 1)[:, None, None]
            picked = deltas.gather(1, row.expand(-1, 1, 4))[:, 0]
        box = box_loss_sum(
            picked,
            samples.boxes,
            samples.gt_boxes,
            samples.valid & (samples.labels < self.num_classes),
            weights=self.box_weights,
            loss=self.box_loss,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return cls, mean_over_processes(box, count)


def _first_as_convolution(layer: nn.Linear, maps: Tensor) -> Tensor:
    """`layer` of maps (R, C, S, S) as a convolution that covers them whole: (R, out).

    On a CPU it takes the maps with their channels last, and oneDNN computes it; the matrix product
    in fp32 is MKL's, which on AMD's processors takes twice as long. The convolution reorders the
    weights in every call, which takes longer than it saves where they are many, as in VGG's fc6.
    Exports keep the matrix product: in onnxruntime and OpenVINO it is many times as fast.
    """
    weight = layer.weight.view(layer.out_features, *maps.shape[1:])
    return F.conv2d(maps, weight, layer.bias).flatten(1)
