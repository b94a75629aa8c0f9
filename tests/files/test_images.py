"""Every kind of image file becomes upright 8-bit RGB with Pillow's pixels; errors name the file."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from resdet.files import images, tiff
from resdet.files.findings import DataError
from resdet.files.images import (
    END_OF_IMAGE,
    EncodedImage,
    check_image,
    image_problems,
    read_fast,
    read_image,
    read_size,
    to_8_bits,
)
from tests.data.make_cls import picture


def encode(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Path]:
    files = sorted((shared_data / "imagenet1k_sample_256" / "images").rglob("*.jpg"))
    return files[::50]


def test_fast_pixels_are_pillows(photos: list[Path]) -> None:
    for path in photos:
        image = EncodedImage(path.read_bytes(), str(path))
        expected = read_image(path)
        assert image.size == expected.shape[:2]
        assert np.array_equal(image.fast_pixels(), expected)
        assert np.array_equal(image.pixels(), expected)


@pytest.mark.parametrize("reduce", [2, 4, 8])
def test_reduced_pixels_are_pillows_draft(photos: list[Path], reduce: int) -> None:
    for path in photos[:8]:
        with Image.open(path) as draft:
            draft.draft(None, (draft.width // reduce, draft.height // reduce))
            expected = np.asarray(draft.convert("RGB"))
        pixels = EncodedImage(path.read_bytes(), str(path)).fast_pixels(reduce)
        height, width = read_image(path).shape[:2]
        assert pixels.shape == (-(-height // reduce), -(-width // reduce), 3)
        assert np.array_equal(pixels, expected)


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encode(picture(1), exif=exif)


MADE = {
    "gray": encode(picture(2).convert("L")),
    "CMYK": encode(picture(3).convert("CMYK")),
    "turned": oriented(6),
    "mirrored": oriented(2),
    "palette": encode(picture(4).convert("P"), "PNG"),
    "alpha": encode(picture(5).convert("RGBA"), "PNG"),
    "progressive": encode(picture(6), progressive=True),
    "padded": encode(picture(7)) + bytes(16),
    "webp": encode(picture(8), "WEBP"),
    "gif": encode(picture(9), "GIF"),
    "deep": cv2.imencode(".tiff", np.full((6, 8, 3), 4000, np.uint16))[1].tobytes(),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("reduce", [1, 2])
def test_all_kinds_of_files_come_upright_and_rgb(tmp_path: Path, kind: str, reduce: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(MADE[kind])
    expected = read_image(path)
    image = EncodedImage(MADE[kind], "image")
    assert image.size == expected.shape[:2]
    pixels = image.fast_pixels(reduce)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    if reduce == 1 or pixels.shape == expected.shape:
        assert np.array_equal(pixels, expected)
    else:  # a JPEG file
        assert pixels.shape[:2] == (-(-expected.shape[0] // 2), -(-expected.shape[1] // 2))
        shrunk = cv2.resize(expected, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(pixels.astype(int) - shrunk).mean() < 3
    assert np.array_equal(EncodedImage(MADE[kind], "image").pixels(), expected)


def damaged() -> dict[str, bytes]:
    whole = encode(picture(10, 200, 300))
    png = encode(picture(10, 200, 300), "PNG")
    return {
        "empty": b"",
        "text": b"<html>404</html>",
        "cut": whole[: len(whole) // 2],
        "cut, but ended": whole[: len(whole) // 2] + b"\x00" * 80,
        "header": whole[:40],
        "png": png[: len(png) // 2],
    }


@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_file_is_named(kind: str) -> None:
    data = damaged()[kind]
    for read in (EncodedImage.pixels, EncodedImage.fast_pixels, lambda i: i.fast_pixels(2)):
        with pytest.raises(DataError, match=r"^photos/a\.jpg: .+; replace it$"):
            read(EncodedImage(data, "photos/a.jpg"))
    with pytest.raises(DataError, match=r"^photos/a\.jpg: "):
        check_image(io.BytesIO(data), "photos/a.jpg", whole=True)


def test_headers_show_what_is_no_image() -> None:
    for kind, data in MADE.items():
        check_image(io.BytesIO(data), kind, whole=False)
    for kind in ("empty", "text", "header"):
        with pytest.raises(DataError, match=r"a\.jpg: "):
            check_image(io.BytesIO(damaged()[kind]), "a.jpg", whole=False)


def test_a_missing_end_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(picture(11))
    assert data.endswith(END_OF_IMAGE)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    # All pixels are there, which is good enough for Pillow.
    assert EncodedImage(data[:-2] + b"\x00", "a.jpg").fast_pixels().shape == (40, 60, 3)


@pytest.mark.parametrize("name", MADE)
def test_reading_for_training_gives_the_same_pixels(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(MADE[name])
    assert np.array_equal(read_fast(path), read_image(path))


@pytest.mark.parametrize("read", [read_fast, read_image])
def test_reading_names_what_is_wrong(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: no such image file"):
        read(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="is a folder, not a regular file"):
        read(tmp_path)
    path = tmp_path / "bad.jpg"
    for data, what in (
        (b"", "not an image"),
        (b"no image", "not an image"),
        (encode(picture(1))[:-200], "damaged image file .*replace it"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"bad\.jpg: {what}"):
            read(path)


RED_LEFT = np.zeros((20, 30, 3), np.uint8)
RED_LEFT[:, :15] = (250, 10, 20)
RED_LEFT[:, 15:] = (5, 200, 100)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # What a viewer shows for each orientation, from TIFF 6.0: undo the turn when storing.
    stored = {
        1: RED_LEFT,
        2: RED_LEFT[:, ::-1],
        3: RED_LEFT[::-1, ::-1],
        4: RED_LEFT[::-1],
        5: RED_LEFT.transpose(1, 0, 2),
        6: np.rot90(RED_LEFT, 1),
        7: RED_LEFT[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RED_LEFT, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    for suffix in ("png", "tiff"):
        path = tmp_path / f"x.{suffix}"
        image.save(path, exif=exif)
        np.testing.assert_array_equal(read_image(path), RED_LEFT)
        assert read_size(path) == (20, 30)
    deep = tiff.with_directory(
        bytes(8) + (np.ascontiguousarray(stored).astype("<u2") * 257).tobytes(),
        {256: (stored.shape[1],), 257: (stored.shape[0],), 258: (16,) * 3, 262: (2,), 277: (3,),
         273: (8,), 279: (stored.size * 2,), 274: (orientation,)},
    )  # fmt: skip
    path.write_bytes(deep)
    assert np.abs(read_image(path).astype(int) - RED_LEFT).max() <= 5  # 250 becomes 255
    assert read_size(path) == (20, 30)


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.jpg"
    Image.fromarray(np.ascontiguousarray(np.rot90(RED_LEFT))).save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (20, 30, 3)
    assert abs(int(image[10, 4, 0]) - 250) < 20


def test_gray_palette_alpha_and_bilevel(tmp_path: Path) -> None:
    gray = np.arange(200, dtype=np.uint8).reshape(10, 20)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.dstack([gray] * 3))
    Image.fromarray(RED_LEFT).quantize(4).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), RED_LEFT)
    alpha = np.dstack([RED_LEFT, np.full(RED_LEFT.shape[:2], 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), RED_LEFT)
    Image.fromarray(gray > 99).save(tmp_path / "bits.png")
    expected = np.dstack([np.where(gray > 99, 255, 0)] * 3)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), expected)


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(RED_LEFT).convert("CMYK").save(path, quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(read_image(path).astype(int) - RED_LEFT).mean() < 8


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_that_are_full_give_the_8_bits_back(tmp_path: Path, suffix: str) -> None:
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(gray * 257).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 0], gray)


def test_12_bits_in_a_file_of_16_are_not_black(tmp_path: Path) -> None:
    gray = np.linspace(0, 4095, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(gray).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image.max() == 255
    np.testing.assert_allclose(image[..., 2], gray / 4095 * 255, atol=0.51)


def test_16_bit_colour_tiff(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.tiff"), RED_LEFT[:, :, ::-1].astype(np.uint16) * 257)
    image = read_image(tmp_path / "x.tiff")
    assert np.abs(image.astype(int) - RED_LEFT).max() <= 4  # the depth is judged by the brightest


def test_to_8_bits_of_fractions_and_constants() -> None:
    np.testing.assert_array_equal(to_8_bits(np.array([[0.0, 0.5, 1.0]])), [[0, 128, 255]])
    np.testing.assert_array_equal(to_8_bits(np.full((2, 2), 3.0)), np.zeros((2, 2)))
    np.testing.assert_array_equal(to_8_bits(np.array([[0, 200]], np.uint16)), [[0, 200]])


TIFF_HEAD = b"Exif\0\0II*\0\x08\0\0\0"


def entry(kind: int, count: int, value: int, tag: int = 0x0112) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


EXIF = {
    "turned": (TIFF_HEAD + b"\1\0" + entry(3, 1, 6) + bytes(4), True),
    "as LONG": (TIFF_HEAD + b"\1\0" + entry(4, 1, 6) + bytes(4), True),
    "turned, then damaged": (
        TIFF_HEAD + b"\2\0" + entry(3, 1, 6) + entry(5, 1, 2**31, 0x011A) + bytes(4),
        True,
    ),
    "0": (TIFF_HEAD + b"\1\0" + entry(3, 1, 0) + bytes(4), False),
    "9": (TIFF_HEAD + b"\1\0" + entry(3, 1, 9) + bytes(4), False),
    "text": (TIFF_HEAD + b"\1\0" + entry(2, 2, 0x36) + bytes(4), False),
    "two values": (TIFF_HEAD + b"\1\0" + entry(3, 2, 6) + bytes(4), False),
    "cut short": (TIFF_HEAD + b"\5\0" + entry(3, 1, 6)[:7], False),
    "far away": (b"Exif\0\0II*\0\xff\xff\xff\x7f", False),
    "empty": (b"Exif\0\0", False),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", EXIF)
def test_orientations_that_are_odd_or_damaged(tmp_path: Path, kind: str, format: str) -> None:
    exif, is_turned = EXIF[kind]
    path = tmp_path / f"image.{format.lower()}"
    path.write_bytes(encode(picture(1), format, exif=exif))  # 40 pixels high, 60 wide
    expected = (60, 40) if is_turned else (40, 60)
    assert read_size(path) == read_image(path).shape[:2] == read_fast(path).shape[:2] == expected
    assert image_problems([path], [expected]) == {}
    stored = image_problems([path], [(40, 60)])
    turned = "is 40×60 pixels upright (its EXIF orientation turns it), annotated as 60×40"
    assert stored == ({0: turned} if is_turned else {})


def test_exif_data_behind_the_pixels_and_in_xmp(tmp_path: Path) -> None:
    path = tmp_path / "image"
    whole = encode(picture(1), "PNG")
    exif = EXIF["turned"][0][6:]
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    late = whole[:-12] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + whole[-12:]
    xmp = encode(picture(1), "JPEG", xmp=b'<rdf tiff:Orientation="6"/>')
    oriented_tiff = encode(picture(1), "TIFF", tiffinfo={0x0112: 6})
    for data in (late, xmp, oriented_tiff):
        path.write_bytes(data)
        assert read_size(path) == read_image(path).shape[:2] == (60, 40)


def test_a_turned_jpeg_is_decoded_fast_and_upright() -> None:
    image = EncodedImage(oriented(6), "image")
    assert np.array_equal(image.fast_pixels(), image.pixels())
    assert image.fast_pixels(2).shape == (30, 20, 3)


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    for name, what in (("pipe.jpg", "a pipe"), ("link.jpg", "a pipe"), ("/dev/zero", "a device")):
        for read in (read_image, read_fast, read_size):
            with pytest.raises(DataError, match=f"is {what}, not a regular file"):
                read(tmp_path / name)


def test_pixels_are_limited_by_the_header(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk))
        + bytes(4) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )  # fmt: skip
    radiance = tmp_path / "large.hdr"
    radiance.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n" + bytes(99))
    for file in (path, radiance):
        for read in (read_image, read_fast, read_size):
            with pytest.raises(DataError, match=rf"{file.name}: has .0000×.0000 pixels, more than"):
                read(file)
    assert read_size(path, 900_000_000) == (30_000, 30_000)


@pytest.mark.parametrize("error", [KeyError("x"), struct.error("bad"), MemoryError(), IndexError()])
def test_whatever_a_decoder_raises_names_the_file(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Image.Image) -> None:
        raise error

    image = EncodedImage(MADE["webp"], "photos/a.webp")
    monkeypatch.setattr(type(image.header.image), "load", fail)
    with pytest.raises(DataError, match=r"^photos/a\.webp: .+; "):
        image.pixels()


class Failing(io.BytesIO):
    """A file on a disk that fails."""

    def read(self, *size: int | None) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fileno(self) -> int:
        return 0


@pytest.mark.parametrize("read", [read_image, read_fast, read_size])
def test_a_failing_disk_is_not_called_a_damaged_file(monkeypatch: pytest.MonkeyPatch, read) -> None:
    monkeypatch.setattr(images, "open_regular", lambda path: Failing())
    with pytest.raises(DataError, match=r"^a\.png: can't be read \(Input/output error\)$"):
        read("a.png")


@pytest.mark.parametrize("whole", [False, True])
def test_a_failing_disk_during_the_check_names_the_file(whole: bool) -> None:
    with pytest.raises(DataError, match=r"^a\.png: can't be read \(Input/output error\)$"):
        check_image(Failing(), "a.png", whole=whole)


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "a.png").write_bytes(b"whole")
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match=r"a\.png: can't be read \(Permission denied\)$"):
        read_image(tmp_path / "a.png")
