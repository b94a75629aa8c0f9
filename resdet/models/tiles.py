"""Predictions on large images: in tiles, whose detections are merged.

A tile is resized by the factor by which `data.test_resize` resizes the median training image
(`Predictor.tile_scale`), whatever the size of the tile, so that objects have the size that the
network learned. For weights of other toolkits it is 1: tiles are seen at the image's resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from resdet.errors import UserError
from resdet.files.rle import encode_bitmap
from resdet.ops.masks import encode_rle
from resdet.ops.tile_merging import Group, Parts, group_parts, union_box, union_rle
from resdet.ops.tiles import LARGEST, MOST_OVERLAP, SMALLEST, Tiling
from resdet.structures import Detections

if TYPE_CHECKING:
    from resdet.files.windows import Windows

MOST_MASK_PIXELS = 2**32 - 1
"""COCO's run-length code counts the pixels of an image in 32 bits."""


class TileModel(Protocol):
    """What of a `Predictor` is used here."""

    @property
    def has_masks(self) -> bool: ...

    def prepare(self, pixels: np.ndarray, *, is_tile: bool = False) -> Any: ...

    def predict_prepared(
        self,
        images: Sequence[Any],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]: ...


class TileMerger:
    """The detections of an image, collected tile by tile.

    Masks become run-length codes at once, so that memory grows with the objects and not with the
    image. `resdet.ops.tile_merging` explains which detections are of one object.
    """

    def __init__(self, tiling: Tiling, image_size: tuple[int, int]) -> None:
        """`image_size` is (height, width) in pixels."""
        self.tiling, self.image_size = tiling, image_size
        self.windows = tiling.windows(image_size)
        self._tiles: list[int] = []
        self._parts: list[Detections] = []

    def add(self, tile: int, detections: Detections) -> None:
        """Those of one tile, by its position in `windows`, in pixels of the tile."""
        found = detections.cpu()
        left, top = self.windows[tile, :2].tolist()
        boxes = found.boxes + torch.tensor([left, top, left, top], dtype=found.boxes.dtype)
        rles = None
        if found.mask_probs is not None:
            rles = encode_rle(found.mask_probs, boxes, self.image_size, paste=found.mask_paste)
        elif found.rles is not None:
            codes = [
                encode_bitmap(mask.numpy(), y + top, x + left, self.image_size)
                for (x, y, _, _), mask in found.mask_windows()
            ]
            rles = [{"size": list(self.image_size), "counts": code.decode()} for code in codes]
        size = self.image_size
        self._parts.append(
            replace(found, boxes=boxes, image_size=size, mask_probs=None, rles=rles, _pasted=None)
        )
        self._tiles += [tile] * len(found)

    def merged(self) -> Detections:
        """One detection per object, best first, in pixels of the image.

        An object that some tile has whole keeps the box, mask and further values of the best such
        detection; one that every tile cuts gets the union of their boxes and of their masks. The
        score is the best of all.
        """
        every = _concatenated(self._parts)
        parts = Parts(
            every.boxes.double().numpy(),
            every.scores.double().numpy(),
            every.labels.numpy(),
            np.array(self._tiles, np.int64),
            every.rles,
        )
        groups = group_parts(parts, self.tiling, self.image_size)
        groups.sort(key=lambda group: (-parts.scores[group.rows[0]], group.rows[0]))
        chosen = [group.rows[0] if group.whole is None else group.whole for group in groups]
        merged = every[torch.tensor(chosen, dtype=torch.int64)]
        merged.scores = every.scores[torch.tensor([group.rows[0] for group in groups]).long()]
        for place, group in enumerate(groups):
            if group.whole is None:
                _unite(merged, place, group, parts)
        return merged


def _concatenated(parts: Sequence[Detections]) -> Detections:
    first = parts[0]
    rles = None if first.rles is None else [rle for part in parts for rle in part.rles or ()]
    return replace(
        first,
        boxes=torch.cat([part.boxes for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        extra={key: torch.cat([part.extra[key] for part in parts]) for key in first.extra},
        rles=rles,
    )


def _unite(merged: Detections, place: int, group: Group, parts: Parts) -> None:
    """Give an object that no tile has whole the union of its parts."""
    box = union_box(parts.boxes[group.rows])
    merged.boxes[place] = torch.from_numpy(box).to(merged.boxes.dtype)
    if merged.rles is not None and parts.rles is not None:
        merged.rles[place] = union_rle([parts.rles[row] for row in group.rows])


def predict_tiles(
    model: TileModel,
    image: Windows,
    tiling: Tiling,
    *,
    score_thresh: float | None = None,
    batch_size: int = 1,
    name: str = "the image",
) -> Detections:
    """The merged detections of an image that is read tile by tile, `batch_size` tiles per forward
    pass, within `inference_mode`. One batch is read and resized ahead of the network. `name` is how
    messages call the image.

    Raises:
        DataError: a part of the image cannot be read.
        UserError: the image is too large for masks.
    """
    _check_mask_size(model, image.size, name)
    merger = TileMerger(tiling, image.size)
    windows = merger.windows

    def load(first: int) -> tuple[list[Any], list[tuple[int, int]]]:
        tiles = [image.read(window) for window in windows[first : first + batch_size]]
        sizes = [(tile.shape[0], tile.shape[1]) for tile in tiles]
        return [model.prepare(tile, is_tile=True) for tile in tiles], sizes

    for first, (prepared, sizes) in _one_ahead(load, range(0, len(windows), batch_size)):
        found = model.predict_prepared(prepared, sizes, score_thresh)
        for tile, detections in enumerate(found, first):
            merger.add(tile, detections)
    return merger.merged()


def _one_ahead(load: Callable[[int], Any], keys: Sequence[int]) -> Any:
    """(key, load(key)) in order; the next is loaded in a thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="resdet-tiles") as pool:
        ahead = pool.submit(load, keys[0])
        for place, key in enumerate(keys):
            loaded = ahead.result()
            if place + 1 < len(keys):
                ahead = pool.submit(load, keys[place + 1])
            yield key, loaded


def _check_mask_size(model: TileModel, size: tuple[int, int], name: str) -> None:
    """UserError for an image of (height, width) whose masks cannot be encoded."""
    if model.has_masks and size[0] * size[1] > MOST_MASK_PIXELS:
        raise UserError(
            f"{name}: has {size[1]}×{size[0]} pixels, and masks are stored as run lengths of at "
            f"most {MOST_MASK_PIXELS:,} pixels; cut the image into parts"
        )


def make_tiling(size: object, overlap: object, keys: tuple[str, str]) -> Tiling:
    """Checked tiles; UserError that names the `keys` of size and overlap."""
    is_whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not is_whole or not SMALLEST <= int(size) <= LARGEST:  # type: ignore[call-overload]
        raise UserError(
            f"{keys[0]} is {size!r}; give a tile's side in pixels, {SMALLEST} to {LARGEST}"
        )
    is_number = isinstance(overlap, int | float | np.number) and not isinstance(overlap, bool)
    if not is_number or not 0 <= float(overlap) <= MOST_OVERLAP:  # type: ignore[arg-type]
        raise UserError(
            f"{keys[1]} is {overlap!r}; give a share of a tile's side, 0 to {MOST_OVERLAP}"
        )
    return Tiling(int(size), float(overlap))  # type: ignore[call-overload, arg-type]
