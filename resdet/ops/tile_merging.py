"""Which detections of overlapping tiles are of one object.

SAHI (Akyon et al. 2022, arXiv 2202.06934) merges any two detections of a class whose intersection
is at least half of the smaller one, by greedy non-maximum merging. It thereby loses small objects
in front of large ones, which no NMS does, and leaves objects in parts that are much longer than the
overlap. Here two detections are compared only if they are of different tiles, and only where both
tiles look:

- In the zone that two tiles share, both saw the same pixels. Two detections of a class are of one
  object if what is in the zone of them has an IoU of at least `SAME`, of masks where there are
  masks. How far an object reaches beyond the zone does not matter. Pairs are linked by falling IoU,
  and no object gets two detections of one tile.
- Small boxes may differ by more, and a border may leave a sliver. Of what has no partner in the
  other tile yet, two detections are of one object if their intersection is at least `CONTAINED` of
  the smaller one in the zone: SAHI's measure. A detection that a border cuts may also join one that
  has a partner, as a further part of it, if that one contains as much of it.
- A detection that is left alone, although another tile has all of it and sees it farther from its
  border, is dropped: that tile knows more of the place and does not find it there. Else the guesses
  of several tiles would add up where a network is not sure.

Objects that touch have different pixels in the zone, so that no rule joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.ops.runs import decode_window
from resdet.ops.tiles import Tiling

SAME = 0.5
"""IoU in the shared zone from which on two detections are of one object: COCO's and VOC's least
IoU of a match."""
CONTAINED = 0.5
"""Intersection over the smaller from which on two detections may be of one object, as in SAHI."""
TOUCH, TOUCH_SHARE = 2.0, 0.03
"""A box that ends within so many pixels of a border of its tile, or this share of its own side,
is taken to be cut there."""
DECODED = 256
"""Masks that are kept decoded for further comparisons."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Parts:
    """N detections of all tiles of an image, in pixels of the image."""

    boxes: Floats
    """(N, 4) xyxy."""
    scores: Floats
    """(N,)."""
    labels: Ints
    """(N,)."""
    tiles: Ints
    """(N,) positions of their tiles."""
    rles: Sequence[dict[str, Any]] | None
    """N compressed RLEs in the size of the image; None without masks."""


@dataclass(frozen=True)
class Group:
    """The detections of one object."""

    rows: list[int]
    """Positions in the parts, best score first."""
    whole: int | None
    """The best of those whose tile has all of the object; None where every tile cut it."""


def group_parts(parts: Parts, tiling: Tiling, image_size: tuple[int, int]) -> list[Group]:
    """The detections by object, in no particular order; of each at most one group."""
    windows = tiling.windows(image_size)
    cut = _cut_sides(parts.boxes, windows[parts.tiles], image_size)
    is_cut: Bools = np.any(cut, axis=1)
    groups = _Groups(parts.tiles, is_cut)
    same, near, pieces = [], [], []
    best = _best_tiles(parts, tiling, image_size)
    for pair in _shared_zones(parts, tiling, image_size, cut):
        same += pair.same
        near += pair.near
        pieces += pair.pieces
    for links in (same, near):
        for _, row, other in sorted(links, key=_best_first):
            groups.link(row, other)
    for _, row, other in sorted(pieces, key=_best_first):
        groups.add_piece(row, other)
    return [
        _group(rows, parts, windows, cut)
        for rows in groups.members()
        if np.isin(best[rows], parts.tiles[rows]).any()
    ]


def _best_first(link: tuple[float, int, int]) -> tuple[float, int, int]:
    return -link[0], link[1], link[2]


def _cut_sides(boxes: Floats, windows: Ints, image_size: tuple[int, int]) -> Bools:
    """(N, 4) whether a border of the tile (N, 4), and not of the image, cuts the left, top, right
    and bottom side of each box."""
    height, width = image_size
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    near = np.abs(boxes - windows) <= np.maximum(TOUCH, TOUCH_SHARE * sides)
    return near & (windows != (0, 0, width, height))


@dataclass
class _Links:
    """What the detections of two tiles have to do with each other."""

    same: list[tuple[float, int, int]]
    """IoU in the zone, and two rows."""
    near: list[tuple[float, int, int]]
    """Intersection over the smaller in the zone, and two rows."""
    pieces: list[tuple[float, int, int]]
    """Share of the first row's part of the zone that the second contains."""


