"""The section `data.tile`, and what it changes in the defaults of other sections."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from resdet.config.fields import Fraction, Section
from resdet.ops.tiles import LARGEST, MOST_OVERLAP, OVERLAP, SMALLEST, Tiling

MAX_DETS = [1, 100, 10_000]
"""`eval.max_dets` where images are cut into tiles: they may have thousands of objects."""


class TileConfig(Section):
    """Images that are cut into tiles: each is one image to train on; evaluation and prediction
    merge the detections of the tiles. Unless they are given, `data.augment.resize` and
    `data.test_resize` leave tiles at the image's resolution, and `eval.max_dets` is 1, 100, 10000.
    """

    size: Annotated[int, Field(ge=SMALLEST, le=LARGEST)]
    """Side of a tile in pixels of the image."""
    overlap: Annotated[float, Field(ge=0, le=MOST_OVERLAP)] = OVERLAP
    """Least share of a tile's side that neighbours have in common; an object that fits into it is
    whole in some tile."""
    min_visible: Fraction = 0.1
    """Training: objects of whose box a smaller share is inside a tile are dropped from it."""
    empty: Fraction = 0.1
    """Training: share of the tiles without objects that is kept, the same in every epoch."""

    @property
    def tiling(self) -> Tiling:
        return Tiling(self.size, self.overlap)


def see_tiles_natively(data: Any) -> Any:
    """A section data as it is given, with sizes that leave tiles at the image's resolution where it
    has none."""
    size = _tile_size(data)
    if size is None:
        return data
    augment, at_test = data.get("augment", {}), data.get("test_resize", {})
    resize = augment.get("resize", {}) if isinstance(augment, dict) else None
    if isinstance(resize, dict) and not {"mode", "short_edges", "max_size"} & set(resize):
        native = resize | {"short_edges": [size], "max_size": size}
        data = data | {"augment": augment | {"resize": native}}
    if isinstance(at_test, dict) and not {"short_edge", "max_size"} & set(at_test):
        data = data | {"test_resize": at_test | {"short_edge": size, "max_size": size}}
    return data


def count_more_objects(config: Any) -> Any:
    """A whole config as it is given, with `MAX_DETS` where it has tiles and no limits."""
    if not isinstance(config, dict) or _tile_size(config.get("data")) is None:
        return config
    section = config.get("eval", {})
    if not isinstance(section, dict) or "max_dets" in section:
        return config
    return config | {"eval": section | {"max_dets": MAX_DETS}}


def _tile_size(data: Any) -> int | None:
    """`tile.size` of a section data; None without a usable one."""
    tile = data.get("tile") if isinstance(data, dict) else None
    size = tile.get("size") if isinstance(tile, dict) else None
    return size if type(size) is int and SMALLEST <= size <= LARGEST else None
