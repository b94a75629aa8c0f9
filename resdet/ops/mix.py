"""Mixup, CutMix and random erasing of a batch, on the device that holds it.

Nothing here reads a value back from the device. Mixup and CutMix take one draw per batch, which the
host makes and knows; erasing draws for each image, on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from resdet.ops.sampler import normal, uniform

# torchvision's RandomErasing: share of the image, height / width, and tries for a box that fits.
ERASE_AREA = (0.02, 0.33)
ERASE_RATIO = (0.3, 3.3)
ERASE_TRIES = 10


def soft_targets(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B,) int64 as float32 rows (B, K) with a 1 at the label; label −1 gives zeros."""
    classes = torch.arange(num_classes, device=labels.device)
    return (labels[:, None] == classes).float()


@dataclass(frozen=True)
class Mix:
    """How the images of one batch are mixed with their partners."""

    share: float
    """What is left of the image itself, 0..1; for CutMix, of its area."""
    box: tuple[int, int, int, int] | None
    """CutMix: top, left, bottom, right of the partner's part, in pixels; None is mixup."""


def draw_mix(
    size: tuple[int, int],
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    seed: int,
    step: int,
    part: int = 0,
) -> Mix | None:
    """Draw the mix for a batch of images of `size` (height, width); None where both alphas are 0.

    Mixup takes its share from Beta(alpha, alpha) (Zhang et al. 2018); CutMix takes 1 − the box's
    area from it, the centre anywhere, and what is outside the image is cut off and not counted
    (Yun et al. 2019, 3.1). With both, each batch takes one of them with equal chance, as timm and
    torchvision do. A pure function of (seed, step, part): `part` distinguishes the batches of
    one step, such as those of several processes.
    """
    if mixup_alpha == 0 and cutmix_alpha == 0:
        return None
    # (seed, step, part) alone would be the sequence of a sample of epoch `step`
    sequence = np.random.SeedSequence((seed, step, part), spawn_key=(1,))
    draw = np.random.Generator(np.random.PCG64(sequence))
    coin = draw.random()
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or coin < 0.5)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = float(draw.beta(alpha, alpha))
    if not cut:
        return Mix(share, None)
    height, width = size
    half = 0.5 * math.sqrt(1.0 - share)
    y, x = int(draw.integers(height)), int(draw.integers(width))
    top, bottom = max(0, y - int(half * height)), min(height, y + int(half * height))
    left, right = max(0, x - int(half * width)), min(width, x + int(half * width))
    area = (bottom - top) * (right - left)
    return Mix(1.0 - area / (height * width), (top, left, bottom, right))


def mix_batch(
    images: Tensor, labels: Tensor, mix: Mix, *, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mixed images (B, 3, H, W) and their targets (B, K) float32, rows of sum 1.

    `images` are normalised, `labels` (B,) int64. Image i is mixed with image B − 1 − i, as in timm.
    An image without a label (−1: broken) has zeros for targets, and a partner without one leaves an
    image as it is.
    """
    partners = labels.flip(0)
    paired = partners >= 0
    own = torch.where(paired, mix.share, 1.0)[:, None]
    targets = soft_targets(labels, num_classes)
    mixed_targets = own * targets + (1.0 - own) * soft_targets(partners, num_classes)
    mixed_targets = torch.where(labels[:, None] >= 0, mixed_targets, targets)
    if mix.box is None:
        weight = own.to(images.dtype)[:, :, None, None]
        return torch.lerp(images.flip(0), images, weight), mixed_targets
    top, left, bottom, right = mix.box
    mixed = images.clone()
    inside = mixed[:, :, top:bottom, left:right]
    theirs = images.flip(0)[:, :, top:bottom, left:right]
    inside.copy_(torch.where(paired[:, None, None, None], theirs, inside))
    return mixed, mixed_targets


def erase(
    images: Tensor, *, prob: float, noise: bool, keys: Tensor, seed: int, step: int
) -> Tensor:
    """Normalised images (B, 3, H, W), each with chance `prob` of a random box being filled.

    Zhong et al. 2020, algorithm 1, with torchvision's ranges. `noise` fills with a standard normal
    number a value, as timm does; else with 0, which is the mean, as torchvision does. A pure
    function of (seed, step, key); `keys` are (B,) int64, distinct within the step.
    """
    height, width = images.shape[2:]
    top, left, box_height, box_width = _erase_boxes(
        keys, height, width, prob=prob, seed=seed, step=step
    )
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    inside_rows = (rows >= top[:, None]) & (rows < (top + box_height)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + box_width)[:, None])
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    if not noise:
        return images.masked_fill(inside, 0.0)
    noisy = _noise(images, keys, seed=seed, step=step)
    # into a tensor that has the memory layout of the images
    return torch.where(inside, noisy, images, out=torch.empty_like(images))


def _erase_boxes(
    keys: Tensor, height: int, width: int, *, prob: float, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width (B,) int64 of the boxes; a height of 0 where none is drawn."""

    def draw(stream: int, of: Tensor) -> Tensor:
        return uniform(of, seed=seed, step=step, stream=50 + stream)

    # A try has its own key, far from those of other images.
    tries = keys[:, None] * 0x9E3779B1 + torch.arange(ERASE_TRIES, device=keys.device)
    low, high = ERASE_AREA
    area = (low + (high - low) * draw(0, tries)) * (height * width)
    low, high = math.log(ERASE_RATIO[0]), math.log(ERASE_RATIO[1])
    ratio = torch.exp(low + (high - low) * draw(1, tries))
    heights = torch.sqrt(area * ratio).round().long()
    widths = torch.sqrt(area / ratio).round().long()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    box_height, box_width, fits_any = (x.gather(1, first)[:, 0] for x in (heights, widths, fits))
    erased = fits_any & (draw(2, keys) < prob)
    top = (draw(3, keys) * (height - box_height + 1)).long()
    left = (draw(4, keys) * (width - box_width + 1)).long()
    return top, left, torch.where(erased, box_height, 0), box_width


def _noise(images: Tensor, keys: Tensor, *, seed: int, step: int) -> Tensor:
    """Normal noise of the shape and type of `images` (B, C, H, W).

    One sheet of noise serves the step, and each image reads it from its own place on: a hash for
    every value of a batch would cost more than everything else here.
    """
    batch, channels, height, width = images.shape
    pixels = height * width
    places = torch.arange(pixels * channels, device=images.device)
    sheet = normal(places, seed=seed, step=step, stream=60).to(images.dtype)
    start = (uniform(keys, seed=seed, step=step, stream=61) * pixels).long()
    chosen = (places[:pixels] + start[:, None]) % pixels  # (B, H·W)
    noise = sheet.view(pixels, channels)[chosen].view(batch, height, width, channels)
    return noise.permute(0, 3, 1, 2)
