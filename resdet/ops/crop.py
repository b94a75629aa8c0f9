"""Padding, random crops and flips of a batch of small images, on the device that holds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.ops.sampler import uniform


def pad_crop_flip(
    images: Tensor,
    *,
    pad: int,
    flip_prob: float,
    keys: Tensor,
    seed: int,
) -> Tensor:
    """Images (B, 3, H, W) with `pad` zeros on each side, cropped to H × W at random, some mirrored.

    The CIFAR augmentation of He et al. 2016, 4.2; on normalised images, so that the border is the
    mean. What happens to an image is a pure function of (seed, key). `keys` (B,) int64 stay on the
    host, for a GPU is slower to start than to compute what is drawn by them. The result has the
    memory layout of `images`.
    """
    batch, channels, height, width = images.shape
    wide = width + 2 * pad
    top, left, coin = (uniform(keys, seed=seed, step=0, stream=stream) for stream in range(3))
    mirrored = coin < flip_prob
    offset = (left * (2 * pad + 1)).long()
    first = torch.where(mirrored, offset + width - 1, offset)
    drawn = torch.stack([(top * (2 * pad + 1)).long(), first, 1 - 2 * mirrored.long()])
    if images.is_cuda:
        drawn = drawn.pin_memory()
    top, first, direction = drawn.to(images.device, non_blocking=True)[:, :, None]
    rows = top + torch.arange(height, device=images.device)
    columns = first + direction * torch.arange(width, device=images.device)
    places = ((rows * wide)[:, :, None] + columns[:, None, :]).flatten(1)  # (B, H·W)
    padded = F.pad(images, (pad, pad, pad, pad))
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        # The channels of a pixel are adjacent: one look-up per pixel in place of three.
        starts = torch.arange(batch, device=images.device) * (height + 2 * pad) * wide
        pixels = padded.permute(0, 2, 3, 1).reshape(-1, channels)
        chosen = pixels.index_select(0, (places + starts[:, None]).flatten())
        return chosen.view(batch, height, width, channels).permute(0, 3, 1, 2)
    places = places[:, None, :].expand(batch, channels, height * width)
    return padded.flatten(2).gather(2, places).view(images.shape)
