"""Batches of images on the device that holds them: normalisation, crops, colours and mixes.

Nothing here reads a value back from the device. Mixup and CutMix use one random draw per batch,
made on the host; the others draw for each image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resdet.ops.sampler import normal, uniform


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
