"""Detections of georeferenced images as GeoJSON, for GIS programs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.errors import UserError
from resdet.files.georeference import Georeference
from resdet.files.writing import write_text
from resdet.ops.outlines import trace_rings
from resdet.structures import Detections

GENERATOR = "resdet predict"
"""A member of the files by which former ones are recognised."""

Ring = NDArray[np.float64]


def to_geojson(detections: Detections, place: Georeference, name: str) -> dict[str, Any]:
    """A FeatureCollection with a polygon per detection in the file's own reference system.

    Polygons follow the borders of mask pixels, holes included; without masks they are the boxes.
    Properties are class, category_id, score and bbox (x, y, width, height in pixels). The member
    crs, of the GeoJSON of 2008, names the system: GDAL and QGIS read it. RFC 7946 allows WGS 84
    alone.
    """
    collection: dict[str, Any] = {"type": "FeatureCollection", "generator": GENERATOR, "name": name}
    if place.crs is not None:
        collection["crs"] = {"type": "name", "properties": {"name": _urn(place.crs)}}
    polygons = (
        [_polygons(mask.numpy(), x, y) for (x, y, _, _), mask in detections.mask_windows()]
        if detections.has_masks
        else [[[_corners(box)]] for box in detections.boxes.double().numpy()]
    )
    features: list[dict[str, Any]] = []
    for record, parts in zip(detections.to_coco(0), polygons, strict=True):
        label = int(detections.labels[len(features)])
        names = detections.class_names
        coordinates = [[_closed(place.points(ring)) for ring in part] for part in parts]
        is_one = len(coordinates) == 1
        geometry = {
            "type": "Polygon" if is_one else "MultiPolygon",
            "coordinates": coordinates[0] if is_one else coordinates,
        }
        properties = {
            "class": names[label] if names else f"class {label}",
            "category_id": record["category_id"],
            "score": round(record["score"], 6),
            "bbox": record["bbox"],
        }
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {**collection, "features": features}


def write_geojson(detections: Detections, place: Georeference, name: str, path: Path) -> Path:
    """Write the file, atomically. UserError where another program's file has its name, WriteError
    where the disk refuses."""
    if os.path.lexists(path) and not _is_own(path):
        raise UserError(
            f"{path}: is not a file that predict wrote, and would be replaced; move it, or give "
            "another --out"
        )
    return write_text(path, json.dumps(to_geojson(detections, place, name)) + "\n")


def _is_own(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return f'"generator": "{GENERATOR}"' in file.read(200)
    except (OSError, UnicodeDecodeError):
        return False


def _urn(crs: str) -> str:
    if crs == "EPSG:4326":  # longitude first, as in the file's transform
        return "urn:ogc:def:crs:OGC:1.3:CRS84"
    authority, _, code = crs.partition(":")
    return f"urn:ogc:def:crs:{authority}::{code}" if code.isdecimal() else crs


def _corners(box: NDArray[np.float64]) -> Ring:
    x1, y1, x2, y2 = box.tolist()
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _polygons(mask: NDArray[np.bool_], x: int, y: int) -> list[list[Ring]]:
    """The parts of a mask (h, w) whose corner is at (x, y) of the image: each its outer ring, then
    its holes."""
    outer, holes = trace_rings(mask)
    parts = [[ring] for ring in outer]
    contours = [ring.astype(np.float32)[:, None] for ring in outer]
    for hole in holes:
        # in the middle of a ring whose hole it is, and outside all others
        inside = [
            cv2.pointPolygonTest(contour, tuple(map(float, hole.mean(axis=0))), True)
            for contour in contours
        ]
        parts[int(np.argmax(inside))].append(hole)
    corner = np.array([x, y])
    return [[ring + corner for ring in part] for part in parts]


def _closed(ring: Ring) -> list[list[float]]:
    points = ring.tolist()
    return [*points, points[0]]
