"""Image files and arrays as (H, W, 3) uint8 RGB: sizes, exact and fast decoding, checks."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from resdet.errors import UserError
from resdet.files.bit_depth import WIDE_MODES, decode_deep, stated_white, to_8_bits
from resdet.files.findings import DataError
from resdet.files.image_header import (
    ORIENTATION,
    TURNED,
    Header,
    read_header,
    read_orientation,
    valid_orientation,
)
from resdet.files.image_limits import MAX_PIXELS, ImageError
from resdet.files.regular import open_regular

if "OPENCV_LOG_LEVEL" not in os.environ:
    # What OpenCV prints of a damaged file does not name it; the error raised here does.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif",
)  # fmt: skip
"""Suffixes of image files, in lower or upper case; their format may be another one."""


def is_image(name: str) -> bool:
    """Whether a file is called as images are."""
    return name.lower().endswith(SUFFIXES)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads an image file as (H, W, 3) uint8 RGB, upright.

    The EXIF orientation is applied, gray is repeated, palettes and CMYK are converted, alpha is
    dropped (as Detectron2 and torchvision do, so hidden colours show), of several frames the first
    is taken. More than 8 bits per channel are scaled by `to_8_bits`. Decoding is Pillow's, whose
    pixels Detectron2's published numbers were measured on.

    Raises:
        DataError: the file is missing, cut short, no image, or larger than `max_pixels`; it names
            the file.
    """
    return open_image(path, max_pixels).pixels()


