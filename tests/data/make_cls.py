"""Small folders of labelled images, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 40, width: int = 60) -> Image.Image:
    """Smooth colours, as JPEG likes them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_classes(root: Path, counts: Mapping[str, int], suffix: str = ".jpg") -> Path:
    """One folder a class with that many images of 60×40 pixels, 0.jpg, 1.jpg, …"""
    for position, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(100 * position + number).save(root / name / f"{number}{suffix}")
    return root
