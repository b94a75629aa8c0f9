"""Masks as image files: the stored values, which no conversion to colours or 8 bits may touch."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.files import tiff
from resdet.files.bit_depth import check_chunks
from resdet.files.image_header import PNG_MAGIC, check_pixels
from resdet.files.image_limits import MAX_PIXELS, ImageError
from resdet.files.images import EncodedImage, named_errors, turn_upright
from resdet.files.regular import open_regular

LOSSY = ("JPEG", "MPO")
"""Formats that change values as they pack them."""

HINT = "the folder of the masks"
BITS_PER_SAMPLE = 258
"""TIFF's tag."""


def read_labels(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """(H, W) whole numbers of a mask file: gray levels of any depth, or indices of a palette.

    Files of three equal channels count as gray. An alpha channel is dropped.

    Raises:
        DataError: the file is missing, no image, damaged, too large or packed as JPEG, it has
            colours, or values that are not whole numbers from 0; it names the file.
    """
    with named_errors(str(path)), open_regular(path, "mask", HINT) as file:
        data = file.read()
    return labels_of(data, str(path), max_pixels)


def labels_of(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """`read_labels` of the bytes of a file, which messages call `name`."""
    with named_errors(name):
        values = _gray_png(data, max_pixels)
        if values is None:
            values = _other(EncodedImage(data, name, max_pixels))
        if values.ndim == 3:
            gray = values[:, :, 0]
            if any((values[:, :, band] != gray).any() for band in range(1, 3)):
                raise ImageError("has colours, where a mask has one number per pixel; write it so")
            values = gray
        if values.dtype.kind == "f":
            whole = np.where(np.isfinite(values), values, -1).astype(np.int64)
            if (whole != values).any():
                raise ImageError("has values that are not whole numbers; write it as 16-bit PNG")
            values = whole
        if values.dtype.kind == "i" and values.min(initial=0) < 0:
            raise ImageError("has negative values; number objects from 1, background is 0")
        if values.dtype == np.bool_:  # Pillow's true is a byte of 255
            return (values.view(np.uint8) > 0).view(np.uint8)
        return values


def _gray_png(data: bytes, max_pixels: int) -> NDArray[Any] | None:
    """(H, W) of a PNG file in gray of 8 or 16 bits, or (H, W, channels) of one in colours of 16;
    None for others. OpenCV decodes outside Python's lock."""
    if not data.startswith(PNG_MAGIC) or b"eXIf" in data:
        return None
    if data[24:26] != b"\x08\x00" and data[24:25] != b"\x10":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    check_pixels(height, width, max_pixels)
    check_chunks(data)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if values is None else _colours(np.asarray(values))


def _other(image: EncodedImage) -> NDArray[Any]:
    header = image.header
    if header.layout is not None and header.layout.is_deep:
        values = tiff.decode(image.data, header.layout)
    elif header.image is None:
        raise ImageError("is of a kind that holds no masks; write it as PNG")
    elif header.image.format in LOSSY:
        raise ImageError(
            "is a JPEG file, which changes the values at borders; export the masks as PNG"
        )
    else:
        header.image.load()
        values = np.asarray(header.image)
        if (scale := _scale(image)) > 1:
            values = values // scale
    return turn_upright(_colours(values), header.orientation)


def _scale(image: EncodedImage) -> int:
    """By what Pillow multiplies gray values of 2 and 4 bits, so that they fill 8."""
    assert image.header.image is not None
    if image.header.image.mode not in ("L", "LA"):
        return 1
    bits = 8
    if image.data.startswith(PNG_MAGIC):
        bits = image.data[24] if image.data[25] == 0 else 8
    elif image.header.image.format == "TIFF":
        bits = getattr(image.header.image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))[0]
    return 255 // ((1 << bits) - 1) if bits in (2, 4) else 1


def _colours(values: NDArray[Any]) -> NDArray[Any]:
    """Without alpha: (H, W) of one or two channels, (H, W, 3) of more."""
    if values.ndim == 2:
        return values
    return values[:, :, :3] if values.shape[2] >= 3 else values[:, :, 0]