def read_fast(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads an image file for training: what `read_image` gives, sooner.

    Raises:
        DataError: as `read_image`.
    """
    return open_image(path, max_pixels).fast_pixels()


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> EncodedImage:
    """An image file with its header read, to be decoded when its pixels are asked for.

    Raises:
        DataError: the file is missing, no image, or larger than `max_pixels`; it names the file.
    """
    with named_errors(str(path)), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES + 8 * max_pixels:
            raise ImageError(f"has {size:,} bytes, more than an image needs; replace it")
        data = file.read()
    return EncodedImage(data, str(path), max_pixels)


def read_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of an image file as `read_image` gives it, from its header.

    Raises:
        DataError: the file is missing, no image, or larger than `max_pixels`; it names the file.
    """
    with named_errors(str(path)), open_regular(path) as file:
        return read_header(file, max_pixels).size


MOST_BYTES = 1 << 28
"""Bytes of metadata that a file may have beside its pixels."""

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
        max_pixels: the largest size that is read.
    Raises:
        DataError: not an image, its header is damaged, or it is too large; it names the file.
    """

    def __init__(self, data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
        self.data = data
        self.name = name
        with named_errors(name):
            self.header = read_header(io.BytesIO(data), max_pixels)
        self.size = self.header.size
        """(height, width) upright, in pixels."""

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, by the rules of `read_image`.

        Raises:
            DataError: the file is damaged or cut short.
        """
        header = self.header
        with named_errors(self.name):
            pixels = decode_deep(header, self.data)
            if pixels is None:
                assert header.image is not None
                pixels = _decode(header.image, stated_white(header, self.data))
            pixels = turn_upright(pixels, header.orientation)
            if pixels.shape[:2] != self.size:
                raise ImageError("the sizes in its headers disagree; replace it")
            return pixels

    def fast_pixels(self, reduce: int = 1) -> NDArray[np.uint8]:
        """As `pixels`, but a JPEG file's sides are divided by `reduce`, and rounded up.

        The decoder divides by 2, 4 or 8 as it transforms the blocks back, which costs less than to
        decode all and differs a little from a resize. Other formats come whole.

        Raises:
            DataError: the file is damaged or cut short.
        """
        if self._is_plain_jpeg():
            # A truncated file is left to Pillow: some versions of OpenCV fill in gray silently.
            try:
                array = cv2.imdecode(np.frombuffer(self.data, np.uint8), REDUCTIONS[reduce])
            except cv2.error:  # more pixels than OpenCV has as its own limit
                array = None
            if array is not None:
                return turn_upright(np.asarray(array, np.uint8), self.header.orientation)
        header = self.header
        if reduce == 1 or header.image is None or header.image.format not in ("JPEG", "MPO"):
            return self.pixels()
        with named_errors(self.name):
            image = read_header(io.BytesIO(self.data), self.size[0] * self.size[1]).image
            assert image is not None
            image.draft(None, (image.width // reduce, image.height // reduce))
            return turn_upright(_decode(image), header.orientation)

    def _is_plain_jpeg(self) -> bool:
        """Whether OpenCV reads it as Pillow does: CMYK, for one, it converts otherwise."""
        image = self.header.image
        return (
            image is not None
            and image.format in ("JPEG", "MPO")
            and image.mode in ("RGB", "L")
            and END_OF_IMAGE in self.data[-TAIL:]
        )


def _decode(image: Image.Image, white: int | None = None) -> NDArray[np.uint8]:
    """A Pillow image as (H, W, 3) uint8 RGB as stored; `white` as in `to_8_bits`."""
    image.load()
    if image.mode in WIDE_MODES:
        return _gray_to_rgb(to_8_bits(np.asarray(image), white))
    if image.mode == "L":
        return _gray_to_rgb(np.asarray(image))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _gray_to_rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, None], 3, axis=2)


_TURNS: dict[int, Callable[[NDArray[Any]], object]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, …) as stored, turned or mirrored by its EXIF orientation, 1 to 8."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.asarray(turn(pixels), pixels.dtype)


def check_image(file: BinaryIO, name: str, *, whole: bool, max_pixels: int = MAX_PIXELS) -> None:
    """Reads an image's header, or with `whole` every pixel.

    Raises:
        DataError: it can't be read.
    """
    with named_errors(name):
        if whole:
            EncodedImage(file.read(), name, max_pixels).pixels()
        else:
            read_header(file, max_pixels)


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises as a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except ImageError as error:
        raise DataError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that can be read; replace it") from error
    except MemoryError as error:
        raise DataError(
            f"{name}: decoding it needs more memory than there is; cut it into tiles"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror is not None:  # the disk's, no decoder's
            raise DataError(f"{name}: can't be read ({error.strerror})") from error
        what = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise DataError(f"{name}: damaged image file ({what}); replace it") from error


LONGEST_REASON = 150
"""Characters of a decoder's message that are shown."""


def unread(error: DataError, name: str) -> str:
    """What a finding that names the file states: that it can't be read, and why."""
    reason = str(error).removeprefix(f"{name}: ")
    return reason if reason.startswith("can't be read") else f"can't be read ({reason})"


def image_problems(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    max_pixels: int = MAX_PIXELS,
    *,
    by_windows: bool = False,
) -> dict[int, str]:
    """What is wrong with each bad file by its header, by its position; `sizes` are (height, width)
    as annotated, `by_windows` as in `read_header`."""

    def problem(path: Path, size: tuple[int, int]) -> str | None:
        try:
            with named_errors(str(path)), open_regular(path) as file:
                return size_problem(read_header(file, max_pixels, by_windows=by_windows), size)
        except DataError as error:
            return unread(error, str(path))

    problems = in_threads(lambda pair: problem(*pair), list(zip(paths, sizes, strict=True)))
    return {row: what for row, what in enumerate(problems) if what is not None}


def size_problem(header: Header, stated: tuple[int, int]) -> str | None:
    """What is wrong with the annotated (height, width) of an image; None if nothing is."""
    own = header.size
    if own == stated:
        return None
    turned = " (its EXIF orientation turns it)" if header.orientation in TURNED else ""
    return f"is {own[1]}×{own[0]} pixels upright{turned}, annotated as {stated[1]}×{stated[0]}"


def read_sizes(folder: Path, names: Sequence[str]) -> NDArray[np.int32]:
    """(N, 2) height, width of the files `names` in `folder`, as `read_size` gives them; 0 for those
    that can't be read."""

    def size(name: str) -> tuple[int, int]:
        try:
            return read_size(folder / name, sys.maxsize)
        except DataError:
            return 0, 0

    return np.array(in_threads(size, names), np.int32).reshape(-1, 2)


TOGETHER = 64
"""Items that a thread takes at a time: to hand over one costs as much as to read a header."""


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results of a function that waits for files, in order."""

    def work(first: int) -> list[R]:
        return [function(item) for item in items[first : first + TOGETHER]]

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        return [one for some in pool.map(work, range(0, len(items), TOGETHER)) for one in some]


ImageInput = str | Path | Image.Image | np.ndarray


def to_rgb(image: ImageInput, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W, 3) uint8 RGB from a path, a Pillow image, or such an array.

    Files and Pillow images are turned upright by their EXIF orientation and converted from gray,
    palette, CMYK and more than 8 bits. An array is taken as it is: that its channels are RGB and
    not OpenCV's BGR cannot be seen in it. Raises UserError that says what is wrong with an array.
    """
    if isinstance(image, str | Path):
        return read_image(image, max_pixels)
    if isinstance(image, Image.Image):
        return _from_pillow(image, max_pixels)
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


def _from_pillow(image: Image.Image, max_pixels: int) -> NDArray[np.uint8]:
    name = str(getattr(image, "filename", "") or "the Pillow image")
    with named_errors(name):
        if (data := _unread_file(image)) is not None:
            return EncodedImage(data, name, max_pixels).pixels()
        if 0 in image.size or image.width * image.height > max_pixels:
            raise ImageError(
                f"has {image.width}×{image.height} pixels, and max_pixels allows 1 to "
                f"{max_pixels:,}; cut it into tiles, or raise max_pixels"
            )
        image.load()
        return turn_upright(_decode(image), _given_orientation(image))


def _given_orientation(image: Image.Image) -> int:
    """Of a Pillow image that may have been changed after it was read."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # of damaged EXIF data
        return read_orientation(image)
    return valid_orientation(value)


def _unread_file(image: Image.Image) -> bytes | None:
    """The file of an image that was opened and not decoded yet, if decoding would reduce it to 8
    bits; None for others."""
    if not isinstance(image, ImageFile.ImageFile) or image.mode not in REDUCED_MODES:
        return None
    file = image.fp
    if file is None or not any(";16" in str(tile.args) for tile in image.tile):
        return None
    place = file.tell()
    try:
        file.seek(0)
        return file.read()
    finally:
        file.seek(place)


REDUCED_MODES = ("RGB", "RGBA", "LA", "CMYK")
"""Modes in which Pillow gives 8 bits of 16."""