def _shared_zones(
    parts: Parts, tiling: Tiling, image_size: tuple[int, int], cut: Bools
) -> Iterator[_Links]:
    windows, boxes = tiling.windows(image_size), parts.boxes
    order = np.argsort(parts.tiles, kind="stable")
    bounds = np.searchsorted(parts.tiles[order], np.arange(len(windows) + 1))
    overlap = _mask_overlap(parts.rles) if parts.rles is not None else None
    for first, second in tiling.neighbours(image_size):
        zone = _intersection(windows[first], windows[second])
        mine, theirs = (
            _inside(order[bounds[tile] : bounds[tile + 1]], boxes, zone) for tile in (first, second)
        )
        if not len(mine) or not len(theirs):
            continue
        if overlap is None or min(zone[2:] - zone[:2]) <= 0:
            numbers = _box_overlaps(boxes, cut, mine, theirs, zone)
        else:
            numbers = _mask_overlaps(boxes, overlap, mine, theirs, zone)
        common, own, other = numbers
        common = np.where(parts.labels[mine][:, None] == parts.labels[theirs], common, 0.0)
        # the sides of each window that run through the other tile
        inner = (windows[first] != windows[second]) & (windows[first] == zone)
        outer = (windows[first] != windows[second]) & (windows[second] == zone)
        iou = common / np.maximum(own + other - common, 1e-9)
        mine_cut: Bools = np.any(cut[mine][:, inner], axis=1)
        theirs_cut: Bools = np.any(cut[theirs][:, outer], axis=1)
        contained = common / np.maximum(own, 1e-9) * mine_cut[:, None]
        containing = common / np.maximum(other, 1e-9) * theirs_cut
        yield _Links(
            _above(iou, SAME, mine, theirs),
            _above(common / np.maximum(np.minimum(own, other), 1e-9), CONTAINED, mine, theirs),
            _above(contained, CONTAINED, mine, theirs)
            + _above(containing.T, CONTAINED, theirs, mine),
        )


def _best_tiles(parts: Parts, tiling: Tiling, image_size: tuple[int, int]) -> Ints:
    """(N,) the tile that has all of a box and sees it farthest from the borders that tiles have
    inside the image; its own tile where no other is better."""
    windows, boxes = tiling.windows(image_size), parts.boxes
    best, margins = parts.tiles.copy(), _margins(boxes, windows[parts.tiles], image_size)
    order = np.argsort(parts.tiles, kind="stable")
    bounds = np.searchsorted(parts.tiles[order], np.arange(len(windows) + 1))
    for pair in tiling.neighbours(image_size):
        for tile, other in (pair, pair[::-1]):
            rows = order[bounds[tile] : bounds[tile + 1]]
            there = _margins(boxes[rows], windows[other], image_size)
            rows, there = rows[there > margins[rows]], there[there > margins[rows]]
            best[rows], margins[rows] = other, there
    return best


def _margins(boxes: Floats, windows: Ints, image_size: tuple[int, int]) -> Floats:
    """(N,) distance of boxes from the nearest border of a tile, (4,) or one each, that is not the
    image's; negative for a box that passes it."""
    height, width = image_size
    inside = (boxes - windows) * (1, 1, -1, -1)
    far = np.where(windows == (0, 0, width, height), np.inf, inside)
    return np.where(far.min(axis=1) < 0, -1.0, far.min(axis=1))


def _intersection(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])])


def _inside(rows: Ints, boxes: Floats, zone: Ints) -> Ints:
    """Those of the rows whose boxes have a part in the zone; of a zone without width or height,
    as tiles without overlap have, those that come near it."""
    reach = np.where(zone[2:] > zone[:2], 0, TOUCH)
    own = boxes[rows]
    meets = (own[:, :2] < zone[2:] + reach) & (own[:, 2:] > zone[:2] - reach)
    return rows[meets.all(axis=1)]


def _above(
    values: Floats, threshold: float, rows: Ints, others: Ints
) -> list[tuple[float, int, int]]:
    places = np.nonzero(values >= threshold)
    pair = rows[places[0]].tolist(), others[places[1]].tolist()
    return list(zip(values[places].tolist(), *pair, strict=True))


