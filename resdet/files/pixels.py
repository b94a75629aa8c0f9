"""Resizes pixels, and arranges them plane by plane for a batch."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image


def output_size(height: int, width: int, short_edge: float, max_size: float) -> tuple[int, int]:
    """(height, width) of short side `short_edge`, or less where the long would pass `max_size`.

    Rounded as Detectron2's ResizeShortestEdge does.
    """
    scale = short_edge / min(height, width)
    if height < width:
        new_height, new_width = float(short_edge), scale * width
    else:
        new_height, new_width = scale * height, float(short_edge)
    longest = max(new_height, new_width)
    if longest > max_size:
        new_height, new_width = new_height * (max_size / longest), new_width * (max_size / longest)
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def resize_exactly(
    image: NDArray[np.uint8], height: int, width: int, interpolation: str = "bilinear"
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 to (height, width, 3), by Pillow's antialiased bilinear or bicubic filter."""
    if image.shape[:2] == (height, width):
        return image
    resample = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


MUCH_LARGER = 16
"""How many times the area of a crop a resized image may have; of longer ones only the crop is
made, which differs by a rounding of the filter's weights."""


def resize_parts(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    corners: Sequence[tuple[int, int]],
    side: int,
    interpolation: str = "bilinear",
) -> list[NDArray[np.uint8]]:
    """The squares of `side` pixels at `corners` (top, left) of (H, W, 3) resized to `size` as
    `resize_exactly` does.

    A strip of 3 × 20,000 pixels, resized to a short side of 256, would have 400 million pixels.
    """
    if size[0] * size[1] <= MUCH_LARGER * side * side:
        resized = resize_exactly(image, *size, interpolation)
        return [resized[top : top + side, left : left + side] for top, left in corners]
    height, width = image.shape[:2]
    down, across = height / size[0], width / size[1]
    picture, resample = Image.fromarray(image), Image.Resampling[interpolation.upper()]
    parts = []
    for top, left in corners:
        right, bottom = min((left + side) * across, width), min((top + side) * down, height)
        box = (left * across, top * down, right, bottom)
        parts.append(np.asarray(picture.resize((side, side), resample, box=box)))
    return parts


def resize_antialiased(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    interpolation: str = "bilinear",
) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 resized to `size` (height, width), for training.

    PyTorch's antialiased bilinear filter is Pillow's with weights of 16 bits, so that one value in
    a thousand differs, by 1 and at most by 2, and takes an eighth of its time; its bicubic one
    differs by up to 9 levels, so that is Pillow's.
    """
    if interpolation == "bicubic":
        return resize_exactly(pixels, *size, interpolation)
    if not (pixels.flags.writeable and pixels.flags.c_contiguous):
        pixels = pixels.copy()  # torch warns of arrays that it could not write to
    # The batch axis comes first: added after the permutation, its stride would hide from torch that
    # pixels are contiguous, and copying to planes would take twice the time.
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(batch, size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def to_planes(image: NDArray[np.uint8] | NDArray[np.float32]) -> torch.Tensor:
    """(H, W, 3) → (3, H, W), contiguous, in memory of its own."""
    planes = np.empty((3, *image.shape[:2]), image.dtype)
    # OpenCV takes pixels apart in a tenth of numpy's time
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)


def resize_image(
    image: NDArray[np.uint8], short_edge: float, max_size: float, method: str = "pillow"
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Resizes (H, W, 3) uint8 as at test time; the scale of each side is its new over its old.

    `method` pillow gives uint8, float gives float32, both 0..255; see `data.test_resize.method`.
    """
    assert method in ("pillow", "float"), method
    if method == "float":
        return _resize_as_floats(image, short_edge, max_size)
    height, width = image.shape[:2]
    return resize_exactly(image, *output_size(height, width, short_edge, max_size))


def resize_by(
    image: NDArray[np.uint8], factor: float, method: str = "pillow"
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Resizes (H, W, 3) uint8 by a factor, as `resize_image` does."""
    if factor == 1 and method == "pillow":
        return image
    return resize_image(image, factor * min(image.shape[:2]), math.inf, method)


def prepare_image(
    image: NDArray[np.uint8],
    short_edge: float,
    max_size: float,
    method: str,
    factor: float | None = None,
) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, h, w) 0..255 as a detector sees it: by `resize_image`, or with a
    `factor`, which tiles have, by `resize_by`."""
    if factor is not None:
        return to_planes(resize_by(image, factor, method))
    return to_planes(resize_image(image, short_edge, max_size, method))


def _resize_as_floats(
    image: NDArray[np.uint8], short_edge: float, max_size: float
) -> NDArray[np.float32]:
    """(H, W, 3) uint8 to float32 as torchvision's GeneralizedRCNNTransform does.

    Both sides times one scale, rounded down, and bilinear without antialiasing. Its pixels are
    normalised before and ours after, which is the same except for rounding.
    """
    height, width = image.shape[:2]
    scale = min(short_edge / min(height, width), max_size / max(height, width))
    size = [max(math.floor(side * scale), 1) for side in (height, width)]
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
    resized = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
    floats: NDArray[np.float32] = resized.permute(1, 2, 0).numpy()
    return floats
