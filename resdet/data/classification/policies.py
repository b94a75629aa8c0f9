"""Augmentation policies: TrivialAugment (wide) and RandAugment with increasing strength.

Operations are Pillow's. All randomness comes from the given generator.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

Color = tuple[int, int, int]

IMAGENET_GRAY: Color = (124, 116, 104)
"""ImageNet's mean colour, with which timm fills the uncovered area."""

BLACK: Color = (0, 0, 0)


def _affine(image: Image.Image, matrix: tuple[float, ...], look: dict[str, Any]) -> Image.Image:
    """`matrix`: the six numbers that map output coordinates to input coordinates."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **look)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the highest bits, 0..8; ImageOps.posterize refuses 0, which makes an image black."""
    kept = 256 - (1 << (8 - bits))
    return image.point([i & kept for i in range(256)] * len(image.getbands()))


def _solarize_add(image: Image.Image, value: float) -> Image.Image:
    """Add `value` to the darker half of the values."""
    table = [min(255, i + int(value)) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


# Arguments are the image, the value and, for pixels that move, `resample` and `fillcolor`.
_OPS: dict[str, Callable[[Image.Image, float, dict[str, Any]], Image.Image]] = {
    "Identity": lambda image, value, look: image,
    "ShearX": lambda image, value, look: _affine(image, (1, value, 0, 0, 1, 0), look),
    "ShearY": lambda image, value, look: _affine(image, (1, 0, 0, value, 1, 0), look),
    "TranslateX": lambda image, value, look: _affine(image, (1, 0, -value, 0, 1, 0), look),
    "TranslateY": lambda image, value, look: _affine(image, (1, 0, 0, 0, 1, -value), look),
    "Rotate": lambda image, value, look: image.rotate(value, **look),
    "Brightness": lambda image, value, look: ImageEnhance.Brightness(image).enhance(value),
    "Color": lambda image, value, look: ImageEnhance.Color(image).enhance(value),
    "Contrast": lambda image, value, look: ImageEnhance.Contrast(image).enhance(value),
    "Sharpness": lambda image, value, look: ImageEnhance.Sharpness(image).enhance(value),
    "Posterize": lambda image, value, look: _posterize(image, int(value)),
    "Solarize": lambda image, value, look: ImageOps.solarize(image, value),  # type: ignore[arg-type]
    "SolarizeAdd": lambda image, value, look: _solarize_add(image, value),
    "AutoContrast": lambda image, value, look: ImageOps.autocontrast(image),
    "Equalize": lambda image, value, look: ImageOps.equalize(image),
    "Invert": lambda image, value, look: ImageOps.invert(image),
}


def apply_op(
    image: Image.Image,
    name: str,
    value: float,
    *,
    resample: Image.Resampling = BILINEAR,
    fill: Color = BLACK,
) -> Image.Image:
    """One operation on an RGB image.

    `value` is a slope (Shear), pixels to the right or down (Translate), degrees counterclockwise
    (Rotate), a factor where 1 changes nothing (Brightness, Color, Contrast, Sharpness), bits to
    keep (Posterize), a threshold 0..256 (Solarize) or the number added (SolarizeAdd); others
    ignore it.
    """
    return _OPS[name](image, value, {"resample": resample, "fillcolor": fill})


BINS = 31
"""Number of strengths that TrivialAugment draws from."""

FACTORS = ("Brightness", "Color", "Contrast", "Sharpness")

# (values by strength, whether the sign is random): the wide space of Müller & Hutter (2021), with
# the numbers of torchvision's TrivialAugmentWide. Factors are 1 ± value.
TRIVIAL_SPACE: dict[str, tuple[NDArray[np.float64], bool]] = {
    "Identity": (np.zeros(1), False),
    "ShearX": (np.linspace(0, 0.99, BINS), True),
    "ShearY": (np.linspace(0, 0.99, BINS), True),
    "TranslateX": (np.linspace(0, 32, BINS).astype(int).astype(float), True),
    "TranslateY": (np.linspace(0, 32, BINS).astype(int).astype(float), True),
    "Rotate": (np.linspace(0, 135, BINS), True),
    **dict.fromkeys(FACTORS, (np.linspace(0, 0.99, BINS), True)),
    "Posterize": (8 - np.round(np.arange(BINS) / ((BINS - 1) / 6)), False),
    "Solarize": (np.linspace(255, 0, BINS), False),
    "AutoContrast": (np.zeros(1), False),
    "Equalize": (np.zeros(1), False),
}


class TrivialAugment:
    """One operation per image and its strength, both drawn uniformly (Müller & Hutter 2021)."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """An RGB image; uncovered areas are black, as in torchvision."""
        name = list(TRIVIAL_SPACE)[rng.integers(len(TRIVIAL_SPACE))]
        values, signed = TRIVIAL_SPACE[name]
        value = float(values[rng.integers(len(values))])
        if signed and rng.random() < 0.5:
            value = -value
        return apply_op(image, name, 1 + value if name in FACTORS else value)


STRONGEST = 10.0

OP_PROB = 0.5
"""Chance that RandAugment applies a drawn operation (timm's)."""

# timm's "increasing" set: the value of each operation by its signed strength, -1..1, and the
# image's (width, height); at 0 it changes nothing, or least.
_RAND_VALUES: dict[str, Callable[[float, tuple[int, int]], float]] = {
    "AutoContrast": lambda strength, size: 0.0,
    "Equalize": lambda strength, size: 0.0,
    "Invert": lambda strength, size: 0.0,
    "Rotate": lambda strength, size: 30.0 * strength,
    "Posterize": lambda strength, size: 4 - int(4 * abs(strength)),
    "Solarize": lambda strength, size: 256 - min(256, int(256 * abs(strength))),
    "SolarizeAdd": lambda strength, size: min(128, int(110 * abs(strength))),
    **dict.fromkeys(
        ("Color", "Contrast", "Brightness", "Sharpness"),
        lambda strength, size: max(0.1, 1 + 0.9 * strength),
    ),
    "ShearX": lambda strength, size: 0.3 * strength,
    "ShearY": lambda strength, size: 0.3 * strength,
    "TranslateX": lambda strength, size: 0.45 * strength * size[0],
    "TranslateY": lambda strength, size: 0.45 * strength * size[1],
}
RAND_OPS = tuple(_RAND_VALUES)


def rand_value(name: str, strength: float, sign: int, size: tuple[int, int]) -> float:
    """The value of an operation of `RAND_OPS` at a strength of 0..10; `size` is (width, height)."""
    return _RAND_VALUES[name](sign * strength / STRONGEST, size)


class RandAugment:
    """Operations drawn with replacement, as in timm's rand-m{magnitude}-mstd{std}-inc1.

    Unlike Cubuk et al. (2020), each operation is applied with a chance of one half, and its
    strength is drawn from a normal distribution, clipped to 0..10. Interpolation is bilinear or
    bicubic, at random.

    Args:
        num_ops: operations per image.
        magnitude, std: mean and deviation of the strength.
        fill: colour of uncovered areas.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 9.0,
        std: float = 0.5,
        fill: Color = IMAGENET_GRAY,
    ) -> None:
        self.num_ops, self.magnitude, self.std, self.fill = num_ops, magnitude, std, fill

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """An RGB image."""
        for choice in rng.integers(len(RAND_OPS), size=self.num_ops).tolist():
            if rng.random() >= OP_PROB:
                continue
            name = RAND_OPS[choice]
            strength = min(max(rng.normal(self.magnitude, self.std), 0.0), STRONGEST)
            sign = 1 if rng.random() < 0.5 else -1
            resample = BILINEAR if rng.random() < 0.5 else BICUBIC
            value = rand_value(name, strength, sign, image.size)
            image = apply_op(image, name, value, resample=resample, fill=self.fill)
        return image
