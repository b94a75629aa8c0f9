"""Images of more than 8 bits per channel, brought to 8 bits by one rule for gray and colour."""

import io
import re
import zlib
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.files import tiff
from resdet.files.image_header import Header, png_chunks
from resdet.files.image_limits import ImageError

BIT_DEPTHS = (8, 10, 12, 14, 16)
WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes with more than 8 bits per channel."""
CHUNK = 1 << 20
"""Values that are converted at a time where they pass through float64."""
_CODESTREAM = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream, and its marker of sizes."""
_NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([0-9]+)")
_COMMENT = re.compile(rb"#[^\r\n]*")


class Span(NamedTuple):
    """The range of the finite values of an image."""

    low: float
    high: float

    def joined(self, other: "Span") -> "Span":
        """The range of both."""
        return Span(min(self.low, other.low), max(self.high, other.high))


NOTHING = Span(np.inf, -np.inf)
"""Of no finite value."""


def to_8_bits(
    values: NDArray[np.generic], full_scale: int | None = None, span: Span | None = None
) -> NDArray[np.uint8]:
    """Scales an array of any depth to 0..255 by its depth, so that brightness keeps a meaning.

    Where the file states what white is (`full_scale`), that becomes 255. Else whole numbers are
    taken to have the smallest of 8, 10, 12, 14 and 16 bits that holds the largest of them (cameras
    and microscopes store 12 bits in files of 16), over all channels. Anything else (fractions,
    negative or larger numbers) is stretched from least to greatest finite value; NaN becomes 0.
    `span` is the range of the whole image where the values are a part of it.
    """
    if values.dtype == np.uint8 and full_scale in (None, 255):
        return values.astype(np.uint8, copy=False)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    span = span or span_of(values)
    if np.issubdtype(values.dtype, np.integer):
        low, high = int(span.low), int(span.high)
        if low >= 0 and high < 2 ** BIT_DEPTHS[-1]:
            bits = next(bits for bits in BIT_DEPTHS if high < 2**bits)
            white = float(full_scale or 2**bits - 1)
            levels = np.arange(high + 1, dtype=np.float64) * (255.0 / white) + 0.5
            return np.minimum(levels, 255.0).astype(np.uint8)[values]
    return _stretch(values, span)


def span_of(values: NDArray[np.generic]) -> Span:
    """The range of an array of any kind of numbers."""
    if np.issubdtype(values.dtype, np.integer):
        return Span(int(values.min()), int(values.max()))
    flat, span = values.reshape(-1), NOTHING
    for start in range(0, flat.size, CHUNK):
        part = _as_floats(flat[start : start + CHUNK])
        part = part[np.isfinite(part)]
        if part.size:
            span = span.joined(Span(float(part.min()), float(part.max())))
    return span


def _stretch(values: NDArray[np.generic], span: Span) -> NDArray[np.uint8]:
    flat = values.reshape(-1)
    low, high = float(span.low), float(span.high)
    scaled = np.zeros(flat.size, np.uint8)
    if not high > low:
        return scaled.reshape(values.shape)
    # halves, because the range of all float64 is beyond float64
    half_low, half_range = low / 2, high / 2 - low / 2
    for start in range(0, flat.size, CHUNK):
        part = np.clip(_as_floats(flat[start : start + CHUNK]), low, high)
        part = (part / 2 - half_low) / half_range * 255.0 + 0.5
        scaled[start : start + CHUNK] = np.nan_to_num(part).astype(np.uint8)
    return scaled.reshape(values.shape)


