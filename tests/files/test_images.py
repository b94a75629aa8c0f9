"""Decoding: Pillow's pixels from every path, and errors that name the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from resdet.files.findings import DataError
from resdet.files.images import END_OF_IMAGE, EncodedImage, check_image, read_fast, read_image
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


def test_reading_for_training_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: no such image file"):
        read_fast(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="can't be read"):
        read_fast(tmp_path)
    for data in (b"", b"no image", encode(picture(1))[:-200]):
        (tmp_path / "bad.jpg").write_bytes(data)
        with pytest.raises(DataError, match=r"bad\.jpg"):
            read_fast(tmp_path / "bad.jpg")
