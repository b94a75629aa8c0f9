"""TIFF files of any number of bands and bits, as arrays of their own values.

Pillow has a fixed list of combinations, keeps 8 bits of colours with 16, and takes unsigned numbers
of 32 bits for signed ones. But it decompresses all: a file whose pixels are described as single
bytes comes out as these bytes, which are put together here.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from resdet.files.image_limits import ImageError

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, BANDS, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = (
    273,
    274,
    277,
    278,
    279,
    284,
)
PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 317, 322, 323, 324, 325
SAMPLE_FORMAT, XMP, NO_DATA = 339, 700, 42113
FILL_ORDER = 266
MIN_IS_WHITE, MIN_IS_BLACK, RGB = 0, 1, 2
BYTE_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)
"""None, LZW, Deflate (two numbers), PackBits, LZMA and Zstandard, which all restore bytes."""
KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
"""numpy's letter of each SampleFormat; 4 is undefined, which GDAL and libtiff take for unsigned."""

SPARSE = (
    "has parts without pixels (a sparse TIFF); write it again with all "
    "(gdal_translate -co SPARSE_OK=FALSE)"
)


@dataclass
class Layout:
    """The first image of a file, as its tags describe it."""

    height: int
    width: int
    bits: tuple[int, ...]
    """Of each band."""
    photometric: int
    tags: dict[int, Any]
    byte_order: str
    """numpy's, < or >."""

    @property
    def is_deep(self) -> bool:
        """Whether it is gray or colour of more than 8 bits, or of more bands than Pillow knows."""
        if self.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB):
            return False
        if set(self.bits) == {8}:  # Pillow knows gray or colours, and alpha
            return len(self.bits) > (4 if self.photometric == RGB else 2)
        return max(self.bits) > 8 and max(self.bits) != 12

    @property
    def is_scaled(self) -> bool:
        """Whether values of a deep file are scaled to 8 bits: all but unsigned ones of 8 bits."""
        return max(self.bits) > 8 or KINDS.get(number(self.tags, SAMPLE_FORMAT, 1)) != "u"


def read_layout(file: BinaryIO) -> Layout:
    """The layout of a file that starts with one of `MAGIC`.

    Raises:
        ImageError: there is no image in it; and whatever Pillow raises for damaged tags.
    """
    file.seek(0)
    head = file.read(8)
    head += file.read(8) if head[2:3] == b"+" or head[3:4] == b"+" else b""
    directory = ImageFileDirectory_v2(head)
    file.seek(directory.next)
    directory.load(file)
    tags: dict[int, Any] = {}
    for tag in list(directory):
        try:
            tags[tag] = directory[tag]
        except Exception:  # a damaged tag may be one that is not needed
            continue
    width, height = number(tags, WIDTH, 0), number(tags, HEIGHT, 0)
    if width <= 0 or height <= 0:
        raise ImageError("has no width and height in its header; replace it")
    bands = number(tags, BANDS, 1)
    bits = numbers(tags, BITS) or (1,)
    bits = bits * bands if len(bits) == 1 else bits
    order = "<" if head[:2] == b"II" else ">"
    return Layout(height, width, bits, number(tags, PHOTOMETRIC, MIN_IS_BLACK), tags, order)


def check_complete(layout: Layout) -> None:
    """ImageError for a file that leaves out some of its tiles or strips."""
    if any(0 in numbers(layout.tags, tag) for tag in (TILE_OFFSETS, STRIP_OFFSETS)):
        raise ImageError(SPARSE)


def decode(data: bytes, layout: Layout) -> NDArray[Any]:
    """The values of the first image of a file, (H, W, bands) in their own type, NaN for those that
    GDAL marks as missing.

    Raises:
        ImageError: it is a kind that is not read; and whatever Pillow raises for damaged data.
    """
    tags, bands = layout.tags, len(layout.bits)
    sample_format, compression = number(tags, SAMPLE_FORMAT, 1), number(tags, COMPRESSION, 1)
    kind, size = KINDS.get(sample_format), layout.bits[0] // 8
    odd = kind is None or len(set(layout.bits)) > 1 or layout.bits[0] % 8
    sizes = (2, 4, 8) if kind == "f" else (1, 2, 4, 8)
    if odd or size not in sizes or compression not in BYTE_COMPRESSIONS:
        raise ImageError(
            f"TIFF with {'/'.join(map(str, layout.bits[:8]))} bits, sample format {sample_format} "
            f"and compression {compression} is not read; convert it to 8 or 16 bits"
        )
    dtype = np.dtype(f"{layout.byte_order}{kind}{size}")
    if number(tags, PLANAR, 1) == 2 and bands > 1:
        planes = [_decode_bytes(data, layout, size, band) for band in range(bands)]
        values = np.stack([_values(plane, layout, dtype, 1)[:, :, 0] for plane in planes], axis=2)
    else:
        values = _values(_decode_bytes(data, layout, size * bands, None), layout, dtype, bands)
    return _missing_as_nan(values, tags)