def _as_floats(values: NDArray[np.generic]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # numpy warns of signaling NaN
        return values.astype(np.float64)


def decode_deep(header: Header, data: bytes) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 RGB as stored, of files of which Pillow keeps 8 bits or which it does not
    know; None for all others.

    Raises:
        ImageError: the file is damaged, or of a kind that is not read.
    """
    image = header.image
    if header.layout is not None:
        tiff.check_complete(header.layout)
        if header.layout.is_deep:
            return _decode_tiff(header.layout, data)
    if image is None:
        return _rgb_of_bgr(_decode_with_opencv(data))
    if image.format == "PNG" and data[24:25] == b"\x10" and data[25] != 0:
        check_chunks(data)
        return _rgb_of_bgr(_decode_with_opencv(data))
    if image.format == "JPEG2000" and len(image.getbands()) > 1 and _precision(data) == 16:
        return _rgb_of_bgr(_decode_with_opencv(data))
    if image.format == "PPM" and data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        return _decode_ppm(header, data)
    return None


def stated_white(header: Header, data: bytes) -> int | None:
    """The value that is white in what Pillow decodes of a file, where the file states it."""
    image = header.image
    if image is not None and image.format == "JPEG2000" and (_precision(data) or 16) < 16:
        return 2**16 - 1  # Pillow scales by the depth that is stated
    if header.layout is not None and header.layout.bits == (12,):
        return 2**12 - 1
    return None


def _decode_tiff(layout: tiff.Layout, data: bytes) -> NDArray[np.uint8]:
    return tiff_colours(tiff.decode(data, layout), layout)


def seen_bands(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 1 or 3) of all the bands of a TIFF file (H, W, bands)."""
    return values[:, :, :3] if values.shape[2] >= 3 else values[:, :, :1]


def tiff_colours(
    values: NDArray[Any], layout: tiff.Layout, span: Span | None = None
) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of the values (H, W, bands) of a TIFF file; `span` as in `to_8_bits`."""
    pixels = to_8_bits(seen_bands(values), span=span)
    if layout.photometric == tiff.MIN_IS_WHITE:
        pixels = 255 - pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def _decode_with_opencv(data: bytes) -> NDArray[Any]:
    """(H, W) or (H, W, 1 to 4) in the file's own type, channels in OpenCV's order."""
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"damaged image file ({error.err}); replace it") from error
    if values is None:
        raise ImageError("damaged image file, or of a kind that is not read; replace it")
    return values


def _rgb_of_bgr(values: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of gray, BGR or BGRA; alpha is dropped before brightness is judged."""
    if values.ndim == 2 or values.shape[2] < 3:
        gray = to_8_bits(values if values.ndim == 2 else values[:, :, 0])
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.ascontiguousarray(to_8_bits(values[:, :, 2::-1]))


def check_chunks(data: bytes) -> None:
    """ImageError unless every chunk of a PNG file is whole: libpng would print what is wrong."""
    view, kind = memoryview(data), b""
    for kind, start, length in png_chunks(io.BytesIO(data)):
        stored = data[start + length : start + length + 4]
        if zlib.crc32(view[start - 4 : start + length]) != int.from_bytes(stored, "big"):
            raise ImageError(f"damaged image file (chunk {kind!r}); replace it")
        if kind == b"IEND":
            return
    raise ImageError("image file is cut short; replace it")


def _precision(data: bytes) -> int | None:
    """Bits of the first component of a JPEG 2000 file."""
    start = data.find(_CODESTREAM)
    # the marker's segment: length, capabilities, 8 sizes of 4 bytes, number of components
    place = start + len(_CODESTREAM) + 2 + 2 + 8 * 4 + 2
    return (data[place] & 0x7F) + 1 if start >= 0 and place < len(data) else None


def _decode_ppm(header: Header, data: bytes) -> NDArray[np.uint8] | None:
    """PGM and PPM files whose white is above 255; None for others."""
    place, numbers = 2, []
    for _ in range(3):
        match = _NUMBER.match(data, place)
        if match is None:
            return None
        numbers.append(int(match[1]))
        place = match.end()
    width, height, white = numbers
    if not 255 < white < 2**16:
        return None
    bands = 3 if data[:2] in (b"P3", b"P6") else 1
    count = height * width * bands
    if data[:2] in (b"P5", b"P6"):
        if len(data) < place + 1 + 2 * count:
            raise ImageError("image file is cut short; replace it")
        values = np.frombuffer(data, ">u2", count, place + 1)
    else:
        words = _COMMENT.sub(b"", data[place:]).split()[:count]
        if len(words) < count:
            raise ImageError("image file is cut short; replace it")
        values = np.array(words, dtype="S9").astype(np.int64)
    values = np.minimum(values, white).astype(np.uint16).reshape(height, width, bands)
    pixels = to_8_bits(values, None if white == 2**16 - 1 else white)
    return np.repeat(pixels, 3, axis=2) if bands == 1 else pixels
