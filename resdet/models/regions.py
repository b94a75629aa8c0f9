"""Regions of a batch on their way through the heads: what is pooled, trained on and detected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from resdet.ops.roi_pool import pool_rois
from resdet.structures import TargetBatch, map_tensors


@dataclass
class RoIFeatures:
    """The maps that regions are pooled from, and how."""

    levels: Sequence[Tensor]
    """(B, C, H, W) per level, finest first."""
    strides: Sequence[int]
    """Image pixels per cell of each level."""
    pooling: str
    """align or pool, see `pool_rois`."""
    aligned: bool
    sampling_ratio: int
    fixed_slots: bool
    """See `RCNN.set_fixed_slots`."""
    res5: nn.Module | None
    """The backbone's last stage where the heads share it (C4)."""

    def pool(self, boxes: Tensor, images: Tensor, size: int) -> Tensor:
        """(R, C, size, size) at boxes (R, 4) in pixels of `images` (R,); after res5 where the heads
        share it, then of half the size."""
        return self.finish(self.pool_maps(boxes, images, size))

    def pool_maps(self, boxes: Tensor, images: Tensor, size: int) -> Tensor:
        """(R, C, size, size): as `pool`, before res5."""
        return pool_rois(
            self.levels,
            self.strides,
            boxes,
            images,
            size,
            fixed_slots=self.fixed_slots,
            pooling=self.pooling,
            aligned=self.aligned,
            sampling_ratio=self.sampling_ratio,
        )

    def finish(self, pooled: Tensor) -> Tensor:
        """What `pool` gives, from regions of `pool_maps`."""
        return pooled if self.res5 is None else self.res5(pooled)


@dataclass
class RegionSamples:
    """Proposals that are trained on: fixed-size slots (B, S), positives first, or flat (R,).

    A branch gets those that are matched to an object, flat, and unused slots among them.
    """

    boxes: Tensor
    """(…, 4) xyxy pixels; 0 in empty slots."""
    labels: Tensor
    """(…,) int64 0..K; K is background and empty. 0..K-1 for a branch."""
    gt_boxes: Tensor
    """(…, 4) xyxy pixels of the matched object; anything for background."""
    images: Tensor
    """(…,) int64 position in the batch."""
    objects: Tensor
    """(…,) int64 position of the matched object in its image."""
    valid: Tensor
    """(…,) bool: False for slots that take no part in a loss."""
    shared: Tensor | None = None
    """(R, C, S, S) regions that the box head has pooled already (C4)."""

    def at(self, rows: Tensor) -> RegionSamples:
        """Flat, those at the positions `rows` (R,) among all B · S slots."""
        return map_tensors(self, lambda values: values.flatten(0, 1)[rows])

    def pool(self, features: RoIFeatures, size: int) -> Tensor:
        """(R, C, size, size) of flat samples; on C4 the regions of the box head, at its size."""
        if self.shared is not None:
            return self.shared
        return features.pool(self.boxes, self.images, size)

    def of_objects(self, values: Tensor) -> Tensor:
        """(R, …): the value of each matched object, from values (B, G, …) of all objects."""
        return values[self.images, self.objects]


@dataclass
class RoIDetections:
    """Detections of a batch, flat, image by image and best first, in resized pixels."""

    boxes: Tensor
    """(N, 4) float32 xyxy pixels."""
    scores: Tensor
    """(N,) 0..1."""
    labels: Tensor
    """(N,) int64 0..K-1."""
    images: Tensor
    """(N,) int64 position in the batch."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """(N, …) results of the branches by name."""


class Branch(Protocol):
    """What is predicted per object besides class and box; an nn.Module.

    Built as `Branch(in_channels, num_classes, *, options)`; `in_channels` are those of
    `RoIFeatures.pool`. A branch that also has `merge_views`, as `MergingBranch`, may be tested in
    several views and by several detectors.
    """

    def losses(
        self, features: RoIFeatures, samples: RegionSamples, targets: TargetBatch
    ) -> dict[str, Tensor]:
        """Named scalar losses (loss_NAME) over the samples that are valid."""

    def detect(self, features: RoIFeatures, detections: RoIDetections) -> dict[str, Tensor]:
        """Results (N, …) by name, one row per detection."""


@runtime_checkable
class MergingBranch(Protocol):
    """A branch whose results for the same detections can be merged."""

    def merge_views(
        self, results: Sequence[Mapping[str, Tensor]], mirrored: Sequence[bool]
    ) -> dict[str, Tensor]:
        """One result of several as `Branch.detect` gives them, (N, …) by name; `mirrored` tells
        which were made in the mirror image."""
