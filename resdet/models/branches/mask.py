"""Mask head and its loss (Mask R-CNN, He et al. 2017, 3 and figure 4 right)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdet.models.layers import conv_stack, normal_init
from resdet.models.losses import full_precision, mean_over_processes
from resdet.models.regions import RegionSamples, RoIDetections, RoIFeatures
from resdet.ops.masks import resample_masks
from resdet.structures import TargetBatch


class MaskHead(nn.Module):
    """3×3 convolutions, a 2×2 deconvolution, and one mask per class at twice the pooled size.

    A branch (`resdet.models.regions`): its masks come out as `mask_probs`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_convs: int,
        conv_dim: int,
        norm: str,
        class_agnostic: bool,
        pool_size: int,
    ) -> None:
        super().__init__()
        self.class_agnostic, self.pool_size = class_agnostic, pool_size
        self.convs, channels = conv_stack(in_channels, conv_dim, num_convs, norm)
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

    def losses(
        self, features: RoIFeatures, samples: RegionSamples, targets: TargetBatch
    ) -> dict[str, Tensor]:
        """loss_mask. Each region learns the mask of its own class alone, so that classes do not
        compete; its target is the part of the object's mask inside the proposal. None in an
        evaluation of boxes on data without masks."""
        if targets.masks is None:
            assert not self.training, "data without masks are refused before training"
            return {}
        logits = self(samples.pool(features, self.pool_size), samples.labels)
        with torch.no_grad():
            masks = targets.masks[samples.of_objects(targets.mask_rows)]
            wanted = resample_masks(masks, samples.gt_boxes, samples.boxes, logits.shape[-1])
        return {"loss_mask": self.loss(logits, wanted, samples.valid)}

    def detect(self, features: RoIFeatures, detections: RoIDetections) -> dict[str, Tensor]:
        """Probabilities (N, m, m) of the detected class inside each final box."""
        pooled = features.pool(detections.boxes, detections.images, self.pool_size)
        return {"mask_probs": self(pooled, detections.labels).sigmoid()}

    def merge_views(
        self, results: Sequence[Mapping[str, Tensor]], mirrored: Sequence[bool]
    ) -> dict[str, Tensor]:
        """The mean of the probabilities of the same detections in several views or by several
        detectors, some of them in the mirror image; masks of fewer cells are enlarged."""
        probs = [
            result["mask_probs"].float().flip(-1) if is_mirrored else result["mask_probs"].float()
            for result, is_mirrored in zip(results, mirrored, strict=True)
        ]
        cells = max(one.shape[-1] for one in probs)
        probs = [
            one
            if one.shape[-1] == cells
            else F.interpolate(one[:, None], (cells, cells), mode="bilinear")[:, 0]
            for one in probs
        ]
        return {"mask_probs": torch.stack(probs).mean(dim=0)}

    def loss(self, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        """Mean binary cross-entropy over the pixels of `valid` (R,) masks; both are (R, m, m)."""
        per_mask = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).mean(dim=(1, 2))
        total = torch.where(valid, per_mask, per_mask.new_zeros(())).sum()
        return mean_over_processes(total, valid.sum())
