"""Image files and arrays as (H, W, 3) uint8 RGB: headers, exact and fast decoding, checks."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resdet.errors import UserError
from resdet.files.findings import DataError

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif",
)  # fmt: skip
"""Suffixes of image files, in lower or upper case; their format may be another one."""

WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes with more than 8 bits per channel."""
BIT_DEPTHS = (8, 10, 12, 14, 16)


def is_image(name: str) -> bool:
    """Whether a file is called as images are."""
    return name.lower().endswith(SUFFIXES)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file as (H, W, 3) uint8 RGB, upright.

    The EXIF orientation is applied, gray is repeated, palettes and CMYK are converted, alpha is
    dropped (as Detectron2 and torchvision do, so hidden colours show), of several frames the first
    is taken. More than 8 bits per channel are scaled by `to_8_bits`. Decoding is Pillow's, whose
    pixels Detectron2's published numbers were measured on.

    Raises:
        DataError: the file is missing, cut short, or no image; it names the file.
    """
    return open_image(path).pixels()


def read_fast(path: str | Path) -> NDArray[np.uint8]:
    """Reads an image file for training: what `read_image` gives, sooner.

    Raises:
        DataError: the file is missing, cut short, or no image; it names the file.
    """
    return open_image(path).fast_pixels()


def open_image(path: str | Path) -> EncodedImage:
    """An image file with its header read, to be decoded when its pixels are asked for.

    Raises:
        DataError: the file is missing, or no image; it names the file.
    """
    return EncodedImage(_read_bytes(path), str(path))


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file; check the image folder") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error


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
            self._orientation = self._image.getexif().get(ExifTags.Base.Orientation, 1)
            self.size = _upright_size(self._image)
        """(height, width) upright, in pixels."""

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, by the rules of `read_image`.

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
            # A truncated file is left to Pillow: some versions of OpenCV fill in gray silently.
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
        raise DataError(f"{name}: {error}; cut it into tiles") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{name}: damaged image file ({error}); replace it") from error


def _decode_other(data: bytes) -> NDArray[np.uint8] | None:
    """What Pillow does not know, such as TIFF with 16 bits and three channels; None if no image."""
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR  # three channels, upright
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if array is None:
        return None
    return np.ascontiguousarray(to_8_bits(array)[:, :, ::-1])


def image_problems(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], *, decode: bool
) -> dict[int, str]:
    """What is wrong with each bad file, by its position; `sizes` are (height, width) as annotated.

    Reads the headers; with `decode` every pixel, which finds files that are cut short too.
    """
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        problems = pool.map(lambda path, size: _problem(path, size, decode), paths, sizes)
        return {row: what for row, what in enumerate(problems) if what is not None}


def _problem(path: Path, size: tuple[int, int], decode: bool) -> str | None:
    try:
        own = _decoded_size(path) if decode else header_size(path, upright=False)
        if own != size:
            own = _decoded_size(path)  # as its EXIF orientation turns it
    except (DataError, OSError, ValueError, SyntaxError) as error:
        return f"can't be read ({str(error).removeprefix(f'{path}: ')})"
    if own == size:
        return None
    return f"is {own[1]}×{own[0]} pixels upright, annotated as {size[1]}×{size[0]}"


def header_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """(height, width) from a file's header, or with `upright` as its EXIF orientation turns it.

    Some formats keep the orientation at the end, so that `upright` reads all of the file.

    Raises:
        OSError, ValueError, SyntaxError, DataError: the file can't be read.
    """
    try:
        with Image.open(path) as image:
            return _upright_size(image) if upright else (image.height, image.width)
    except UnidentifiedImageError:
        return _decoded_size(path)  # formats that OpenCV knows and Pillow does not


def header_sizes(folder: Path, names: Sequence[str]) -> NDArray[np.int32]:
    """(N, 2) height, width of the files `names` in `folder`, upright; 0 for those without."""

    def size(name: str) -> tuple[int, int]:
        try:
            return header_size(folder / name)
        except (DataError, OSError, ValueError, SyntaxError):
            return 0, 0

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        return np.array(list(pool.map(size, names)), np.int32).reshape(-1, 2)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def _decoded_size(path: Path) -> tuple[int, int]:
    height, width, _ = read_image(path).shape
    return height, width


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
