"""What a classifier sees of a test image: one crop, ten crops, or all of it at several scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.data.classification.transforms import (
    Interpolation,
    center_corner,
    resize_short_edge,
    short_edge_size,
    to_tensor,
)
from resdet.errors import UserError
from resdet.files.pixels import resize_parts

if TYPE_CHECKING:
    from resdet.models.classifier import Classifier

Crops = Literal["1", "10", "dense"]
CROPS: tuple[str, ...] = get_args(Crops)
PAPER_SIZE = 224
PAPER_SCALES = (224, 256, 384, 480, 640)
"""Short sides in pixels of the paper's fully convolutional test (He et al. 2016, 3.4)."""


@dataclass(frozen=True)
class Views:
    """Cuts an image into the pictures that the network sees."""

    crops: Crops
    resize: int
    """Short side in pixels before a crop."""
    size: int
    """Side of a crop in pixels."""
    scales: tuple[int, ...] = ()
    """Short sides in pixels of the dense views."""
    interpolation: Interpolation = "bilinear"

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Tensor]:
        """(H, W, 3) uint8 RGB → stacks (V, 3, h, w) uint8 of the views, one for each size."""
        if self.crops == "dense":
            # whatever the size: each stage of a network rounds its map up
            whole = [
                to_tensor(resize_short_edge(pixels, scale, self.interpolation))
                for scale in self.scales
            ]
            return [torch.stack([image, image.flip(-1)]) for image in whole]
        size = short_edge_size((pixels.shape[0], pixels.shape[1]), self.resize)
        bottom, right = size[0] - self.size, size[1] - self.size
        places = [center_corner(size, self.size)]
        if self.crops == "10":
            places = [(0, 0), (0, right), (bottom, 0), (bottom, right), *places]
        parts = resize_parts(pixels, size, places, self.size, self.interpolation)
        crops = [to_tensor(part) for part in parts]
        if self.crops == "1":
            return [crops[0][None]]
        five = torch.stack(crops)
        return [torch.cat([five, five.flip(-1)])]


def make_views(
    crops: str,
    scales: Sequence[int] | None = None,
    *,
    test_resize: int,
    test_size: int,
    interpolation: Interpolation = "bilinear",
) -> Views:
    """The views of a classifier with these `data.test_resize` and `data.test_size`, in pixels.

    `crops` is 1, 10 or dense; `scales` belong to dense and are the paper's by default, in
    proportion to `test_size`. Raises UserError for what cannot be cut.
    """
    if crops not in CROPS:
        raise UserError(f"--crops {crops}: one of {', '.join(CROPS)} is expected")
    if scales is not None and crops != "dense":
        raise UserError(f"--scales needs --crops dense; --crops {crops} has data.test_resize")
    if crops == "dense":
        if scales is None:
            scales = [round(scale * test_size / PAPER_SIZE) for scale in PAPER_SCALES]
        if not scales or min(scales) < 1 or len(set(scales)) < len(scales):
            raise UserError(f"--scales {list(scales)}: different short sides above 0 are expected")
        return Views("dense", test_resize, test_size, tuple(scales), interpolation)
    if test_size > test_resize:
        raise UserError(
            f"data.test_size: no crop of {test_size} pixels fits into a short side of "
            f"data.test_resize {test_resize}; set one of them"
        )
    if crops == "10" and test_size == test_resize:
        raise UserError(
            f"--crops 10: corners and centre are one place where data.test_resize is "
            f"data.test_size ({test_size}); use --crops 1, or set data.test_resize above it"
        )
    return Views(cast(Crops, crops), test_resize, test_size, (), interpolation)


def view_logits(model: Classifier, views: Tensor, *, dense: bool) -> Tensor:
    """Logits (B, K) float32 of pictures (B, 3, h, w) uint8 RGB, on the model's device.

    Dense ones are the mean over the positions of the map.
    """
    images = model.normalize(views.to(model.device, non_blocking=True))
    if dense:
        return model.dense(images).float().mean((2, 3))
    return model(images)[0].float()
