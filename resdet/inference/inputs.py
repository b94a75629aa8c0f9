"""What a user may give as an image, as one RGB array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from resdet.data.image import decode_image, read_image
from resdet.errors import UserError

ImageInput = str | Path | Image.Image | np.ndarray


def to_rgb(image: ImageInput) -> np.ndarray:
    """(H, W, 3) uint8 RGB from a path, a Pillow image, or such an array.

    Files and Pillow images are turned upright by their EXIF orientation and converted from gray,
    palette, CMYK and more than 8 bits. An array is taken as it is: that its channels are RGB and
    not OpenCV's BGR cannot be seen in it. Raises UserError that says what is wrong with an array.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return decode_image(image)
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"an image is a path, a Pillow image or an (H, W, 3) uint8 RGB array, not a "
            f"{type(image).__module__}.{type(image).__name__}"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"the image array has shape {image.shape}, expected (height, width, 3); repeat a gray "
            f"channel three times, drop alpha, move channels last"
        )
    if image.dtype != np.uint8:
        raise UserError(
            f"the image array is {image.dtype}, expected uint8 with values 0..255; scale and "
            f"convert it (a float image in 0..1: (image * 255).astype('uint8'))"
        )
    if 0 in image.shape:
        raise UserError(f"the image array has shape {image.shape} and no pixels")
    return np.ascontiguousarray(image)
