"""The outlines of objects, ragged, in flat arrays; and how they become M×M masks in their boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.ops.runs import read_runs

MOST_CELLS = 1 << 24
"""Cells of masks, or crossings of polygons with their rows, at a time."""

BOX, POLYGON, RLE = 0, 1, 2
"""Kinds of outline: the whole box, polygons (their union), a run-length encoded bitmap."""


@dataclass(frozen=True)
class Affine:
    """x' = scale_x · x + shift_x and the same for y: all that flips, resizes and crops need."""

    scale_x: float = 1.0
    shift_x: float = 0.0
    scale_y: float = 1.0
    shift_y: float = 0.0

    def then(self, after: Affine) -> Affine:
        return Affine(
            self.scale_x * after.scale_x,
            self.shift_x * after.scale_x + after.shift_x,
            self.scale_y * after.scale_y,
            self.shift_y * after.scale_y + after.shift_y,
        )

    def points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(…, 2) xy pixels to (…, 2) xy pixels."""
        scale = np.array([self.scale_x, self.scale_y])
        return points * scale + np.array([self.shift_x, self.shift_y])

    def boxes(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """(G, 4) xyxy pixels to (G, 4) xyxy pixels, corners in order after a flip too."""
        corners = self.points(boxes.reshape(-1, 2, 2))
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

    def inverse(self) -> Affine:
        return Affine(
            1 / self.scale_x,
            -self.shift_x / self.scale_x,
            1 / self.scale_y,
            -self.shift_y / self.scale_y,
        )


@dataclass
class Outlines:
    """The outlines of A objects in pixels of their image; ragged arrays are values and offsets."""

    kinds: NDArray[np.uint8]
    """(A,) BOX, POLYGON or RLE."""
    part_offsets: NDArray[np.int64]
    """(A + 1,) first part (polygon) of each object."""
    point_offsets: NDArray[np.int64]
    """(P + 1,) first point of each part."""
    points: NDArray[np.floating]
    """(Q, 2) xy pixels."""
    rle_offsets: NDArray[np.int64]
    """(A + 1,) first byte of each object's run-length code."""
    rle: NDArray[np.uint8]
    """Bytes of COCO's compressed run-length code, column by column."""

    def __len__(self) -> int:
        return len(self.kinds)

    def select(self, rows: NDArray[np.integer]) -> Outlines:
        """The objects `rows` (n,), in that order."""
        parts, part_offsets = ragged_rows(self.part_offsets, rows)
        points, point_offsets = ragged_rows(self.point_offsets, parts)
        rle, rle_offsets = ragged_rows(self.rle_offsets, rows)
        return Outlines(
            self.kinds[rows],
            part_offsets,
            point_offsets,
            self.points[points],
            rle_offsets,
            self.rle[rle],
        )

    def polygons(self, row: int) -> list[NDArray[np.floating]]:
        """The parts of one object, each (n, 2) xy pixels."""
        parts = range(self.part_offsets[row], self.part_offsets[row + 1])
        return [self.points[self.point_offsets[p] : self.point_offsets[p + 1]] for p in parts]


def box_outlines(count: int) -> Outlines:
    """Outlines of objects of which only the boxes are known."""
    no_points, none = np.zeros((0, 2), np.float64), np.zeros(count + 1, np.int64)
    kinds = np.full(count, BOX, np.uint8)
    return Outlines(kinds, none, np.zeros(1, np.int64), no_points, none, np.zeros(0, np.uint8))


def rle_outlines(codes: list[bytes]) -> Outlines:
    """Outlines from COCO's compressed run-length codes, one per object."""
    count = len(codes)
    return Outlines(
        np.full(count, RLE, np.uint8),
        np.zeros(count + 1, np.int64),
        np.zeros(1, np.int64),
        np.zeros((0, 2), np.float32),
        np.cumsum([0, *map(len, codes)], dtype=np.int64),
        np.frombuffer(b"".join(codes), np.uint8),
    )


