"""Colour noise on a batch of images, on the device that holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from resdet.ops.sampler import normal

# Principal colours of ImageNet's training pixels, RGB in 0..1: the strengths, and the directions as
# columns. Measured by Facebook's fb.resnet.torch (datasets/imagenet.lua).
STRENGTHS = (0.2175, 0.0188, 0.0045)
DIRECTIONS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def distort_colour(images: Tensor, *, std: float, keys: Tensor, seed: int, step: int) -> Tensor:
    """Images (B, 3, H, W) RGB 0..255 with one random colour added to all pixels of each, float32.

    The colour is a sum of the principal ones, each by its strength times a normal number of
    deviation `std` (Krizhevsky et al. 2012, 4.1: 0.1). Values may leave 0..255. A pure function of
    (seed, step, key); `keys` are (B,) int64, distinct within the step.
    """
    first, second, third = (normal(keys, seed=seed, step=step, stream=40 + i) for i in range(3))
    # Python numbers throughout: no small tensors to copy to the device.
    a, b, c = (255.0 * std * strength for strength in STRENGTHS)
    channels = [first * (a * x) + second * (b * y) + third * (c * z) for x, y, z in DIRECTIONS]
    return images + torch.stack(channels, dim=1)[:, :, None, None]
