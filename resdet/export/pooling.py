"""RoI pooling of an exported detector: each region once, from its own level."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resdet.models.regions import RoIFeatures
from resdet.ops.boxes import box_area
from resdet.ops.roi_pool import assign_levels
from resdet.ops.vision import roi_align, roi_pool


@dataclass
class GroupedFeatures(RoIFeatures):
    """Maps that regions are pooled from level by level.

    How many regions a level has is known only when the graph runs. Eager torch with fixed slots
    would pool every region from every level instead.
    """

    level_areas: Sequence[float]
    """The smallest areas of all levels but the first, of `level_areas`."""

    def pool_maps(self, boxes: Tensor, images: Tensor, size: int) -> Tensor:
        rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
        if len(self.levels) == 1:
            return self._pool(0, rois, size)
        area = box_area(boxes)
        level = torch.zeros_like(images)
        for threshold in self.level_areas:
            level = level + (area >= threshold).to(level.dtype)
        rows = [(level == number).nonzero()[:, 0] for number in range(len(self.levels))]
        pooled = [self._pool(number, rois[own], size) for number, own in enumerate(rows)]
        order = torch.cat(rows)
        count_up = torch.ones_like(order).cumsum(0) - 1
        places = torch.zeros_like(images).index_put((order,), count_up)
        return torch.cat(pooled)[places]

    def _pool(self, level: int, rois: Tensor, size: int) -> Tensor:
        """(R, C, size, size) of rois (R, 5), image and box, from one level."""
        x, scale = self.levels[level], 1 / self.strides[level]
        if self.pooling == "pool":
            return roi_pool(x, rois, size, scale)
        return roi_align(x, rois, size, scale, self.sampling_ratio, self.aligned)


def level_areas(strides: Sequence[int]) -> list[float]:
    """The smallest areas of boxes on the second to the last level of `strides`.

    Bit-exactly those of `assign_levels`. Its logarithm is rounded differently by every runtime, and
    a box on the other side of a limit is pooled from another map; a comparison is the same
    everywhere.
    """
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    areas = []
    for level in range(first + 1, last + 1):
        # positive floats are in the order of their bits
        low, high = 0, int(torch.tensor(1e12).view(torch.int32))
        while high - low > 1:
            middle = (low + high) // 2
            box = torch.tensor([[0.0, 0.0, _float(middle), 1.0]])
            is_reached = int(assign_levels(box, first, last)) >= level
            low, high = (low, middle) if is_reached else (middle, high)
        areas.append(_float(high))
    return areas


def _float(bits: int) -> float:
    """The float32 with these bits."""
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
