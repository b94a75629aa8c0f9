"""Windows of image files have the pixels of the whole files."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image, TiffImagePlugin
from rasterio.enums import ColorInterp

from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.files.windows import FileWindows, WholeImage, open_windows, overview

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIZE = (150, 210)
WINDOWS = [
    (0, 0, 210, 150),
    (30, 20, 97, 85),
    (200, 140, 210, 150),
    (64, 0, 128, 150),
    (5, 7, 6, 8),
]


def noise(bands: int, dtype: str, most: int = 255) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, most, (bands, 12, 16)).repeat(13, 1).repeat(14, 2)
    return smooth[:, : SIZE[0], : SIZE[1]].astype(dtype)


def write(path: Path, values: np.ndarray, **options: object) -> Path:
    bands, height, width = values.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(values)
        if bands == 4 and options.get("photometric") == "RGB":
            file.colorinterp = [
                ColorInterp.red,
                ColorInterp.green,
                ColorInterp.blue,
                ColorInterp.alpha,
            ]
    return path


def check(path: Path) -> None:
    whole, windows = read_image(path), open_windows(path)
    assert isinstance(windows, FileWindows), "it is not read by windows"
    assert windows.size == whole.shape[:2]
    height, width = windows.size
    for window in WINDOWS:
        x1, y1, x2, y2 = (min(v, side) for v, side in zip(window, (width, height) * 2, strict=True))
        if x2 > x1 and y2 > y1:
            assert np.array_equal(windows.read((x1, y1, x2, y2)), whole[y1:y2, x1:x2]), window


TILED = {"tiled": True, "blockxsize": 64, "blockysize": 48}


@pytest.mark.parametrize(
    "layout", [TILED, {"blockysize": 16, "tiled": False}], ids=["tiles", "strips"]
)
@pytest.mark.parametrize(
    ("bands", "dtype", "most", "options"),
    [
        (3, "uint8", 255, {}),
        (3, "uint8", 255, {"photometric": "RGB", "compress": "deflate", "predictor": 2}),
        (3, "uint8", 255, {"photometric": "YCBCR", "compress": "jpeg", "interleave": "pixel"}),
        (3, "uint8", 255, {"photometric": "RGB", "compress": "lzw", "interleave": "band"}),
        (4, "uint8", 255, {"photometric": "RGB", "compress": "lzw", "interleave": "pixel"}),
        (4, "uint8", 255, {"photometric": "MINISBLACK"}),
        (5, "uint8", 255, {"compress": "deflate", "predictor": 2, "interleave": "pixel"}),
        (8, "uint8", 255, {"interleave": "band"}),
        (5, "int8", 100, {"compress": "lzw"}),
        (1, "uint8", 255, {"compress": "packbits", "photometric": "MINISWHITE"}),
        (1, "uint16", 3000, {"compress": "deflate", "predictor": 2}),
        (3, "uint16", 60000, {"photometric": "RGB", "interleave": "band", "BIGTIFF": "YES"}),
        (6, "uint16", 900, {"interleave": "pixel", "compress": "lzw"}),
        (1, "int16", 900, {"compress": "zstd", "ENDIANNESS": "BIG"}),
        (1, "float32", 90, {"compress": "deflate", "predictor": 3, "nodata": 5}),
    ],
)
def test_tiff_files_of_every_kind(
    tmp_path: Path, layout: dict, bands: int, dtype: str, most: int, options: dict
) -> None:
    values = noise(bands, dtype, most)
    check(write(tmp_path / "a.tif", values, **layout, **options))
    if dtype == "uint8" and bands > 3:
        first = values[:3].transpose(1, 2, 0)
        assert np.array_equal(read_image(tmp_path / "a.tif"), first)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_are_upright(tmp_path: Path, orientation: int) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    image = Image.fromarray(noise(3, "uint8").transpose(1, 2, 0).copy())
    image.save(tmp_path / "a.tif", tiffinfo=tags, compression="tiff_lzw", strip_size=6000)
    check(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA"])
def test_a_single_strip_without_compression_is_divided(tmp_path: Path, mode: str) -> None:
    pixels = np.tile(noise(3, "uint8").transpose(1, 2, 0), (9, 3, 1))
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.tif", strip_size=1 << 30)
    assert len(Image.open(tmp_path / "a.tif").tag_v2[273]) == 1
    check(tmp_path / "a.tif")


def test_other_files_are_decoded_whole_within_the_limit(tmp_path: Path) -> None:
    image = Image.fromarray(noise(3, "uint8").transpose(1, 2, 0).copy())
    image.save(tmp_path / "one.tif", compression="tiff_lzw", strip_size=1 << 30)
    image.save(tmp_path / "a.png")
    for name in ("one.tif", "a.png"):
        windows = open_windows(tmp_path / name)
        assert isinstance(windows, WholeImage)
        assert np.array_equal(windows.read(WINDOWS[1]), np.asarray(image)[20:85, 30:97])
        with pytest.raises(UserError, match="more than max_pixels"):
            open_windows(tmp_path / name, 1000)
    image.save(tmp_path / "many.tif", compression="tiff_lzw", strip_size=6000)
    assert open_windows(tmp_path / "many.tif", 1000).size == SIZE, "no limit for windows"
    assert open_windows(image).size == open_windows(np.asarray(image)).size == SIZE


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(3, "uint8"), **TILED, compress="lzw")
    data = path.read_bytes()
    path.write_bytes(data[:-3000])
    with pytest.raises(UserError, match=r"a\.tif: image file is cut short; replace it"):
        open_windows(path).read((0, 0, 210, 150))
    sparse = write(tmp_path / "b.tif", noise(3, "uint8") * 0, **TILED, SPARSE_OK=True)
    with pytest.raises(UserError, match=r"b\.tif: has parts without pixels.*SPARSE_OK=FALSE"):
        read_image(sparse)
    with pytest.raises(UserError, match=r"b\.tif: has parts without pixels"):
        open_windows(sparse).read((0, 0, 10, 10))
    with pytest.raises(UserError, match="no such image file"):
        open_windows(tmp_path / "c.tif")


def test_an_overview_is_the_shrunk_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(3, "uint8").transpose(1, 2, 0).repeat(4, 0).repeat(5, 1)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="tiff_lzw", strip_size=6000)
    windows = open_windows(tmp_path / "a.tif")
    assert np.array_equal(overview(windows, 10**6), pixels)
    wanted = cv2.resize(pixels, (115, 65), interpolation=cv2.INTER_AREA).astype(int)
    for at_once in (1 << 24, 1 << 9):
        monkeypatch.setattr("resdet.files.windows.AT_ONCE", at_once)
        monkeypatch.setattr("resdet.files.windows.WIDEST", at_once >> 4)
        small = overview(windows, 7500)
        assert small.shape == (65, 115, 3)
        # parts begin at whole pixels of the image
        assert np.abs(small.astype(int) - wanted).mean() < 4


def test_windows_travel_to_other_processes(tmp_path: Path) -> None:
    windows = open_windows(write(tmp_path / "a.tif", noise(3, "uint8"), **TILED))
    before = windows.read(WINDOWS[1])
    assert np.array_equal(pickle.loads(pickle.dumps(windows)).read(WINDOWS[1]), before)
