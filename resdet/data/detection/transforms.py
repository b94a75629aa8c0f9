"""Our geometry: flip, resize or large-scale jitter, crop; it moves boxes and outlines, not masks.

All of it is one scale and one shift per axis, so that one `Affine` describes it, and outlines are
processed once, when they become masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import Affine, Outlines, rasterise
from resdet.data.detection.pipeline import Pipeline
from resdet.files.pixels import output_size, resize_antialiased, resize_image

EMPTY_SIDE = 1e-5
"""Boxes that are not longer than this, in pixels, are empty (as in Detectron2)."""

CUT_SIDE = 1.0
"""What a crop leaves of an object must be at least this long on both sides, in pixels."""

CUT_TOLERANCE = 0.01
"""A box that a crop clips by no more pixels than this was not cut."""

PAD_VALUE = 128
"""Gray around images that large-scale jitter made smaller than its square (as in Detectron2)."""

TIGHTEN_ROUNDS = 3
"""Each round shrinks the box of a cut object to its mask, to a cell of the grid."""

TIGHTEN_GRID = 56


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
class ShortEdge:
    """Detectron2's multi-scale resize: the short side is drawn from `short_edges`, in pixels."""

    short_edges: Sequence[int]
    max_size: int

    def __call__(
        self, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Affine]:
        height, width = image.shape[:2]
        short_edge = self.short_edges[int(rng.integers(len(self.short_edges)))]
        new_height, new_width = output_size(height, width, short_edge, self.max_size)
        resized = resize_antialiased(image, (new_height, new_width))
        return resized, Affine(scale_x=new_width / width, scale_y=new_height / height)


@dataclass(frozen=True)
class LargeScaleJitter:
    """Scale by a random factor, then crop or pad to a square (Ghiasi et al. 2021, copy-paste).

    The image is fitted into a square of `scale` × `size` pixels, keeping its aspect; what passes
    `size` is cropped at a random place, what lacks is padded right and bottom with `PAD_VALUE`.
    The padding counts as image, as in Detectron2.
    """

    size: int
    scale: tuple[float, float]

    def __call__(
        self, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Affine]:
        height, width = image.shape[:2]
        target = self.size * rng.uniform(*self.scale)
        ratio = min(target / height, target / width)
        new_height, new_width = max(round(height * ratio), 1), max(round(width * ratio), 1)
        top = int(rng.integers(max(new_height - self.size, 0) + 1))
        left = int(rng.integers(max(new_width - self.size, 0) + 1))
        rows, down = _visible(height, new_height, top, self.size)
        columns, across = _visible(width, new_width, left, self.size)
        window = resize_antialiased(image[rows, columns], (down, across))
        square = np.full((self.size, self.size, 3), PAD_VALUE, np.uint8)
        square[:down, :across] = window
        scale_x, scale_y = across / (columns.stop - columns.start), down / (rows.stop - rows.start)
        return square, Affine(scale_x, -columns.start * scale_x, scale_y, -rows.start * scale_y)


def _visible(length: int, resized: int, first: int, limit: int) -> tuple[slice, int]:
    """What a crop of `limit` from `first` on shows of an axis of `length` that is `resized`.

    Returns the pixels of the file, whole ones so that only they need be resized, and their length
    after it. The crop moves by less than a pixel of the file for that, and the scale by half a
    pixel in its length.
    """
    if resized <= limit:
        return slice(0, length), resized
    count = min(max(round(limit * length / resized), 1), length)
    start = min(round(first * length / resized), length - count)
    return slice(start, start + count), limit


class Transform(Protocol):
    """What a data set makes of each image: `TrainTransform`, `TestTransform`, or one of another
    task."""

    @property
    def exact(self) -> bool:
        """Whether images are decoded by Pillow on every machine, not by what is fastest."""
        ...

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
    ) -> Transformed: ...