def _box_overlaps(
    boxes: Floats, cut: Bools, mine: Ints, theirs: Ints, zone: Ints
) -> tuple[Floats, Floats, Floats]:
    """(n, m) common areas in the zone, (n, 1) and (1, m) areas there, of boxes.

    Where tiles only touch, the zone is the strip along their border, into which cut boxes of both
    sides are continued.
    """
    flat = np.where(zone[2:] > zone[:2], 0.0, 2 * TOUCH)
    grown = zone + np.concatenate([-flat / 2, flat / 2])

    def clipped(rows: Ints) -> Floats:
        reach = np.where(cut[rows], np.concatenate([-flat, flat]), 0.0)
        return (boxes[rows] + reach).clip(np.tile(grown[:2], 2), np.tile(grown[2:], 2))

    own, other = clipped(mine), clipped(theirs)
    low = np.maximum(own[:, None, :2], other[None, :, :2])
    high = np.minimum(own[:, None, 2:], other[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (own, other)]
    return common, areas[0][:, None], areas[1][None]


Overlap = Callable[[int, int, tuple[int, int, int, int]], tuple[int, int, int]]


def _mask_overlap(rles: Sequence[dict[str, Any]]) -> Overlap:
    """A function that counts the pixels in a window that two masks have in common, and those of
    each."""
    decoded = lru_cache(DECODED)(lambda row: decode_window(rles[row]))

    def count(row: int, other: int, zone: tuple[int, int, int, int]) -> tuple[int, int, int]:
        pictures = []
        for (x1, y1, x2, y2), mask in (decoded(row), decoded(other)):
            left, top = max(x1, zone[0]), max(y1, zone[1])
            right, bottom = max(min(x2, zone[2]), left), max(min(y2, zone[3]), top)
            pictures.append((left, top, mask[top - y1 : bottom - y1, left - x1 : right - x1]))
        (x, y, own), (u, v, their) = pictures
        left, top = max(x, u), max(y, v)
        right = max(min(x + own.shape[1], u + their.shape[1]), left)
        bottom = max(min(y + own.shape[0], v + their.shape[0]), top)
        both = own[top - y : bottom - y, left - x : right - x]
        both = both & their[top - v : bottom - v, left - u : right - u]
        return int(both.sum()), int(own.sum()), int(their.sum())

    return count


def _mask_overlaps(
    boxes: Floats, overlap: Overlap, mine: Ints, theirs: Ints, zone: Ints
) -> tuple[Floats, Floats, Floats]:
    """As `_box_overlaps`, (n, m) each, of masks; 0 for those whose boxes do not meet."""
    low = np.maximum(boxes[mine][:, None, :2], boxes[theirs][None, :, :2])
    high = np.minimum(boxes[mine][:, None, 2:], boxes[theirs][None, :, 2:])
    common, own, other = np.zeros((3, len(mine), len(theirs)))
    window = (int(zone[0]), int(zone[1]), int(zone[2]), int(zone[3]))
    for place in zip(*np.nonzero((low < high).all(axis=2)), strict=True):
        row, column = place
        pixels = overlap(int(mine[row]), int(theirs[column]), window)
        common[place], own[place], other[place] = pixels
    return common, own, other


class _Groups:
    """Sets of rows that grow together (union-find)."""

    def __init__(self, tiles: Ints, is_cut: Bools) -> None:
        self._root = list(range(len(tiles)))
        self._rows = [[row] for row in self._root]
        self._tiles = [{tile} for tile in tiles.tolist()]
        self._tile_of = tiles.tolist()
        self._is_cut = is_cut.tolist()

    def _find(self, row: int) -> int:
        while self._root[row] != row:
            self._root[row] = self._root[self._root[row]]
            row = self._root[row]
        return row

    def _unite(self, root: int, other: int) -> None:
        if len(self._rows[root]) < len(self._rows[other]):
            root, other = other, root
        self._root[other] = root
        self._rows[root] += self._rows[other]
        self._tiles[root] |= self._tiles[other]
        self._is_cut[root] &= self._is_cut[other]

    def link(self, row: int, other: int) -> None:
        """Two views of one object, unless it has another view of one of the tiles already."""
        first, second = self._find(row), self._find(other)
        if first != second and not self._tiles[first] & self._tiles[second]:
            self._unite(first, second)

    def add_piece(self, row: int, other: int) -> None:
        """A part of an object, unless it has a partner in the tile of that, or some tile has seen
        it whole."""
        first, second = self._find(row), self._find(other)
        has_partner = self._tile_of[other] in self._tiles[first]
        if first != second and not has_partner and self._is_cut[first]:
            self._unite(first, second)

    def members(self) -> list[list[int]]:
        """The rows of each set."""
        return [rows for row, rows in enumerate(self._rows) if self._root[row] == row]


def _group(rows: list[int], parts: Parts, windows: Ints, cut: Bools) -> Group:
    rows = sorted(rows, key=lambda row: (-parts.scores[row], row))
    if len(rows) == 1:
        return Group(rows, rows[0])
    box = union_box(parts.boxes[rows])
    for row in rows:
        window = windows[parts.tiles[row]]
        inside = (box[:2] >= window[:2]).all() and (box[2:] <= window[2:]).all()
        if inside and not cut[row].any():
            return Group(rows, row)
    return Group(rows, None)


def union_box(boxes: Floats) -> Floats:
    """(4,) xyxy around boxes (n, 4)."""
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def union_rle(rles: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The compressed RLE of all pixels of some masks."""
    from pycocotools import mask as coco_mask

    merged = coco_mask.merge(list(rles))
    return {"size": [int(side) for side in merged["size"]], "counts": merged["counts"].decode()}
