"""Twelve bits in files of sixteen, and every other depth, by one rule for gray and colour."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resdet.files import tiff
from resdet.files.bit_depth import to_8_bits
from resdet.files.findings import DataError
from resdet.files.images import EncodedImage, to_rgb

VALUES = np.random.default_rng(0).integers(0, 3521, (24, 20, 5)).astype(np.uint16)
VALUES[0, 0] = 3520
"""Bands as a 12-bit camera gives them."""
OPAQUE = np.full((24, 20), 65535, np.uint16)
EXPECTED = np.floor(VALUES[:, :, :3] * (255 / 4095) + 0.5).astype(np.uint8)


def png(values: NDArray[np.uint16]) -> bytes:
    """PNG of 16 bits with 1 to 4 channels, which Pillow does not write."""
    height, width, bands = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = np.zeros((height, 1 + 2 * width * bands), np.uint8)
    rows[:, 1:] = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(height, -1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def make_tiff(values: NDArray[Any], *, order: str = "<", **tags: tuple[int, ...]) -> bytes:
    """An uncompressed TIFF file of any kind, in strips of 5 rows."""
    height, width, bands = values.shape
    kinds = {"u": 1, "i": 2, "f": 3}
    planes = np.moveaxis(values, 2, 0)[..., None] if tags.get("planar") == (2,) else values[None]
    strips = [
        np.ascontiguousarray(plane[top : top + 5])
        .astype(values.dtype.newbyteorder(order))
        .tobytes()
        for plane in planes
        for top in range(0, height, 5)
    ]
    entries: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (height,), 258: (8 * values.itemsize,) * bands, 259: (1,),
        262: tags.get("photometric", (2 if bands > 2 else 1,)), 277: (bands,), 278: (5,),
        273: tuple(itertools.accumulate((len(strip) for strip in strips[:-1]), initial=8)),
        279: tuple(map(len, strips)), 284: tags.get("planar", (1,)),
        339: (kinds[values.dtype.kind],) * bands,
    }  # fmt: skip
    data = b"\0" * 8 + b"".join(strips)
    with_little = tiff.with_directory(data, entries)
    if order == "<":
        return with_little
    start = struct.unpack_from("<I", with_little, 4)[0]
    tail = np.frombuffer(with_little[start:], np.uint8)
    return b"MM\x00*" + struct.pack(">I", start) + data[8:] + _swapped(tail.tobytes(), len(entries))


def _swapped(directory: bytes, count: int) -> bytes:
    entries = [struct.unpack_from("<HHII", directory, 2 + 12 * row) for row in range(count)]
    rest = directory[2 + 12 * count + 4 :]
    numbers = struct.unpack(f"<{len(rest) // 4}I", rest)
    return (
        struct.pack(">H", count)
        + b"".join(struct.pack(">HHII", *entry) for entry in entries)
        + struct.pack(f">I{len(numbers)}I", 0, *numbers)
    )


def gray(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[:, :, :1], 3, axis=2)


def read(data: bytes) -> NDArray[np.uint8]:
    image = EncodedImage(data, "image")
    assert np.array_equal(image.pixels(), image.fast_pixels())
    return image.pixels()


def ppm(values: NDArray[np.uint16], white: int, kind: str) -> bytes:
    height, width, _ = values.shape
    head = f"{kind}\n# a comment 12\n{width} {height}\n{white}\n".encode()
    if kind in ("P5", "P6"):
        return head + values.astype(">u2").tobytes()
    return head + " ".join(map(str, values.ravel().tolist())).encode()


DEEP = {
    "PNG gray": (png(VALUES[:, :, :1]), gray(EXPECTED)),
    "PNG gray alpha": (png(VALUES[:, :, :2]), gray(EXPECTED)),
    "PNG colour": (png(VALUES[:, :, :3]), EXPECTED),
    "PNG alpha": (png(np.dstack([VALUES[:, :, :3], OPAQUE])), EXPECTED),
    **{
        f"TIFF {bands} bands {order}": (
            make_tiff(VALUES[:, :, :bands], order=order),
            EXPECTED if bands > 2 else gray(EXPECTED),
        )
        for bands in (1, 2, 3, 4, 5)
        for order in "<>"
    },
    "TIFF planes": (make_tiff(VALUES, planar=(2,)), EXPECTED),
    "TIFF black is minimum": (make_tiff(VALUES[:, :, :4], photometric=(1,)), EXPECTED),
    "TIFF white is minimum": (make_tiff(VALUES[:, :, :1], photometric=(0,)), 255 - gray(EXPECTED)),
    "TIFF 32 bits": (make_tiff(VALUES[:, :, :3].astype(np.uint32)), EXPECTED),
    "TIFF 64 bits gray": (make_tiff(VALUES[:, :, :1].astype(np.int64)), gray(EXPECTED)),
    "TIFF signed": (make_tiff(VALUES[:, :, :1].astype(np.int16)), gray(EXPECTED)),
    "PGM": (ppm(VALUES[:, :, :1], 65535, "P5"), gray(EXPECTED)),
    "PGM of 12 bits": (ppm(VALUES[:, :, :1], 4095, "P5"), gray(EXPECTED)),
    "PPM": (ppm(VALUES[:, :, :3], 65535, "P6"), EXPECTED),
    "PPM of 12 bits in words": (ppm(VALUES[:, :, :3], 4095, "P3"), EXPECTED),
    "JPEG 2000": (
        cv2.imencode(
            ".jp2",
            np.tile(VALUES[:, :, 2::-1], (4, 4, 1)),  # the codec wants 64 pixels
            [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000],
        )[1].tobytes(),
        np.tile(EXPECTED, (4, 4, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEEP)
def test_twelve_bits_become_eight_alike_in_gray_and_colour(kind: str) -> None:
    data, expected = DEEP[kind]
    np.testing.assert_array_equal(read(data), expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_of_many_bits(compression: str) -> None:
    file = io.BytesIO()
    Image.fromarray(VALUES[:, :, 0]).save(file, "TIFF", compression=compression)
    np.testing.assert_array_equal(read(file.getvalue()), gray(EXPECTED))


@pytest.mark.parametrize("predictor", [2, 3])
def test_predicted_tiff_in_tiles(predictor: int) -> None:
    """As GDAL and libtiff write them; OpenCV writes strips with a predictor."""
    values = VALUES[:, :, :3] if predictor == 2 else VALUES[:, :, :1].astype(np.float32) - 7.25
    tile = np.zeros((32, 32, values.shape[2]), values.dtype)
    tile[:24, :20] = values
    if predictor == 2:
        stored = np.diff(tile, axis=1, prepend=tile[:, :1] * 0).astype("<u2").tobytes()
    else:
        planes = tile.astype(">f4").view(np.uint8).reshape(32, 32, 4).transpose(0, 2, 1)
        rows = planes.reshape(32, 128)
        stored = np.diff(rows, axis=1, prepend=rows[:, :1] * 0).tobytes()
    data = zlib.compress(stored)
    bands = values.shape[2]
    entries: dict[int, tuple[int, ...]] = {
        256: (20,), 257: (24,), 258: (8 * values.itemsize,) * bands, 259: (8,), 277: (bands,),
        262: (2 if bands > 1 else 1,), 317: (predictor,), 322: (32,), 323: (32,), 324: (8,),
        325: (len(data),), 339: (1 if predictor == 2 else 3,) * bands,
    }  # fmt: skip
    pixels = read(tiff.with_directory(b"\0" * 8 + data, entries))
    if predictor == 2:
        np.testing.assert_array_equal(pixels, EXPECTED)
    else:
        np.testing.assert_array_equal(pixels, gray(to_8_bits(values)))


def test_opencvs_tiff_is_read_as_opencv_reads_it() -> None:
    data = cv2.imencode(".tiff", VALUES[:, :, :3])[1].tobytes()  # LZW with a predictor
    np.testing.assert_array_equal(read(data), EXPECTED[:, :, ::-1])


def test_floats_are_stretched_over_what_is_finite_and_present() -> None:
    values = np.linspace(-1, 3, 480, dtype=np.float32).reshape(24, 20, 1)
    values[0, 1:4, 0] = (np.nan, np.inf, -np.inf)
    pixels = read(make_tiff(values))
    assert pixels[0, 0, 0] == 0 and pixels[-1, -1, 0] == 255
    assert pixels[0, 1, 0] == 0 and pixels[0, 2, 0] == 255 and pixels[0, 3, 0] == 0
    huge = np.array([[-1.7e308, 0.0, 1.7e308]])
    np.testing.assert_array_equal(to_8_bits(huge), [[0, 128, 255]])
    assert to_8_bits(np.full((2, 2), np.nan)).max() == 0


def test_unsigned_numbers_of_32_bits_are_not_negative() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    np.testing.assert_array_equal(read(make_tiff(values[:, :, None]))[0, :, 0], [0, 128, 255])


def test_a_stated_depth_is_taken() -> None:
    dark = np.full((4, 5, 1), 100, np.uint16)
    assert read(ppm(dark, 1000, "P5"))[0, 0, 0] == 26
    assert read(ppm(dark, 65535, "P5"))[0, 0, 0] == 100  # judged by the brightest pixel


def test_a_file_that_pillow_has_open_keeps_its_depth(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(DEEP["PNG colour"][0])
    with Image.open(path) as image:
        np.testing.assert_array_equal(to_rgb(image), EXPECTED)
        image.load()  # as it can be read afterwards
        assert image.getpixel((0, 0)) == (13, 13, 13)


@pytest.mark.parametrize("kind", DEEP)
def test_files_that_are_cut_short_are_damaged(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = DEEP[kind][0]
    with pytest.raises(DataError, match=r"^image: .*replace it$"):
        read(data[: len(data) // 2])
    assert capfd.readouterr().err == ""


def test_an_unknown_kind_of_tiff_is_named() -> None:
    values = np.zeros((4, 4, 1), np.float16)
    data = bytearray(make_tiff(values))
    data[data.index(struct.pack("<HHII", 339, 4, 1, 3)) + 8] = 5  # complex numbers
    with pytest.raises(DataError, match=r"sample format 5 .* is not read; convert it"):
        read(bytes(data))
