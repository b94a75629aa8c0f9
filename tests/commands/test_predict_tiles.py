"""The predict command on large images: in tiles, from windows, with coordinates."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

import resdet
from resdet.errors import UserError
from resdet.viz import overview
from tests.commands.predicting import run
from tests.models.tiny_classifier import make_classifier


@pytest.fixture(scope="module")
def large(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sample images in one GeoTIFF of tiles, and the same pixels as PNG."""
    folder = tmp_path_factory.mktemp("large")
    files = sorted((nuclei / "images").iterdir())[:20]
    images = [Image.open(path).convert("RGB") for path in files]
    tiles = [np.asarray(image) for image in images if image.size == (256, 256)][:3]
    pixels = np.hstack(tiles)
    Image.fromarray(pixels).save(folder / "large.png")
    shape = {"count": 3, "height": 256, "width": 768, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)}
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    with rasterio.open(
        folder / "large.tif", "w", driver="GTiff", **shape, **place, **options
    ) as file:
        file.write(pixels.transpose(2, 0, 1))
    return folder


def predict(model: Path, inputs: list[Path], out: Path, **options: Any) -> int:
    return run(model, inputs, out, precision="fp32", **{"score_thresh": 0.2, **options})


def test_a_geotiff_in_tiles(
    run_folder: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "DRAWN_PIXELS", 50_000)
    path = large / "large.tif"
    # the limit on pixels is for what is decoded whole
    options = {"tile": 256, "overlap": 0.2, "batch_size": 3, "max_pixels": 50_000}
    assert predict(run_folder, [path], tmp_path, **options) == 0
    records = json.loads((tmp_path / "detections.json").read_text())
    (entry,) = json.loads((tmp_path / "images.json").read_text())
    assert (entry["width"], entry["height"]) == (768, 256) and records
    assert all(record["segmentation"]["size"] == [256, 768] for record in records)
    right = [record["bbox"][0] + record["bbox"][2] for record in records]
    assert max(right) > 500, "boxes are in pixels of the image"
    assert (entry["crs"], entry["geojson"]) == ("EPSG:32633", "large.geojson")
    features = json.loads((tmp_path / "large.geojson").read_text())["features"]
    assert len(features) == len(records)
    x, y = features[0]["geometry"]["coordinates"][0][0][:2]
    x, y = x if isinstance(x, list) else (x, y)
    assert 400_000 <= x <= 400_384 and 5_799_872 <= y <= 5_800_000
    drawn = Image.open(tmp_path / entry["drawn"])
    assert drawn.width * drawn.height < 52_000 and drawn.width / drawn.height == 3.0
    model = resdet.load(run_folder, device="cpu", precision="fp32")
    found = model.predict(path, tile=256, overlap=0.2, score_thresh=0.2)
    assert found.to_coco(1) == records


def test_other_files_and_videos_in_tiles(
    run_folder: Path, large: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"tile": 256, "overlap": 0.1}
    assert predict(run_folder, [large / "large.png"], tmp_path / "a", **options) == 0
    (entry,) = json.loads((tmp_path / "a" / "images.json").read_text())
    assert "geojson" not in entry and Image.open(tmp_path / "a" / entry["drawn"]).size == (768, 256)
    with caplog.at_level(logging.ERROR):
        code = predict(
            run_folder, [large / "large.png"], tmp_path / "b", max_pixels=100_000, **options
        )
    assert code == 1 and "large.png: has 768×256 pixels, more than max_pixels" in caplog.text


def test_what_tiles_cannot_do(run_folder: Path, large: Path, tmp_path: Path) -> None:
    path = large / "large.png"
    for options, message in (
        ({"tile": 20}, "--tile is 20; give a tile's side in pixels, 32 to 16384"),
        ({"tile": 256, "overlap": 0.95}, "--overlap is 0.95; give a share of a tile's side"),
        ({"overlap": 0.2}, "--overlap belongs to tiles; give --tile too"),
    ):
        with pytest.raises(UserError, match=message):
            predict(run_folder, [path], tmp_path / "none", **options)
    with pytest.raises(UserError, match="tile: only detectors predict in tiles; leave it out"):
        make_classifier().predict(path, tile=256)
    model = resdet.load(run_folder, device="cpu")
    for tile in (True, 1e3, "256", -1):
        with pytest.raises(UserError, match="tile is"):
            model.predict(path, tile=tile)
