"""Where on the Earth a TIFF file's pixels are, read by rasterio (extra `geo`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.dependencies import import_extra
from resdet.errors import UserError
from resdet.files import tiff
from resdet.files.regular import open_regular

logger = logging.getLogger("resdet")

GEO_TAGS = (33550, 33922, 34264, 34735)
"""ModelPixelScale, ModelTiepoint, ModelTransformation and GeoKeyDirectory."""

LOOKED_AT = 100
"""Files of which the headers are read to see whether rasterio is needed."""


@dataclass(frozen=True)
class Georeference:
    """A coordinate reference system, and the pixels in it."""

    crs: str | None
    """As EPSG:32633 where it has a number, else as WKT; None where the file gives none."""
    transform: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f): pixel corner (x, y) is at (a·x + b·y + c, d·x + e·y + f)."""

    def points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(…, 2) xy pixels to (…, 2) coordinates of the system, x (or longitude) first."""
        a, b, c, d, e, f = self.transform
        return points.astype(np.float64) @ np.array([[a, d], [b, e]]) + np.array([c, f])


def read_georeference(path: str | Path) -> Georeference | None:
    """That of a GeoTIFF file; None for other files, without rasterio (with a line in the log), and
    where it cannot be read."""
    if not _is_geotiff(Path(path)):
        return None
    rasterio = _rasterio()
    if rasterio is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path) as file:
                a, b, c, d, e, f = tuple(file.transform)[:6]
                crs = None if file.crs is None else _name(file.crs)
    except Exception as error:  # rasterio's own, of damaged keys
        logger.warning("%s: its coordinates cannot be read (%s); pixels are written", path, error)
        return None
    if crs is None and (a, b, c, d, e, f) == (1, 0, 0, 0, 1, 0):
        return None
    return Georeference(crs, (a, b, c, d, e, f))


def check_rasterio(paths: Iterable[Path]) -> None:
    """The line in the log of `read_georeference`, before any of it, where one of the first
    `LOOKED_AT` files that are called TIFF needs rasterio and it is not there."""
    named = (path for path in paths if path.suffix.lower() in (".tif", ".tiff"))
    if any(map(_is_geotiff, islice(named, LOOKED_AT))):
        _rasterio()


def _is_geotiff(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            if not file.read(4).startswith(tiff.MAGIC):
                return False
            return any(tag in tiff.read_layout(file).tags for tag in GEO_TAGS)
    except Exception:  # whatever is wrong with it is reported where its pixels are read
        return False


@cache
def _rasterio() -> Any:
    """The package; None, and one line in the log, where it is not there."""
    try:
        return import_extra("rasterio", "geo", "keeping the coordinates of GeoTIFF files")
    except UserError as error:
        logger.warning("%s; without it results are in pixels alone", error)
        return None


def _name(crs: Any) -> str:
    authority = crs.to_authority()
    return ":".join(authority) if authority is not None else str(crs.to_wkt())
