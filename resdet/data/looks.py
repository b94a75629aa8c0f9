"""What images look like, measured as their pixels are read: content, light, sharpness, colour."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.files.images import EncodedImage

logger = logging.getLogger("resdet")

THUMB = 32
"""Side of the small gray image that stands for the whole one."""

LOOK = np.dtype(
    [
        ("digest", np.uint64),  # of the file's bytes
        ("hash", np.uint64),  # of the coarse structure; a bit for each of 64 frequencies
        ("thumb", np.uint8, (THUMB, THUMB)),
        ("height", np.int32),
        ("width", np.int32),
        ("high", np.float32),  # the luminance that 1 % of the pixels pass, 0..255
        ("low", np.float32),  # the luminance that 99 % of them pass
        ("spread", np.float32),  # standard deviation of the luminance
        ("sharpness", np.float32),  # variance of the Laplacian
        ("softness", np.float32),  # share of the Laplacian that a further blur leaves, 0..1
        ("chroma", np.float32),  # mean difference of the largest and smallest channel, 0..255
    ]
)
"""One image; luminance and Laplacian are of the image with a long side of at most `SEEN` pixels."""

Looks = NDArray[np.void]
"""(N,) of `LOOK`."""

SEEN = 512
"""Pixels of the long side at which light and sharpness are measured: blur below this scale is
hardly visible to a network, and images of different sizes compare."""

REPORT_EVERY = 10.0
"""Seconds between lines on how many images have been read."""


def look_at(image: EncodedImage) -> Any:
    """The `LOOK` of an image file.

    Raises:
        DataError: the file is damaged or cut short.
    """
    return measure(image.pixels(), image.data)


def measure(pixels: NDArray[np.uint8], data: bytes) -> Any:
    """The `LOOK` of pixels (H, W, 3) RGB and of the file they came from."""
    look = np.zeros((), LOOK)
    height, width = pixels.shape[:2]
    look["digest"] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    look["height"], look["width"] = height, width
    scale = SEEN / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    counts = np.bincount(gray.reshape(-1), minlength=256)
    below = np.cumsum(counts)
    look["high"] = np.searchsorted(below, 0.99 * below[-1])
    look["low"] = np.searchsorted(below, 0.01 * below[-1])
    look["spread"] = gray.std()
    edges = cv2.Laplacian(gray, cv2.CV_32F)
    softer = cv2.Laplacian(cv2.GaussianBlur(gray, (0, 0), 1.0), cv2.CV_32F)
    look["sharpness"] = edges.var()
    look["softness"] = softer.std() / max(float(edges.std()), 1e-6)
    look["chroma"] = (pixels.max(axis=2) - pixels.min(axis=2)).mean()
    thumb = cv2.resize(gray, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    look["thumb"] = thumb
    look["hash"] = structure_hash(np.asarray(thumb, np.uint8))
    return look


def structure_hash(thumb: NDArray[np.uint8]) -> int:
    """64 bits: which of the lowest 8 × 8 frequencies of a gray image (32, 32) are above their
    median (the "pHash" of Zauner 2010, as imagehash.phash computes it)."""
    low = cv2.dct(thumb.astype(np.float32))[:8, :8]
    bits = (low > np.median(low)).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look_at_all(
    count: int, look: Callable[[int], tuple[Any, str | None]], where: str
) -> tuple[Looks, dict[int, str]]:
    """The looks of `count` images, and what is wrong with each that can't be used, by position.

    `look` gives an image's `LOOK`, or None, and what is wrong with it; it is called by several
    threads. `where` names the images in the log, which shows how far it is.
    """
    looks, problems = np.zeros(count, LOOK), {}
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        for row, (found, problem) in _reported(pool.map(look, range(count)), count, where):
            if found is not None:
                looks[row] = found
            if problem is not None:
                problems[row] = problem
    return looks, problems


def _reported(results: Iterator[Any], count: int, where: str) -> Iterator[tuple[int, Any]]:
    last = time.monotonic()
    for row, result in enumerate(results):
        if time.monotonic() - last > REPORT_EVERY:
            last = time.monotonic()
            logger.info("%s: %s of %s images read", where, f"{row:,}", f"{count:,}")
        yield row, result
