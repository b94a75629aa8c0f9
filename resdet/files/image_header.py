"""What an image file states before its pixels are decoded: kind, size, orientation."""

import logging
import re
import struct
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from resdet.files import tiff
from resdet.files.image_limits import MAX_PIXELS, ImageError, TooLarge
from resdet.files.tiff_blocks import find_blocks

# Pillow's words about odd metadata do not name the file; what matters is an error here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
logging.getLogger("PIL").addHandler(logging.NullHandler())

NEVER = frozenset(("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"))
"""Kinds that Pillow knows and does not decode itself: EPS, for one, runs Ghostscript."""
ORIENTATION = 274
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
RADIANCE = (b"#?RADIANCE", b"#?RGBE")
_XMP = re.compile(r"tiff:Orientation(?:=[\"']|>)\s*([0-9])")
_RADIANCE_SIZE = re.compile(rb"\n\n([-+])([XY]) +(\d+) +[-+][XY] +(\d+)\n")
_FLOAT_MAP = re.compile(rb"PF\s+(\d+)\s+(\d+)\s")
_ANY_MAP = re.compile(rb"P7\n(?=(?:.*\n)*?WIDTH +(\d+))(?=(?:.*\n)*?HEIGHT +(\d+))")
HEAD = 4096
"""Bytes in which the size of the formats without Pillow's help is looked for."""


@dataclass
class Header:
    """An image file whose pixels are not decoded yet."""

    size: tuple[int, int]
    """(height, width) upright, in pixels."""
    orientation: int
    """EXIF's, 1 to 8; 1 is as stored."""
    image: ImageFile.ImageFile | None
    """Pillow's image, which decodes itself; None for what Pillow does not know."""
    layout: tiff.Layout | None = None
    """Of TIFF files."""


def read_header(
    file: BinaryIO, max_pixels: int = MAX_PIXELS, *, by_windows: bool = False
) -> Header:
    """The header of an image file that is open at its start. `by_windows`: a file that can be read
    window by window may have any number of pixels.

    Raises:
        ImageError: it is not an image, or larger than `max_pixels`; and whatever Pillow raises for
            damaged headers.
    """
    prefix = file.read(16)
    layout = tiff.read_layout(file) if prefix.startswith(tiff.MAGIC) else None
    if by_windows and layout is not None and find_blocks(layout) is not None:
        max_pixels = sys.maxsize
    image: ImageFile.ImageFile | None = None
    if layout is not None and layout.is_deep:
        height, width = layout.height, layout.width
        check_pixels(height, width, max_pixels, sum(layout.bits) / 8)
    else:
        size = _size_of_others(prefix, file)
        if size is None:
            image = open_with_pillow(file, prefix)
            size = image.height, image.width
        height, width = size
        check_pixels(height, width, max_pixels)
    orientation = 1
    if image is None and layout is not None:
        orientation = tiff_orientation(layout)
    elif image is not None and layout is None:  # Pillow turns TIFF itself
        orientation = read_orientation(image, file)
    turned = orientation in TURNED
    return Header((width, height) if turned else (height, width), orientation, image, layout)


def check_pixels(height: int, width: int, most: int, bytes_per_pixel: float = 3) -> None:
    """ImageError for no pixels, or more than `most`."""
    if height <= 0 or width <= 0:
        raise ImageError("has no pixels; replace it")
    # 8 bytes are four bands of 16 bits; many bands of many bits count as so many pixels more
    if height * width * max(1.0, bytes_per_pixel / 8) > most:
        bands = "" if bytes_per_pixel <= 8 else f" of {bytes_per_pixel:.0f} bytes"
        raise TooLarge(
            f"has {width}×{height} pixels{bands}, more than max_pixels ({most:,}) allows; cut it "
            "into tiles, or raise data.max_pixels, or --max-pixels of predict or serve"
        )


