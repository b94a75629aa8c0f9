"""Every kind of image file becomes upright 8-bit RGB, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from resdet.files.findings import DataError
from resdet.files.images import read_image, to_8_bits

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
    path = tmp_path / "x.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), RED_LEFT)


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


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cut\.jpg: damaged image file .*replace it"):
        read_image(cut)
    for name, content in (("empty.png", b""), ("text.jpg", b"this is no image")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: not an image"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.jpg: no such image file"):
        read_image(tmp_path / "none.jpg")


def test_pixels_are_pillows(shared_data: Path) -> None:
    for path in sorted((shared_data / "coco128_inst" / "images").iterdir())[:3]:
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))
