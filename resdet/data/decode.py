"""Compressed images: their size without decoding, their pixels exactly, or fast for training.

On JPEG files OpenCV's decoder gives Pillow's pixels (both are libjpeg-turbo's default) in three
quarters of its time, and training takes that. Evaluation takes Pillow on every machine, so that
numbers can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from resdet.data.findings import DataError
from resdet.data.image import decode_image, to_8_bits

# OpenCV's flags for RGB at once, and at a part of the size: its names for those say gray or BGR
_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
REDUCTIONS = {
    1: _RGB,
    2: _RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: _RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: _RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""Divisors of a JPEG file's sides that its decoder can apply, and OpenCV's flags for them."""

END_OF_IMAGE = b"\xff\xd9"

TAIL = 64
"""Bytes at the end of a JPEG file in which its end marker is looked for; some writers pad."""


class EncodedImage:
    """The bytes of an image file, of which only the header is read until pixels are asked for.

    Args:
        name: the file, for messages.
    Raises:
        DataError: not an image, or its header is damaged; it names the file.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self._other: NDArray[np.uint8] | None = None
        with _named_errors(name):
            try:
                self._image = Image.open(io.BytesIO(data))
            except UnidentifiedImageError:
                self._other = _decode_other(data)
                if self._other is None:
                    raise
                self.size = (self._other.shape[0], self._other.shape[1])
                return
            width, height = self._image.size
            self._orientation = self._image.getexif().get(ExifTags.Base.Orientation, 1)
        self.size = (width, height) if self._orientation in (5, 6, 7, 8) else (height, width)
        """(height, width) upright, in pixels."""

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, by the rules of `resdet.data.image.read_image`.

        Raises:
            DataError: the file is damaged or cut short.
        """
        if self._other is not None:
            return self._other
        with _named_errors(self.name):
            return decode_image(self._image)

    def fast_pixels(self, reduce: int = 1) -> NDArray[np.uint8]:
        """As `pixels`, but a JPEG file's sides are divided by `reduce`, and rounded up.

        The decoder divides by 2, 4 or 8 as it transforms the blocks back, which costs less than to
        decode all and differs a little from a resize. Other formats come whole.

        Raises:
            DataError: the file is damaged or cut short.
        """
        if self._is_upright_jpeg():
            # A file without its end is left to Pillow: some OpenCV fill in gray without a word.
            array = cv2.imdecode(np.frombuffer(self.data, np.uint8), REDUCTIONS[reduce])
            if array is not None:
                return np.asarray(array, np.uint8)
        if reduce == 1 or self._other is not None or self._image.format not in ("JPEG", "MPO"):
            return self.pixels()
        with _named_errors(self.name):
            image = Image.open(io.BytesIO(self.data))
            image.draft(None, (image.width // reduce, image.height // reduce))
            return decode_image(image)

    def _is_upright_jpeg(self) -> bool:
        """Whether OpenCV reads it as Pillow does: CMYK, for one, it converts otherwise."""
        return (
            self._other is None
            and self._image.format in ("JPEG", "MPO")
            and self._image.mode in ("RGB", "L")
            and self._orientation == 1
            and END_OF_IMAGE in self.data[-TAIL:]
        )


def read_fast(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file for training: what `resdet.data.image.read_image` gives, sooner.

    Raises:
        DataError: the file is missing, cut short, or no image; it names the file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file; check the image folder") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    return EncodedImage(data, str(path)).fast_pixels()


def check_image(file: BinaryIO, name: str, *, whole: bool) -> None:
    """Reads an image's header, or with `whole` every pixel.

    Raises:
        DataError: it can't be read.
    """
    if whole:
        EncodedImage(file.read(), name).pixels()
        return
    with _named_errors(name):
        try:
            Image.open(file)
        except UnidentifiedImageError:
            file.seek(0)
            if _decode_other(file.read()) is None:
                raise


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that can be read; replace it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: {error}; make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: damaged image file ({error}); replace it") from error


def _decode_other(data: bytes) -> NDArray[np.uint8] | None:
    """What Pillow does not know, such as TIFF with 16 bits and three channels; None if no image."""
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR  # three channels, upright
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if array is None:
        return None
    return np.ascontiguousarray(to_8_bits(array)[:, :, ::-1])
