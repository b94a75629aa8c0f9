"""GeoTIFF files keep their coordinates."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from resdet.errors import UserError
from resdet.files import georeference
from resdet.files.georeference import Georeference, read_georeference
from resdet.inference.geojson import to_geojson, write_geojson
from resdet.structures import Detections

UTM = Georeference("EPSG:32633", (0.5, 0.0, 400_000.0, 0.0, -0.5, 5_800_000.0))


def write(path: Path, **options: Any) -> Path:
    shape = {"count": 1, "height": 20, "width": 30, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as file:
        file.write(np.zeros((1, 20, 30), np.uint8))
    return path


def found(masks: bool) -> Detections:
    detections = Detections(
        torch.tensor([[2.0, 4, 12, 14], [20, 5, 24, 9]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([0, 1]),
        (20, 30),
        class_names=["pond", "house"],
        category_ids=[7, 9],
    )
    if masks:
        pond = np.zeros((20, 30), bool)
        pond[4:14, 2:12] = True
        pond[6:10, 5:8] = False
        house = np.zeros((20, 30), bool)
        house[5:7, 20:22] = house[8:9, 23:24] = True
        from pycocotools import mask as coco_mask

        codes = [
            coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (pond, house)
        ]
        detections.rles = [{"size": [20, 30], "counts": code["counts"].decode()} for code in codes]
    return detections


def test_the_georeference_of_a_file(tmp_path: Path) -> None:
    place = write(tmp_path / "a.tif", crs="EPSG:32633", transform=Affine(*UTM.transform))
    assert read_georeference(place) == UTM
    world = write(tmp_path / "b.tif", crs="EPSG:4326", transform=Affine(0.1, 0, 5, 0, -0.1, 50))
    assert read_georeference(world).crs == "EPSG:4326"
    odd = "+proj=laea +lat_0=10 +lon_0=20 +ellps=WGS84 +units=m"
    assert "PROJCS" in read_georeference(write(tmp_path / "c.tif", crs=odd)).crs
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        plain = write(tmp_path / "d.tif")
    assert read_georeference(plain) is None and read_georeference(tmp_path / "none.tif") is None


def test_boxes_in_the_coordinates_of_the_file() -> None:
    collection = to_geojson(found(False), UTM, "a.tif")
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    first = collection["features"][0]
    assert first["geometry"]["type"] == "Polygon"
    x1, y1, x2, y2 = 400_001.0, 5_799_998.0, 400_006.0, 5_799_993.0
    assert first["geometry"]["coordinates"] == [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]
    assert first["properties"] == {
        "class": "pond",
        "category_id": 7,
        "score": pytest.approx(0.9),
        "bbox": [2.0, 4.0, 10.0, 10.0],
    }


def test_masks_with_holes_and_parts() -> None:
    pond, house = to_geojson(found(True), UTM, "a.tif")["features"]
    outer, hole = pond["geometry"]["coordinates"]
    assert area(outer) - area(hole) == (100 - 12) * 0.25, "square metres"
    assert house["geometry"]["type"] == "MultiPolygon"
    parts = [area(part[0]) for part in house["geometry"]["coordinates"]]
    assert sorted(parts) == [0.25, 1.0]


def area(ring: list[list[float]]) -> float:
    assert ring[0] == ring[-1]
    x, y = np.array(ring).T
    return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2


def test_names_of_reference_systems() -> None:
    for crs, name in (
        ("EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84"),
        ("ESRI:102003", "urn:ogc:def:crs:ESRI::102003"),
        ('PROJCS["own"]', 'PROJCS["own"]'),
    ):
        collection = to_geojson(found(False), Georeference(crs, UTM.transform), "a")
        assert collection["crs"]["properties"]["name"] == name
    assert "crs" not in to_geojson(found(False), Georeference(None, UTM.transform), "a")


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    write_geojson(found(True), UTM, "a.tif", path)
    write_geojson(found(False), UTM, "a.tif", path)
    assert len(json.loads(path.read_text())["features"]) == 2
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(UserError, match=r"a\.geojson: is not a file that predict wrote"):
        write_geojson(found(True), UTM, "a.tif", path)


def test_without_rasterio_a_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.tif", crs="EPSG:32633", transform=Affine(*UTM.transform))

    def missing(name: str, *args: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    georeference._rasterio.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert read_georeference(path) is None and read_georeference(path) is None
    georeference._rasterio.cache_clear()
    assert len(caplog.records) == 1 and "pip install 'resdet[geo]'" in caplog.text