class TrainTransform:
    """albumentations, if any, on the image as read; then resize, flips and crop.

    Args:
        resize: `ShortEdge` or `LargeScaleJitter`.
        flip_prob: chance of a horizontal flip; vertical_flip_prob: of a vertical one.
        crop: (height, width) in pixels of a random crop at the end; smaller images stay whole.
        albumentations: {name: …, arguments…} each; see `resdet.data.detection.pipeline`.
    Raises:
        DataError: an entry of `albumentations` is not right.
    """

    exact = False
    """Images are decoded by what is fastest, not by Pillow on every machine."""

    def __init__(
        self,
        *,
        resize: ShortEdge | LargeScaleJitter,
        flip_prob: float = 0.5,
        vertical_flip_prob: float = 0.0,
        crop: Sequence[int] | None = None,
        albumentations: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.resize = resize
        self.flip_prob = flip_prob
        self.vertical_flip_prob = vertical_flip_prob
        self.crop = None if crop is None else (int(crop[0]), int(crop[1]))
        self.pipeline = Pipeline(albumentations) if albumentations else None

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
    ) -> Transformed:
        """Transforms (H, W, 3) uint8 RGB and its objects; the result depends on `seed` alone."""
        geometry_seed, pipeline_seed = seed.generate_state(2, np.uint64)
        rng = np.random.default_rng(geometry_seed)
        if self.pipeline is not None:
            image, objects.boxes, objects.outlines, rows = self.pipeline(
                image, objects.boxes, objects.outlines, int(pipeline_seed)
            )
            objects.labels, objects.extras = objects.labels[rows], objects.extras_at(rows)
        source_size = image.shape[:2]
        image, affine = self.resize(image, rng)
        if rng.random() < self.flip_prob:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
            affine = affine.then(Affine(scale_x=-1, shift_x=image.shape[1]))
        if rng.random() < self.vertical_flip_prob:
            image = np.asarray(cv2.flip(image, 0), np.uint8)
            affine = affine.then(Affine(scale_y=-1, shift_y=image.shape[0]))
        if self.crop is not None:
            # At a random place; sides smaller than the window stay whole.
            top = int(rng.integers(max(image.shape[0] - self.crop[0], 0) + 1))
            left = int(rng.integers(max(image.shape[1] - self.crop[1], 0) + 1))
            image = image[top : top + self.crop[0], left : left + self.crop[1]]
            affine = affine.then(Affine(shift_x=-left, shift_y=-top))
        return place_objects(image, objects, affine, source_size, mask_size)


@dataclass(frozen=True)
class TestTransform:
    """The resize of test time, with nothing random in it; see `resize_image`."""

    short_edge: int
    max_size: int
    method: str = "pillow"

    exact = True
    __test__ = False  # not a pytest class, whatever its name

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
    ) -> Transformed:
        """Transforms (H, W, 3) uint8 RGB and its objects."""
        height, width = image.shape[:2]
        resized = resize_image(image, self.short_edge, self.max_size, self.method)
        affine = Affine(scale_x=resized.shape[1] / width, scale_y=resized.shape[0] / height)
        return place_objects(resized, objects, affine, (height, width), mask_size)


def place_objects(
    image: NDArray[np.uint8] | NDArray[np.float32],
    objects: Objects,
    affine: Affine,
    source_size: tuple[int, int],
    mask_size: int | None,
) -> Transformed:
    """Moves objects to where `affine` put the image, clips them, and rasterises their masks.

    Objects that a crop cut get the box of what is left of their outline where outlines are known
    (as Detectron2 recomputes boxes from cropped masks), else their clipped box. Those of which
    less than `CUT_SIDE` or no part of the outline is left are dropped.
    """
    height, width = image.shape[:2]
    whole = affine.boxes(objects.boxes)
    boxes = whole.clip(0, (width, height, width, height))
    cut: NDArray[np.bool_] = np.any(np.abs(boxes - whole) > CUT_TOLERANCE, axis=1)
    least = np.where(cut, CUT_SIDE, EMPTY_SIDE)
    rows = np.flatnonzero(_short_sides(boxes) > least)
    outlines = objects.outlines
    if mask_size is None or outlines is None:
        kept = boxes[rows].astype(np.float32)
        return Transformed(image, kept, objects.labels[rows], None, objects.extras_at(rows))
    if cut[rows].any():
        cut_rows = rows[cut[rows]]
        boxes[cut_rows] = tighten(outlines.select(cut_rows), boxes[cut_rows], affine, source_size)
        rows = rows[_short_sides(boxes[rows]) > least[rows]]
    # float32 first, so that masks fit the very boxes that the model sees
    final = boxes[rows].astype(np.float32)
    masks = rasterise(
        outlines if len(rows) == len(outlines) else outlines.select(rows),
        final.astype(np.float64),
        (mask_size, mask_size),
        affine=affine,
        image_size=source_size,
    )
    return Transformed(image, final, objects.labels[rows], masks, objects.extras_at(rows))


def _short_sides(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def tighten(
    outlines: Outlines,
    boxes: NDArray[np.float64],
    affine: Affine,
    source_size: tuple[int, int],
) -> NDArray[np.float64]:
    """Shrinks boxes (G, 4) to the outlines inside them; all 0 where nothing is inside."""
    boxes = boxes.copy()
    grid = TIGHTEN_GRID
    alive = np.arange(len(boxes))
    for _ in range(TIGHTEN_ROUNDS):
        masks = rasterise(
            outlines.select(alive),
            boxes[alive],
            (grid, grid),
            affine=affine,
            image_size=source_size,
        )
        columns: NDArray[np.bool_] = np.any(masks, axis=1)
        rows: NDArray[np.bool_] = np.any(masks, axis=2)
        left, right = columns.argmax(axis=1), grid - columns[:, ::-1].argmax(axis=1)
        top, bottom = rows.argmax(axis=1), grid - rows[:, ::-1].argmax(axis=1)
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