def _decode_bytes(
    data: bytes, layout: Layout, width_factor: int, band: int | None
) -> NDArray[np.uint8]:
    """(H, W · width_factor) decompressed bytes of all bands, or of one that is stored separately;
    W is that of whole tiles."""
    tags = layout.tags
    tiled = TILE_OFFSETS in tags
    offsets = numbers(tags, TILE_OFFSETS if tiled else STRIP_OFFSETS)
    counts = numbers(tags, TILE_BYTES if tiled else STRIP_BYTES)
    if not offsets:
        raise ImageError("has no pixels; replace it")
    width = -(-layout.width // tile_width(layout)) * tile_width(layout)
    counts = counts or (layout.height * width * width_factor,)
    if band is not None:
        share = len(offsets) // len(layout.bits)
        offsets = offsets[band * share : (band + 1) * share]
        counts = counts[band * share : (band + 1) * share]
    entries: dict[int, tuple[int, ...]] = {
        WIDTH: (width * width_factor,),
        HEIGHT: (layout.height,),
        BITS: (8,),
        COMPRESSION: (number(tags, COMPRESSION, 1),),
        PHOTOMETRIC: (MIN_IS_BLACK,),
        FILL_ORDER: (number(tags, FILL_ORDER, 1),),
        BANDS: (1,),
    }
    if tiled:
        entries[TILE_WIDTH] = (tile_width(layout) * width_factor,)
        entries[TILE_HEIGHT] = (number(tags, TILE_HEIGHT, 0),)
        entries[TILE_OFFSETS], entries[TILE_BYTES] = offsets, counts
    else:
        entries[ROWS_PER_STRIP] = (min(number(tags, ROWS_PER_STRIP, layout.height), layout.height),)
        entries[STRIP_OFFSETS], entries[STRIP_BYTES] = offsets, counts
    with TiffImageFile(io.BytesIO(with_directory(data, entries))) as image:
        return np.asarray(image)


def with_directory(data: bytes, entries: Mapping[int, tuple[int, ...] | bytes]) -> bytes:
    """A file with the same pixels, described by `entries` alone; numbers are written as LONG."""
    start = len(data) + len(data) % 2
    place = start + 2 + 12 * len(entries) + 4
    directory, arrays = struct.pack("<H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        kind, content = 7, values if isinstance(values, bytes) else b""
        if not isinstance(values, bytes):
            kind, content = 4, struct.pack(f"<{len(values)}I", *values)
        if kind == 7 or len(values) > 1:
            directory += struct.pack("<HHII", tag, kind, len(values), place + len(arrays))
            arrays += content + b"\0" * (len(content) % 2)
        else:
            directory += struct.pack("<HHI", tag, 4, 1) + content
    head = b"II*\x00" + struct.pack("<I", start)
    padding = b"\0" * (start - len(data))
    return b"".join((head, data[8:], padding, directory, struct.pack("<I", 0), arrays))


def _values(
    rows: NDArray[np.uint8], layout: Layout, dtype: "np.dtype[Any]", bands: int
) -> NDArray[Any]:
    """(H, W, bands) values of decompressed bytes (H, W · bands · itemsize), predictors undone."""
    predictor = number(layout.tags, PREDICTOR, 1)
    height, step = layout.height, tile_width(layout)
    native = dtype.newbyteorder("=")
    if predictor == 1:
        values = np.ascontiguousarray(rows).view(dtype).astype(native, copy=False)
    elif predictor == 2:
        whole = np.dtype(f"u{dtype.itemsize}")
        numbers = np.ascontiguousarray(rows).view(whole.newbyteorder(dtype.byteorder))
        numbers = numbers.astype(whole).reshape(height, -1, step, bands)
        values = numbers.cumsum(axis=2, dtype=whole).view(native)
    elif predictor == 3 and dtype.kind == "f":
        # Bytes of the same significance are neighbours within a row of a tile, the highest first.
        sums = rows.reshape(height, -1, step * dtype.itemsize, bands).cumsum(axis=2, dtype=np.uint8)
        planes = sums.reshape(height, -1, dtype.itemsize, step * bands).swapaxes(2, 3)
        values = np.ascontiguousarray(planes).view(f">f{dtype.itemsize}").astype(native)
    else:
        raise ImageError(f"TIFF with predictor {predictor} is not read; save it without")
    return values.reshape(height, -1, bands)[:, : layout.width]


def tile_width(layout: Layout) -> int:
    """Pixels of a row that are stored together: those of a tile, or all."""
    if TILE_OFFSETS not in layout.tags:
        return layout.width
    width = number(layout.tags, TILE_WIDTH, 0)
    if width <= 0:
        raise ImageError("TIFF with tiles of no width; replace it")
    return width


def _missing_as_nan(values: NDArray[Any], tags: dict[int, Any]) -> NDArray[Any]:
    if NO_DATA not in tags or values.dtype.kind == "u":
        return values
    try:
        missing = float(str(tags[NO_DATA]).strip("\0 "))
    except ValueError:
        return values
    floats = values.astype(np.promote_types(values.dtype, np.float32))
    floats[floats == missing] = np.nan
    return floats


def numbers(tags: dict[int, Any], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return tuple(int(one) for one in values)


def number(tags: dict[int, Any], tag: int, otherwise: int) -> int:
    values = numbers(tags, tag)
    return values[0] if values else otherwise
