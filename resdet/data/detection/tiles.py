"""A data set whose images are tiles of larger images."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import RLE, Affine, Outlines, rle_outlines
from resdet.data.detection.placing import CUT_SIDE, Layer, Objects, visible_boxes
from resdet.files.rle import encode_bitmap
from resdet.files.windows import Windows, open_windows
from resdet.ops.runs import decode_window
from resdet.ops.tiles import Tiling

if TYPE_CHECKING:
    from resdet.data.detection.dataset import DetectionDataset

logger = logging.getLogger("resdet")


@dataclass
class Tiles:
    """The tiles of a data set: where each is, and how pixels and objects are cut."""

    tiling: Tiling
    windows: NDArray[np.int64]
    """(T, 4) x1, y1, x2, y2 in whole pixels of their images."""
    parents: NDArray[np.int64]
    """(T,) positions of their images in `untiled`."""
    untiled: DetectionDataset
    """The data set of whole images."""
    min_visible: float
    """Objects of whose box a smaller share is inside a tile are dropped."""
    _open: tuple[Path, Windows] | None = field(default=None, repr=False)
    """The last image, for the next of its tiles."""

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(T, 2) height, width of each tile."""
        sides = self.windows[:, 2:] - self.windows[:, :2]
        return sides[:, ::-1].astype(np.int32)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The pixels (h, w, 3) RGB of a tile; DataError as `DetectionDataset.read`."""
        data, parent = self.untiled, int(self.parents[index])
        path = data.path(parent)
        if self._open is None or self._open[0] != path:
            self._open = None  # before the next one takes memory
            image = open_windows(path, data.max_pixels, fast=not data.transform.exact)
            data.check_size(parent, *image.size)
            self._open = path, image
        return self._open[1].read(self.windows[index])

    def cut(self, objects: Objects, index: int) -> Objects:
        """The objects of an image, in its pixels, as far as a tile shows them, in pixels of the
        tile: by the rules of crops, see `place_objects`."""
        x1, y1, x2, y2 = self.windows[index].tolist()
        height, width = self.untiled.sizes[self.parents[index]].tolist()
        layer = Layer(
            objects,
            Affine(shift_x=-x1, shift_y=-y1),
            (height, width),
            (0, 0, x2 - x1, y2 - y1),
            min_visible=self.min_visible,
        )
        rows, boxes = visible_boxes(layer)
        shown = objects.select(rows)
        shown.boxes = boxes.astype(np.float32)
        if shown.outlines is not None:
            size = (height, width)
            shown.outlines = _moved(shown.outlines, (x1, y1), (y2 - y1, x2 - x1), size)
        return shown


def _moved(
    outlines: Outlines, corner: tuple[int, int], tile: tuple[int, int], image: tuple[int, int]
) -> Outlines:
    """Outlines in pixels of a tile of (height, width) with its `corner` (x, y) in an image of
    (height, width). Polygons may pass the border: masks are made inside the boxes."""
    moved = copy.copy(outlines)
    moved.points = outlines.points - np.array(corner, outlines.points.dtype)
    coded = outlines.kinds == RLE
    if not coded.any():
        return moved
    codes = [b""] * len(outlines)
    for row in np.flatnonzero(coded).tolist():
        first, last = outlines.rle_offsets[row : row + 2]
        rle = {"size": image, "counts": outlines.rle[first:last].tobytes()}
        (left, top, _, _), mask = decode_window(rle)
        codes[row] = encode_bitmap(mask, top - corner[1], left - corner[0], tile)
    cropped = rle_outlines(codes)
    moved.rle, moved.rle_offsets = cropped.rle, cropped.rle_offsets
    return moved


def cut_into_tiles(
    data: DetectionDataset,
    tiling: Tiling,
    *,
    min_visible: float = 0.0,
    empty: float = 1.0,
    seed: int = 0,
) -> DetectionDataset:
    """The same data with each tile as an image.

    Args:
        min_visible: objects of whose box a smaller share, 0..1, is inside a tile are dropped.
        empty: share of the tiles without objects that is kept, chosen by the `seed` alone.
    """
    windows, parents = _all_windows(data, tiling)
    tile_of, rows = _find_objects(data, tiling, min_visible)
    per_tile = np.bincount(tile_of, minlength=len(windows))
    bare = np.flatnonzero(per_tile == 0)
    keep = per_tile > 0
    generator = np.random.default_rng(np.random.SeedSequence((seed,), spawn_key=(1,)))
    keep[generator.permutation(bare)[: round(empty * len(bare))]] = True
    order = np.argsort(tile_of, kind="stable")
    order = order[keep[tile_of[order]]]
    chosen = np.flatnonzero(keep)
    tiles = copy.copy(data)
    tiles.tiles = Tiles(tiling, windows[chosen], parents[chosen], data, min_visible)
    tiles.images, tiles.rows = data.images[parents[chosen]], data.rows[rows[order]]
    tiles.stops = np.cumsum(per_tile[chosen])
    tiles.starts = tiles.stops - per_tile[chosen]
    logger.info(
        "%s: %d images in %d tiles of %d pixels: %d with objects, and %d of %d without",
        data.table.source,
        len(data),
        len(chosen),
        tiling.size,
        len(windows) - len(bare),
        len(chosen) - (len(windows) - len(bare)),
        len(bare),
    )
    return tiles


def _all_windows(
    data: DetectionDataset, tiling: Tiling
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(T, 4) the tiles of all images in order, and (T,) the positions of their images."""
    sizes, of_size = np.unique(data.sizes, axis=0, return_inverse=True)
    known = [tiling.windows((height, width)) for height, width in sizes.tolist()]
    of_image = of_size.reshape(-1).tolist()
    counts = [len(known[size]) for size in of_image]
    return np.concatenate([known[size] for size in of_image]), np.repeat(
        np.arange(len(data)), counts
    )


