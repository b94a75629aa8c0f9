"""Mask head and its loss (Mask R-CNN, He et al. 2017, 3 and figure 4 right)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.layers import conv_norm_relu, normal_init
from resdet.models.losses import full_precision, mean_over_processes


class MaskHead(nn.Module):
    """3×3 convolutions, a 2×2 deconvolution, and a mask a class at twice the pooled size."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_convs: int,
        conv_dim: int,
        norm: str,
        class_agnostic: bool,
    ) -> None:
        super().__init__()
        self.class_agnostic = class_agnostic
        convs, channels = [], in_channels
        for _ in range(num_convs):
            convs.append(conv_norm_relu(channels, conv_dim, norm))
            channels = conv_dim
        self.convs = nn.Sequential(*convs)
        self.deconv = nn.ConvTranspose2d(channels, conv_dim, 2, stride=2)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        assert self.deconv.bias is not None
        nn.init.zeros_(self.deconv.bias)
        self.predictor = nn.Conv2d(conv_dim, 1 if class_agnostic else num_classes, 1)
        normal_init(self.predictor, 0.001)

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """(R, C, S, S) and labels (R,) int64 0..K-1 → mask logits (R, 2S, 2S) of those classes."""
        hidden = F.relu_(self.deconv(self.convs(pooled)))
        logits = full_precision(self.predictor(hidden))
        if self.class_agnostic:
            return logits[:, 0]
        row = labels[:, None, None, None].expand(-1, 1, *logits.shape[-2:])
        return logits.gather(1, row)[:, 0]

    def loss(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Mean binary cross-entropy over the pixels of `valid` (R,) masks; both are (R, m, m)."""
        each = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).mean(dim=(1, 2))
        return mean_over_processes(torch.where(valid, each, each.new_zeros(())).sum(), valid.sum())