def open_with_pillow(file: BinaryIO, prefix: bytes) -> ImageFile.ImageFile:
    """What `Image.open` gives, without its limit of pixels, which is a setting of the process.

    Raises:
        UnidentifiedImageError: no decoder knows it.
    """
    tried: tuple[str, ...] = ()
    for load in (Image.preinit, Image.init):
        load()
        kinds = [kind for kind in Image.ID if kind not in tried and kind not in NEVER]
        tried += tuple(kinds)
        for kind in kinds:
            factory, accept = Image.OPEN[kind]
            try:
                if accept is not None and accept(prefix) is not True:
                    continue
                file.seek(0)
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    raise UnidentifiedImageError("cannot identify image file")


def _size_of_others(prefix: bytes, file: BinaryIO) -> tuple[int, int] | None:
    """(height, width) of the formats that only OpenCV decodes; None for others.

    Raises:
        ImageError: the header of such a format is damaged.
    """
    if prefix.startswith(RADIANCE):
        pattern = _RADIANCE_SIZE
    elif prefix.startswith((b"PF\n", b"PF ", b"PF\r")):
        pattern = _FLOAT_MAP
    elif prefix.startswith(b"P7\n"):
        pattern = _ANY_MAP
    else:
        return None
    file.seek(0)
    match = pattern.search(file.read(HEAD))
    if match is None:
        raise ImageError("damaged image file (no size in its header); replace it")
    if pattern is _RADIANCE_SIZE:
        first, second = int(match[3]), int(match[4])
        return (first, second) if match[2] == b"Y" else (second, first)
    return int(match[2]), int(match[1])


def read_orientation(image: Image.Image, file: BinaryIO | None = None) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1 where there is none that is valid.

    Damaged EXIF data are read as far as the orientation: the pixels are not worse for them.

    Args:
        file: a PNG file, which may have its EXIF data after the pixels.
    """
    exif = image.info.get("exif")
    if exif is None and image.format == "PNG" and file is not None:
        exif = _png_exif(file)
    if exif is None and (raw := image.info.get("Raw profile type exif")) is not None:
        exif = _raw_profile(str(raw))
    value = exif_orientation(exif) if isinstance(exif, bytes) else None
    if value is None:
        xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
        value = _xmp_orientation(xmp)
    return valid_orientation(value)


def valid_orientation(value: object) -> int:
    """An orientation of 1 to 8; 1 for anything else."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF data, with or without the Exif mark; None where it is missing."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    if order is None or len(exif) < start + 8:
        return None
    first = start + struct.unpack_from(f"{order}I", exif, start + 4)[0]
    if first + 2 > len(exif):
        return None
    count = struct.unpack_from(f"{order}H", exif, first)[0]
    for place in range(first + 2, min(first + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", exif, place)
        if tag == ORIENTATION and values == 1 and kind in (1, 3, 4):
            # BYTE, SHORT (EXIF's own) and LONG, as some writers have it
            code = {1: "B", 3: "H", 4: "I"}[kind]
            return int(struct.unpack_from(order + code, exif, place + 8)[0])
    return None


def _raw_profile(text: str) -> bytes | None:
    """EXIF data as ImageMagick stores them in PNG: name, length, and hexadecimal lines."""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return None


def _xmp_orientation(xmp: object) -> int | None:
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    match = _XMP.search(text) if isinstance(text, str) else None
    return int(match[1]) if match else None


def tiff_orientation(layout: tiff.Layout) -> int:
    """The orientation that the tags of a TIFF file state, 1 to 8."""
    value = layout.tags.get(ORIENTATION)
    if not isinstance(value, int):
        value = _xmp_orientation(layout.tags.get(tiff.XMP))
    return valid_orientation(value)


def _png_exif(file: BinaryIO) -> bytes | None:
    """The eXIf chunk of a PNG file; one behind the pixels is where some tools write it."""
    for kind, start, length in png_chunks(file):
        if kind == b"eXIf":
            file.seek(start)
            return file.read(length)
    return None


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content and length of each chunk of a PNG file, up to its end."""
    place = len(PNG_MAGIC)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, place + 8, length
        place += 12 + length