def _find_objects(
    data: DetectionDataset, tiling: Tiling, min_visible: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each pair of a tile and an object of which it shows enough: positions among all tiles, and
    among the targets of the data, in the order of the targets."""
    sizes = data.sizes
    first_tile = np.cumsum([0, *(_count(tiling, size) for size in sizes.tolist())])[:-1]
    boxes = data.target_boxes
    tile_parts, row_parts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    starts, stops = data.starts.tolist(), data.stops.tolist()
    for position, (height, width) in enumerate(sizes.tolist()):
        rows = np.arange(starts[position], stops[position])
        if not len(rows):
            continue
        lefts, tops = tiling.starts(width), tiling.starts(height)
        own = boxes[rows]
        across = _shown(own[:, ::2], lefts, min(tiling.size, width))
        down = _shown(own[:, 1::2], tops, min(tiling.size, height))
        objects, places = [], []
        for object_, (columns, lines) in enumerate(zip(across, down, strict=True)):
            pairs = lines[0][:, None] * len(lefts) + columns[0]
            enough = lines[1][:, None] * columns[1] >= min_visible
            places.append(pairs[enough])
            objects.append(np.full(len(places[-1]), object_))
        tile_parts.append(first_tile[position] + np.concatenate(places))
        row_parts.append(rows[np.concatenate(objects)])
    return np.concatenate(tile_parts), np.concatenate(row_parts)


def _count(tiling: Tiling, size: list[int]) -> int:
    return len(tiling.starts(size[0])) * len(tiling.starts(size[1]))


def _shown(
    spans: NDArray[np.floating], starts: NDArray[np.int64], side: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each object's (n, 2) first and last pixel along an axis, the tiles that show some of it,
    and the share of its length that they show."""
    found = []
    lows = np.searchsorted(starts + side, spans[:, 0], side="right").tolist()
    highs = np.searchsorted(starts, spans[:, 1], side="left").tolist()
    for (first, last), low, high in zip(spans.tolist(), lows, highs, strict=True):
        own = starts[low:high]
        length = np.minimum(own + side, last) - np.maximum(own, first)
        some = (length > CUT_SIDE) | (length >= last - first)
        share = length / max(last - first, 1e-9)
        found.append(((low + np.arange(len(own)))[some], share[some]))
    return found
