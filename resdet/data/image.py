"""Image files to RGB arrays of 8 bits, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resdet.data.findings import DataError

WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes of more than 8 bits a channel."""

BIT_DEPTHS = (8, 10, 12, 14, 16)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as (H, W, 3) uint8 RGB, upright.

    The EXIF orientation is applied, gray is repeated, palettes and CMYK are converted, alpha is
    dropped (as Detectron2 and torchvision do, so hidden colours show), of several frames the first
    is taken. More than 8 bits a channel are scaled by `to_8_bits`. Decoding is Pillow's, whose
    pixels Detectron2's published numbers were measured on.

    Raises:
        DataError: the file is missing, cut short, or no image; it names the file.
    """
    try:
        with Image.open(path) as image:
            return decode_image(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file; check the image folder") from error
    except UnidentifiedImageError as error:
        array = _read_with_opencv(path)
        if array is None:
            raise DataError(f"{path}: not an image that can be read; replace it") from error
        return array
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; cut it into tiles") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{path}: damaged image file ({error}); replace it") from error


def decode_image(image: Image.Image) -> NDArray[np.uint8]:
    """A Pillow image as (H, W, 3) uint8 RGB, by the rules of `read_image`."""
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in WIDE_MODES:
        return _gray_to_rgb(to_8_bits(np.asarray(image)))
    if image.mode == "L":
        return _gray_to_rgb(np.asarray(image))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _read_with_opencv(path: str | Path) -> NDArray[np.uint8] | None:
    """What Pillow does not know, such as TIFF with 16 bits and three channels; None if no image."""
    data = np.fromfile(path, dtype=np.uint8)
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR  # three channels, upright
    array = cv2.imdecode(data, flags) if len(data) else None
    if array is None:
        return None
    return np.ascontiguousarray(to_8_bits(array)[:, :, ::-1])


def _gray_to_rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)


def to_8_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scales an array of any depth to 0..255 by its depth, so that brightness keeps a meaning.

    Whole numbers are taken to have the smallest of 8, 10, 12, 14 and 16 bits that holds the largest
    of them (cameras and microscopes store 12 bits in files of 16), and full scale becomes 255.
    Anything else (fractions, negative or larger numbers) is stretched from least to greatest.
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    wide = np.nan_to_num(values.astype(np.float64))
    low, high = float(wide.min()), float(wide.max())
    whole = np.issubdtype(values.dtype, np.integer)
    if whole and low >= 0 and high < 2 ** BIT_DEPTHS[-1]:
        bits = next(bits for bits in BIT_DEPTHS if high < 2**bits)
        low, high = 0.0, float(2**bits - 1)
    scale = 255.0 / (high - low) if high > low else 0.0
    return ((wide - low) * scale + 0.5).astype(np.uint8)
