"""Crops, flips and colours of images to classify; the output is uint8 of one size.

Mixing, erasing, colour noise and normalisation follow on the device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from resdet.files.findings import DataError
from resdet.files.images import REDUCTIONS, EncodedImage
from resdet.files.pixels import resize_antialiased, resize_exactly, resize_parts

SIDE_STEP = 32
"""Sides that grow during training are multiples of this, so that there are few of them."""

TRIES = 10
"""Boxes that a random resized crop draws before it takes the centre."""

Policy = Callable[[Image.Image, np.random.Generator], Image.Image]
"""`TrivialAugment` or `RandAugment` of `resdet.data.classification.policies`."""


Interpolation = Literal["bilinear", "bicubic"]


class ClassificationTransform(Protocol):
    """`ClassificationTrainTransform` or `ClassificationTestTransform`."""

    def side(self, epoch: int) -> int:
        """S, the side of the output in pixels."""
        ...

    def __call__(self, image: EncodedImage, *, epoch: int, seed: np.random.SeedSequence) -> Tensor:
        """(3, S, S) uint8 RGB.

        Raises:
            DataError: the image is damaged.
        """
        ...


Crop = Callable[[EncodedImage, int, np.random.Generator], NDArray[np.uint8]]
"""One of the crops below: an image and a side to (side, side, 3) RGB."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and shape, resized (Szegedy et al. 2015), drawn as in torchvision.

    `scale` is the range of its area relative to the image, `ratio` of its width / height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    def __call__(
        self, image: EncodedImage, side: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        return resized_crop(image, self.box(image.size, rng), (side, side), self.interpolation)

    def box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) in an image of `size` (height, width)."""
        full_height, full_width = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(TRIES):
            area = full_height * full_width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= full_width and 0 < height <= full_height:
                top = int(rng.integers(full_height - height + 1))
                left = int(rng.integers(full_width - width + 1))
                return top, left, height, width
        # No box fits a very long image: its centre, with the closest ratio.
        height, width = full_height, full_width
        if width / height < self.ratio[0]:
            height = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            width = max(1, round(height * self.ratio[1]))
        return (full_height - height) // 2, (full_width - width) // 2, height, width


@dataclass(frozen=True)
class ScaleJitter:
    """A random short side, then a random square (Simonyan & Zisserman 2015; He et al. 2016, 3.4).

    `short_edges` is the range of the short side for squares of `size`, and scales with the side.

    Raises:
        DataError: a short side would be smaller than the square.
    """

    short_edges: tuple[int, int] = (256, 480)
    size: int = 224
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.short_edges[0] < self.size:
            raise DataError(
                f"data.augment.short_edges starts at {self.short_edges[0]} pixels, less than the "
                f"{self.size} of data.size that are cropped; raise it or lower data.size"
            )

    def __call__(
        self, image: EncodedImage, side: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        low, high = self.short_edges
        short = round(int(rng.integers(low, high + 1)) * side / self.size)
        height, width = short_edge_size(image.size, max(short, side))
        full = resized_crop(image, (0, 0, *image.size), (height, width), self.interpolation)
        top = int(rng.integers(height - side + 1))
        left = int(rng.integers(width - side + 1))
        return full[top : top + side, left : left + side]


@dataclass(frozen=True)
class CenterCrop:
    """As in the test: the short side resized to `resize` for squares of `size`, and the centre."""

    resize: int = 256
    size: int = 224
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        check_test_sizes(self.resize, self.size)

    def __call__(
        self, image: EncodedImage, side: int, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        resize = max(side, round(self.resize * side / self.size))
        return center_crop(image.pixels(), resize, side, self.interpolation)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors of 1 ± strength, in random order."""

    strength: float

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        factors = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength, size=3)
        for i in rng.permutation(3).tolist():
            image = enhancers[i](image).enhance(float(factors[i]))
        return image


