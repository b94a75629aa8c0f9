"""Where objects are in the picture that the model sees: clipped, covered, boxes and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import Affine, Outlines, rasterise

EMPTY_SIDE = 1e-5
"""Boxes that are not longer than this, in pixels, are empty (as in Detectron2)."""

CUT_SIDE = 1.0
"""What a crop leaves of an object must be at least this long on both sides, in pixels."""

CUT_TOLERANCE = 0.01
"""A box that a crop clips by no more pixels than this was not cut."""

TIGHTEN_ROUNDS = 3
"""Each round shrinks the box of a cut object to its mask, to a cell of the grid."""

TIGHTEN_GRID = 56

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels."""


@dataclass
class Objects:
    """The objects of one image as they are stored."""

    boxes: NDArray[np.float32]
    """(G, 4) xyxy pixels."""
    labels: NDArray[np.int64]
    """(G,) 0..K-1."""
    outlines: Outlines | None
    """Of the same G objects; None where masks are not wanted."""
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    """(G, …) further values. Transforms keep their rows in step with the boxes and leave the values
    as they are: coordinates among them, such as keypoints, stay in pixels of the file."""

    def extras_at(self, rows: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        return {key: values[rows] for key, values in self.extras.items()}

    def select(self, rows: NDArray[np.integer]) -> Objects:
        """The objects `rows` (n,), in that order."""
        outlines = None if self.outlines is None else self.outlines.select(rows)
        return Objects(self.boxes[rows], self.labels[rows], outlines, self.extras_at(rows))


@dataclass
class Transformed:
    """One image and its objects, ready for the model."""

    image: NDArray[np.uint8] | NDArray[np.float32]
    """(H, W, 3) RGB, 0..255."""
    boxes: NDArray[np.float32]
    """(G, 4) xyxy pixels of `image`."""
    labels: NDArray[np.int64]
    """(G,) 0..K-1."""
    masks: NDArray[np.uint8] | None
    """(G, M, M) 0/1, each inside its box."""
    extras: dict[str, NDArray[Any]]
    """(G, …) the objects' further values, as annotated."""


@dataclass(frozen=True)
class Layer:
    """The objects of one file, and where its image is in a picture of one or more of them."""

    objects: Objects
    affine: Affine
    """From pixels of the file to those of the picture."""
    source_size: tuple[int, int]
    """(height, width) of the file's image."""
    window: Window
    """The part of the picture that shows the image."""
    hidden: NDArray[np.bool_] | None = None
    """(H, W) pixels of the picture where something covers the image; the objects have outlines."""
    min_visible: float = 0.0
    """Objects are dropped of whose box less than this share, 0..1, is inside the window."""
    min_uncovered: float = 0.0
    """And those of which less than this share, 0..1, of what the window shows is not covered."""

    def moved(self, down: int, right: int, size: tuple[int, int]) -> Layer:
        """The same elsewhere, in a picture of `size` (height, width)."""
        assert self.hidden is None
        height, width = size
        x0, x1 = (min(max(x + right, 0), width) for x in self.window[::2])
        y0, y1 = (min(max(y + down, 0), height) for y in self.window[1::2])
        affine = self.affine.then(Affine(shift_x=right, shift_y=down))
        return replace(self, affine=affine, window=(x0, y0, x1, y1))


def whole_image(
    image: NDArray[Any], objects: Objects, affine: Affine, source_size: tuple[int, int]
) -> Layer:
    """The layer of an image that fills the picture (H, W, 3)."""
    return Layer(objects, affine, source_size, (0, 0, image.shape[1], image.shape[0]))


def place_objects(
    image: NDArray[np.uint8] | NDArray[np.float32],
    layers: Sequence[Layer],
    mask_size: int | None,
) -> Transformed:
    """Moves objects to where the picture shows them, clips them, and rasterises their masks.

    Objects that a window cut or something covers get the box of what is left of their outline where
    outlines are known (as Detectron2 recomputes boxes from cropped masks), else their clipped box.
    Those of which less than `CUT_SIDE` or no part of the outline is left are dropped.
    """
    parts = [_place(image, layer, mask_size) for layer in layers]
    if len(parts) == 1:
        return parts[0]
    return Transformed(
        image,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        None
        if any(part.masks is None for part in parts)
        else np.concatenate([part.masks for part in parts if part.masks is not None]),
        {key: np.concatenate([part.extras[key] for part in parts]) for key in parts[0].extras},
    )


def _place(image: NDArray[Any], layer: Layer, mask_size: int | None) -> Transformed:
    objects = layer.objects
    rows, boxes = visible_boxes(layer)
    # float32 first, so that masks fit the very boxes that the model sees
    final, masks = boxes.astype(np.float32), None
    if mask_size is not None and objects.outlines is not None:
        boxes = final.astype(np.float64)
        masks = _whole_masks(layer, rows, boxes, (mask_size, mask_size))
        if layer.hidden is not None:
            masks &= ~_covered(layer.hidden, boxes, mask_size)
    return Transformed(image, final, objects.labels[rows], masks, objects.extras_at(rows))


def visible_boxes(layer: Layer) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The objects of a layer that are left, as rows (n,), and the boxes (n, 4) of what is visible;
    where no outlines are known, what the window leaves of each box."""
    whole = layer.affine.boxes(layer.objects.boxes)
    x0, y0, x1, y1 = layer.window
    boxes = whole.clip((x0, y0, x0, y0), (x1, y1, x1, y1))
    cut: NDArray[np.bool_] = np.any(np.abs(boxes - whole) > CUT_TOLERANCE, axis=1)
    least = np.where(cut, CUT_SIDE, EMPTY_SIDE)
    keep = _short_sides(boxes) > least
    if layer.min_visible:
        keep &= _areas(boxes) >= layer.min_visible * _areas(whole)
    rows = np.flatnonzero(keep)
    if layer.objects.outlines is not None and cut[rows].any():
        cut_rows = rows[cut[rows]]
        boxes[cut_rows] = tighten(layer, cut_rows, boxes[cut_rows])
        rows = rows[_short_sides(boxes[rows]) > least[rows]]
    if layer.hidden is not None:
        boxes[rows], shares = _uncovered(layer, rows, boxes[rows])
        rows = rows[(shares > 0) & (shares >= layer.min_uncovered)]
    return rows, boxes[rows]


def _short_sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _uncovered(
    layer: Layer, rows: NDArray[np.int64], boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What of the objects `rows` is not covered: the boxes (n, 4) of it, and its share of the
    pixels (n,) that the objects have in their `boxes`, 0..1."""
    hidden, boxes, shares = layer.hidden, boxes.copy(), np.ones(len(rows))
    assert hidden is not None
    corners = _whole_pixels(boxes).tolist()
    touched = np.array(
        [i for i, (x0, y0, x1, y1) in enumerate(corners) if hidden[y0:y1, x0:x1].any()], np.int64
    )
    for place, (x0, y0, x1, y1), mask in pixel_masks(layer, rows[touched], boxes[touched]):
        row = touched[place]
        left = mask & ~hidden[y0:y1, x0:x1]
        shares[row] = left.sum() / max(mask.sum(), 1)
        if 0 < shares[row] < 1:
            before, after = _extent(mask), _extent(left)
            # sides that are as before stay where they are between the pixels
            moved = np.where(after == before, boxes[row], after + np.array([x0, y0, x0, y0]))
            boxes[row] = moved
    return boxes, shares


def _extent(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(4,) xyxy of the pixels of a mask (H, W) that has some."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _whole_pixels(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The pixels (n, 4) xyxy that boxes touch."""
    corners = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
    return corners.astype(np.int64)


def pixel_masks(
    layer: Layer, rows: NDArray[np.int64], boxes: NDArray[np.float64]
) -> Iterator[tuple[int, tuple[int, int, int, int], NDArray[np.bool_]]]:
    """Masks of the objects `rows` in whole pixels of the picture, whatever covers them: of each its
    place among the rows, its window x0, y0, x1, y1 around its box (n, 4), and the pixels of it
    whose centre is inside the outline.

    Objects of about the same size are rasterised together.
    """
    windows = _whole_pixels(boxes)
    sides = windows[:, 2:] - windows[:, :2]
    grids = 2 ** np.ceil(np.log2(np.maximum(sides, 1))).astype(np.int64)
    for width, height in np.unique(grids, axis=0).tolist():
        places = np.flatnonzero((grids == (width, height)).all(axis=1))
        first = windows[places, :2].astype(np.float64)
        cells = np.concatenate([first, first + np.array([width, height])], axis=1)
        masks = _whole_masks(layer, rows[places], cells, (height, width))
        for place, mask in zip(places.tolist(), masks.view(np.bool_), strict=True):
            x0, y0, x1, y1 = windows[place].tolist()
            yield place, (x0, y0, x1, y1), mask[: y1 - y0, : x1 - x0]


def _whole_masks(
    layer: Layer, rows: NDArray[np.int64], boxes: NDArray[np.float64], grid: tuple[int, int]
) -> NDArray[np.uint8]:
    """(n, *grid) 0/1 of the objects `rows` in boxes (n, 4), whatever covers them."""
    outlines = layer.objects.outlines
    assert outlines is not None, "objects that cover others or are covered need outlines"
    return rasterise(
        outlines if len(rows) == len(outlines) else outlines.select(rows),
        boxes,
        grid,
        affine=layer.affine,
        image_size=layer.source_size,
    )


def _covered(hidden: NDArray[np.bool_], boxes: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """(n, side, side) 0 or 255: whether the pixel at the centre of each cell of a box is hidden."""
    centres = (np.arange(side) + 0.5) / side
    sizes = boxes[:, 2:] - boxes[:, :2]
    columns, rows = (
        (boxes[:, axis, None] + sizes[:, axis, None] * centres)
        .astype(np.int64)
        .clip(0, hidden.shape[1 - axis] - 1)
        for axis in (0, 1)
    )
    covered: NDArray[np.uint8] = hidden.view(np.uint8)[rows[:, :, None], columns[:, None, :]]
    return covered * np.uint8(255)


def tighten(
    layer: Layer, rows: NDArray[np.int64], boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shrinks the boxes (n, 4) of the objects `rows` to the outlines inside them; all 0 where
    nothing is inside."""
    boxes = boxes.copy()
    grid = TIGHTEN_GRID
    alive = np.arange(len(boxes))
    for _ in range(TIGHTEN_ROUNDS):
        masks = _whole_masks(layer, rows[alive], boxes[alive], (grid, grid))
        columns: NDArray[np.bool_] = np.any(masks, axis=1)
        lines: NDArray[np.bool_] = np.any(masks, axis=2)
        left, right = columns.argmax(axis=1), grid - columns[:, ::-1].argmax(axis=1)
        top, bottom = lines.argmax(axis=1), grid - lines[:, ::-1].argmax(axis=1)
        fractions = np.stack([left, top, right, bottom], axis=1) / grid
        sizes = np.tile(boxes[alive, 2:] - boxes[alive, :2], 2)
        origins = np.tile(boxes[alive, :2], 2)
        inside: NDArray[np.bool_] = np.any(columns, axis=1)
        boxes[alive] = np.where(inside[:, None], origins + fractions * sizes, 0.0)
        shrunk: NDArray[np.bool_] = np.any(fractions != (0.0, 0.0, 1.0, 1.0), axis=1)
        alive = alive[inside & shrunk]
        if not len(alive):
            break
    return boxes