def ragged_rows(
    offsets: NDArray[np.int64], rows: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of all values of the ragged `rows`, and the offsets of these rows among them."""
    starts = offsets[rows]
    lengths = offsets[np.asarray(rows) + 1] - starts
    new_offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=new_offsets[1:])
    positions = np.arange(new_offsets[-1]) + np.repeat(starts - new_offsets[:-1], lengths)
    return positions, new_offsets


def rasterise(
    outlines: Outlines,
    boxes: NDArray[np.floating],
    grid: tuple[int, int],
    *,
    affine: Affine,
    image_size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Masks of G outlines, each on a grid of (rows, columns) laid over its own box.

    Args:
        outlines: G outlines in pixels of the image as stored.
        boxes: (G, 4) xyxy in pixels after `affine`; none may be empty.
        affine: from pixels of the image as stored to those of `boxes`.
        image_size: (height, width) of the image as stored.
    Returns:
        (G, rows, columns) uint8 0/1: whether the centre of a cell is inside the outline.
    """
    masks = np.ones((len(outlines), *grid), np.uint8)
    polygons = np.flatnonzero(outlines.kinds == POLYGON)
    if len(polygons):
        chosen = outlines.select(polygons)
        points, offsets = affine.points(chosen.points), chosen.point_offsets
        owners = np.repeat(polygons, np.diff(chosen.part_offsets))
        for first, last in _groups(np.diff(offsets), grid):
            some, own = owners[first:last], offsets[first : last + 1]
            group = points[own[0] : own[-1]]
            parts = fill_polygons(group, own - own[0], boxes[some], grid)
            heads = np.flatnonzero(np.diff(some, prepend=-1))
            filled, counts = parts[heads], np.diff(heads, append=len(some))
            for i in np.flatnonzero(counts > 1):
                filled[i] = parts[heads[i] : heads[i] + counts[i]].max(axis=0)
            if first and some[0] == owners[first - 1]:  # begun in the group before
                filled[0] |= masks[some[0]]
            masks[some[heads]] = filled
    coded = np.flatnonzero(outlines.kinds == RLE)
    if len(coded):
        masks[coded] = _warp_rle(
            outlines.select(coded), boxes[coded], grid, affine.inverse(), image_size
        )
    return masks


def _groups(lengths: NDArray[np.int64], grid: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First and last of the polygons, of these numbers of points, that are filled at once: their
    cells and crossings are at most `MOST_CELLS`, so that memory does not grow with their number."""
    rows, columns = grid
    costs = np.cumsum(rows * np.maximum(lengths, columns))
    first = 0
    while first < len(lengths):
        before = costs[first - 1] if first else 0
        last = int(np.searchsorted(costs, before + MOST_CELLS, side="right"))
        yield first, max(last, first + 1)
        first = max(last, first + 1)


def fill_polygons(
    points: NDArray[np.floating],
    offsets: NDArray[np.int64],
    boxes: NDArray[np.floating],
    grid: tuple[int, int],
) -> NDArray[np.uint8]:
    """Fills T polygons, each on a grid laid over its own box, by the even-odd rule.

    All polygons at once: each edge gives one crossing per row of cells that it passes, the sorted
    crossings are the run lengths of the result. A polygon may reach out of its box.

    Args:
        points: (Q, 2) xy pixels, of all polygons one after the other.
        offsets: (T + 1,) first point of each polygon, which has at least one.
        boxes: (T, 4) xyxy pixels, not empty.
    Returns:
        (T, rows, columns) uint8 0/1 at the centres of the cells.
    """
    rows, columns = grid
    polygon = np.repeat(np.arange(len(boxes)), np.diff(offsets))
    cell = (boxes[:, 2:] - boxes[:, :2]) / (columns, rows)
    start = (points - boxes[polygon, :2]) / cell[polygon]
    following = np.arange(1, len(points) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    end = start[following]
    top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(top - 0.5), 0, rows).astype(np.int64)
    counts = np.clip(np.ceil(bottom - 0.5), 0, rows).astype(np.int64) - first
    height = end[:, 1] - start[:, 1]
    slope = (end[:, 0] - start[:, 0]) / np.where(height == 0, 1.0, height)

    def cross(edges: slice) -> NDArray[np.int64]:
        """The cells, of the flat result, in which some edges cross the middles of rows."""
        times = counts[edges]
        edge = np.repeat(np.arange(len(points))[edges], times)
        begin = np.cumsum(times) - times
        row = np.arange(len(edge)) - np.repeat(begin - first[edges], times)
        crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope[edge]
        column = np.clip(np.ceil(crossing - 0.5), 0, columns).astype(np.int64)
        return (polygon[edge] * rows + row) * columns + column

    # Crossings per row are even in number, and one at the row's end is the start of the next row:
    # sorted, they are the borders of runs over the whole flat result.
    total, before = len(boxes) * rows * columns, np.cumsum(counts)
    if len(points) and before[-1] > MOST_CELLS:  # the same by counting
        turns = np.zeros(total + 1, np.int64)
        ends = np.searchsorted(before, np.arange(MOST_CELLS, before[-1], MOST_CELLS)).tolist()
        for low, high in pairwise([0, *ends, len(points)]):
            turns += np.bincount(cross(slice(low, high)), minlength=total + 1)
        return (np.cumsum(turns[:-1]) % 2).astype(np.uint8).reshape(len(boxes), rows, columns)
    borders = cross(slice(None))
    borders.sort()
    runs = np.diff(borders, prepend=0, append=total)
    values = np.arange(len(runs), dtype=np.int64) % 2
    return np.repeat(values.astype(np.uint8), runs).reshape(len(boxes), rows, columns)


def decode_rle_windows(
    code: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    image_size: tuple[int, int],
    windows: NDArray[np.int64],
) -> list[NDArray[np.uint8]]:
    """Decodes a window of each of G masks, so that no mask is handled at full size.

    Args:
        code: the bytes of all masks; offsets: (G + 1,) first byte of each.
        image_size: (height, width) of the masks.
        windows: (G, 4) whole pixels x0, y0, x1, y1 inside the image.
    Returns:
        G arrays (y1 - y0, x1 - x0) uint8 0/1.
    """
    height = image_size[0]
    lengths, bounds = read_runs(code, offsets)
    firsts, counts = bounds[:-1], np.diff(bounds)
    mask = np.repeat(np.arange(len(counts)), counts)
    order = np.arange(len(lengths)) - np.repeat(firsts, counts)
    # Where each run ends, in pixels counted down the columns of its mask.
    ends = np.cumsum(lengths)
    ends -= np.repeat((ends - lengths)[firsts], counts)
    sizes = (windows[:, 2] - windows[:, 0]) * height
    starts = np.cumsum(sizes) - sizes
    # A last run of zeros ends the mask and borders on nothing: borders come in pairs.
    keep = (order % 2 == 1) | (order + 1 < counts[mask])
    ends, mask = ends[keep], mask[keep]
    borders = np.clip(ends - windows[mask, 0] * height, 0, sizes[mask]) + starts[mask]
    runs = np.diff(borders, prepend=0, append=sizes.sum())
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    flat = np.repeat(values, runs)
    return [
        flat[start : start + size].reshape(x1 - x0, height)[:, y0:y1].T
        for start, size, (x0, y0, x1, y1) in zip(
            starts.tolist(), sizes.tolist(), windows.tolist(), strict=True
        )
    ]


def _warp_rle(
    outlines: Outlines,
    boxes: NDArray[np.floating],
    grid: tuple[int, int],
    inverse: Affine,
    image_size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Bitmaps sampled on a grid over each box: bilinear, half or more is inside.

    `inverse` leads from the pixels of the boxes (G, 4) to those of the bitmaps.
    """
    height, width = image_size
    source = inverse.boxes(boxes)
    # One pixel around the box, so that its border is interpolated with what is really there.
    windows = np.concatenate([np.floor(source[:, :2]) - 1, np.ceil(source[:, 2:]) + 1], axis=1)
    windows = windows.clip(0, (width, height, width, height)).astype(np.int64)
    bitmaps = decode_rle_windows(outlines.rle, outlines.rle_offsets, image_size, windows)
    rows, columns = grid
    step = (boxes[:, 2:] - boxes[:, :2]) / (columns, rows) * (inverse.scale_x, inverse.scale_y)
    start = inverse.points(boxes[:, :2]) + 0.5 * step - windows[:, :2] - 0.5
    masks = np.zeros((len(boxes), rows, columns), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for i, bitmap in enumerate(bitmaps):
        if bitmap.size:
            matrix = np.array([[step[i, 0], 0, start[i, 0]], [0, step[i, 1], start[i, 1]]])
            smooth = np.ascontiguousarray(bitmap) * np.uint8(255)
            cv2.warpAffine(smooth, matrix, (columns, rows), dst=masks[i], flags=flags)
    return (masks >= 128).view(np.uint8)