class ClassificationTrainTransform:
    """Crop, flip, policy and colours, all random.

    Args:
        size: side of the output in pixels.
        crop: `RandomResizedCrop`, `ScaleJitter` or `CenterCrop`.
        flip_prob: chance of a horizontal flip.
        policy: `TrivialAugment` or `RandAugment`, if any.
        color_jitter: strength of `ColorJitter`; 0 is off.
        progressive: points (epoch, side); see `progressive_side`.
        repeats: repeated augmentation, which a key's epoch counts too (`loader.Key`).
    """

    def __init__(
        self,
        size: int = 224,
        *,
        crop: Crop,
        flip_prob: float = 0.5,
        policy: Policy | None = None,
        color_jitter: float = 0.0,
        progressive: Sequence[Sequence[float]] = (),
        repeats: int = 1,
    ) -> None:
        self.size, self.crop, self.flip_prob, self.repeats = size, crop, flip_prob, repeats
        self.policies: list[Policy] = [] if policy is None else [policy]
        if color_jitter:
            self.policies.append(ColorJitter(color_jitter))
        self.progressive = [(float(epoch), float(side)) for epoch, side in progressive]

    def side(self, epoch: int) -> int:
        return progressive_side(self.progressive, epoch // self.repeats, self.size)

    def __call__(self, image: EncodedImage, *, epoch: int, seed: np.random.SeedSequence) -> Tensor:
        rng = np.random.default_rng(seed)
        pixels = self.crop(image, self.side(epoch), rng)
        if rng.random() < self.flip_prob:
            pixels = np.asarray(cv2.flip(pixels, 1), np.uint8)
        if self.policies:
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            for policy in self.policies:
                picture = policy(picture, rng)
            pixels = np.asarray(picture)
        return to_tensor(pixels)


class ClassificationTestTransform:
    """The short side resized and the centre cropped: torchvision's geometry, Pillow's pixels.

    Args:
        resize: short side in pixels.
        size: side of the crop; None keeps the whole image, for batches of one.
    Raises:
        DataError: the crop is larger than the image.
    """

    def __init__(
        self,
        resize: int = 256,
        size: int | None = 224,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        if size is not None:
            check_test_sizes(resize, size)
        self.resize, self.size, self.interpolation = resize, size, interpolation

    def side(self, epoch: int) -> int:
        return self.resize if self.size is None else self.size

    def __call__(self, image: EncodedImage, *, epoch: int, seed: np.random.SeedSequence) -> Tensor:
        if self.size is None:
            return to_tensor(resize_short_edge(image.pixels(), self.resize, self.interpolation))
        return to_tensor(center_crop(image.pixels(), self.resize, self.size, self.interpolation))


def progressive_side(points: Sequence[Sequence[float]], epoch: int, size: int) -> int:
    """The side in pixels of all images of an epoch, counted from 0.

    Interpolated between points (epoch, side), constant before the first and after the last, and
    rounded to the nearest multiple of 32. Without points it is `size`.
    """
    if not points:
        return size
    epochs, sides = zip(*points, strict=True)
    side = float(np.interp(epoch, epochs, sides))
    return max(1, math.floor(side / SIDE_STEP + 0.5)) * SIDE_STEP


def check_test_sizes(resize: int, size: int) -> None:
    """DataError if the crop is larger than the resized image."""
    if resize < size:
        raise DataError(
            f"data.test_resize {resize} is less than data.test_size {size}: the crop would be "
            "larger than the image; raise the first or lower the second"
        )


def short_edge_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(height, width) with the short side resized to `short`, rounded down as in torchvision."""
    height, width = size
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def resize_short_edge(
    pixels: NDArray[np.uint8], short: int, interpolation: Interpolation = "bilinear"
) -> NDArray[np.uint8]:
    """(H, W, 3) resized by Pillow's antialiased filter."""
    size = short_edge_size((pixels.shape[0], pixels.shape[1]), short)
    return resize_exactly(pixels, *size, interpolation)


def center_crop(
    pixels: NDArray[np.uint8], short: int, side: int, interpolation: Interpolation = "bilinear"
) -> NDArray[np.uint8]:
    """The centre (side, side, 3) of (H, W, 3) resized to a short side of `short`."""
    size = short_edge_size((pixels.shape[0], pixels.shape[1]), short)
    (crop,) = resize_parts(pixels, size, [center_corner(size, side)], side, interpolation)
    return crop


def center_corner(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(top, left) of a square in the centre of (height, width), at torchvision's position."""
    return round((size[0] - side) / 2), round((size[1] - side) / 2)


def resized_crop(
    image: EncodedImage,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.uint8]:
    """A box (top, left, height, width) resized to `size` (height, width), for training.

    A JPEG file whose box is two, four or eight times as large as needed is decoded at that fraction
    of its size, with the box rounded to its pixels.
    """
    top, left, height, width = box
    spare = min(height // size[0], width // size[1])
    pixels = image.fast_pixels(max(r for r in REDUCTIONS if r <= max(1, spare)))
    rows = _scaled(top, height, pixels.shape[0], image.size[0])
    columns = _scaled(left, width, pixels.shape[1], image.size[1])
    return resize_antialiased(pixels[rows, columns], size, interpolation)


def _scaled(first: int, length: int, pixels: int, full: int) -> slice:
    """An interval of an axis of `full` pixels, scaled to an axis of `pixels`."""
    begin = min(round(first * pixels / full), pixels - 1)
    return slice(begin, max(begin + 1, round((first + length) * pixels / full)))


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) → (3, H, W) without a copy, as `collate_classification` expects."""
    if not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = pixels.copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)
