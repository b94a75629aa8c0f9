"""Masks as image files: values as stored, and files that are not masks."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.files.findings import DataError
from resdet.files.label_images import labels_of, read_labels

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def encoded(image: Any, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, format, **options
    )
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_values_are_as_stored(dtype: Any, format: str) -> None:
    values = (VALUES.astype(np.int64) * (1 if dtype == np.uint8 else 5000)).astype(dtype)
    if format == "PNG" and dtype in (np.int32, np.float32):
        pytest.skip("PNG has none of them")
    labels = labels_of(encoded(values, format), "a")
    assert labels.dtype.kind in "iu"
    np.testing.assert_array_equal(labels, values)


def test_bits_and_palettes(tmp_path: Path) -> None:
    bits = Image.fromarray(VALUES % 2 * 255).convert("1")
    assert labels_of(encoded(bits), "a").tolist() == (VALUES % 2).tolist()
    indices = Image.fromarray(VALUES, "P")
    indices.putpalette(list(range(255, -1, -1)) * 3)
    (tmp_path / "a.png").write_bytes(encoded(indices))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), VALUES)
    gray_alpha = Image.merge("LA", [Image.fromarray(VALUES), Image.fromarray(VALUES[::-1].copy())])
    np.testing.assert_array_equal(labels_of(encoded(gray_alpha), "a"), VALUES)


def packed_png(values: np.ndarray, bits: int) -> bytes:
    """A PNG file in gray of so many bits, which Pillow does not write."""
    height, width = values.shape
    shifts = 8 - bits * (1 + np.arange(8 // bits))
    wide = np.pad(values, ((0, 0), (0, -width % (8 // bits)))).reshape(height, -1, 8 // bits)
    rows = (wide << shifts).sum(axis=2).astype(np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_has_its_numbers(bits: int) -> None:
    """Pillow gives 0, 85, 170 and 255 for 2 bits."""
    values = np.arange(7 * 11).reshape(7, 11) % (1 << bits)
    np.testing.assert_array_equal(labels_of(packed_png(values, bits), "a"), values)


def test_tiff_of_few_bits_has_its_numbers() -> None:
    rows = bytes((0x01, 0x2F))
    tags = [
        (256, 4),
        (257, 1),
        (258, 4),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, 2),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 10) + rows + struct.pack("<H", len(tags)) + entries
    np.testing.assert_array_equal(labels_of(data + bytes(4), "a"), [[0, 1, 2, 15]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_are_turned_as_their_images_are(dtype: Any) -> None:
    turned = labels_of(encoded(VALUES.astype(dtype), exif=exif(6)), "a")
    np.testing.assert_array_equal(turned, np.rot90(VALUES, -1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(VALUES, "JPEG"), "a: is a JPEG file, which changes the values at borders; export"),
        (encoded(np.dstack([VALUES] * 2 + [VALUES + 1])), "a: has colours, where a mask has one"),
        (
            encoded(VALUES / np.float32(3), "TIFF"),
            "a: has values that are not whole numbers; write",
        ),
        (encoded(VALUES * np.float32(np.nan), "TIFF"), "a: has values that are not whole numbers"),
        (encoded(VALUES.astype(np.int32) - 5, "TIFF"), "a: has negative values; number objects"),
        (encoded(VALUES)[:-20], "a: image file is cut short|damaged image file"),
        (b"", "a: not an image that can be read"),
        (b"\x89PNG\r\n\x1a\n", "a: "),
        (b"P7\nWIDTH 2\nHEIGHT 2\n", "a: is of a kind that holds no masks; write it as PNG"),
    ],
)
def test_files_that_are_not_masks(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labels_of(data, "a")


def test_missing_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such mask; check the folder of the masks"):
        read_labels(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"has 4×3 pixels, more than max_pixels \(5\) allows"):
        labels_of(encoded(VALUES), "a", max_pixels=5)
