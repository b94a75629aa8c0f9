"""Square training crops that keep the geometry of the boxes, as a `DetectionDataset` takes them.

The crops are those of classification (He et al. 2016, 3.4 and appendix C). Boxes are clipped to the
crop, as those of cropped detection images are; the paper does not say what it does with an object
of which a crop shows a sliver, or nothing: such a crop is drawn again (`min_visible`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resdet.data.classification.transforms import (
    ColorJitter,
    RandomResizedCrop,
    center_corner,
    short_edge_size,
)
from resdet.data.detection.mixing import Others
from resdet.data.detection.outlines import Affine
from resdet.data.detection.placing import Objects, Transformed, place_objects, whole_image
from resdet.files.pixels import resize_antialiased, resize_exactly, resize_parts

TRIES = 10
"""Crops that are drawn until one shows enough of an object."""


@dataclass(frozen=True)
class Window:
    """A part of an image, and the size that it is resized to."""

    top: float
    left: float
    height: float
    width: float
    """In pixels of the image."""
    side: int
    """Of the square that it becomes, in pixels."""

    @property
    def affine(self) -> Affine:
        """From pixels of the image to pixels of the square."""
        x, y = self.side / self.width, self.side / self.height
        return Affine(x, -self.left * x, y, -self.top * y)


class Crop(Protocol):
    """Draws a square of `side` pixels out of an image of `size` (height, width)."""

    def draw(self, size: tuple[int, int], side: int, rng: np.random.Generator) -> Window: ...


@dataclass(frozen=True)
class JitteredCrop:
    """A random short side in pixels, then a random square (He et al. 2016, 3.4)."""

    short_edges: tuple[int, int]

    def draw(self, size: tuple[int, int], side: int, rng: np.random.Generator) -> Window:
        low, high = self.short_edges
        height, width = short_edge_size(size, max(int(rng.integers(low, high + 1)), side))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        down, across = size[0] / height, size[1] / width
        return Window(top * down, left * across, side * down, side * across, side)


@dataclass(frozen=True)
class ResizedCrop:
    """A box of random area and shape (Szegedy et al. 2015), drawn as for classification."""

    boxes: RandomResizedCrop

    def draw(self, size: tuple[int, int], side: int, rng: np.random.Generator) -> Window:
        top, left, height, width = self.boxes.box(size, rng)
        return Window(top, left, height, width, side)


@dataclass(frozen=True)
class CenterWindow:
    """The centre as at test time: a short side of `resize`, and the square in its middle."""

    resize: int
    size: int

    def draw(self, size: tuple[int, int], side: int, rng: np.random.Generator) -> Window:
        short = max(side, round(self.resize * side / self.size))
        height, width = short_edge_size(size, short)
        top, left = round((height - side) / 2), round((width - side) / 2)
        down, across = size[0] / height, size[1] / width
        return Window(top * down, left * across, side * down, side * across, side)


def cut_window(image: NDArray[np.uint8], window: Window) -> tuple[NDArray[np.uint8], Affine]:
    """The square (S, S, 3) of a window of (H, W, 3), and where it takes points of the image.

    The window is rounded to whole pixels of the image, so that only these are resized; the affine
    map is that of the rounded window.
    """
    height, width = image.shape[:2]
    top = min(max(round(window.top), 0), height - 1)
    left = min(max(round(window.left), 0), width - 1)
    bottom = min(max(round(window.top + window.height), top + 1), height)
    right = min(max(round(window.left + window.width), left + 1), width)
    rounded = Window(top, left, bottom - top, right - left, window.side)
    pixels = np.ascontiguousarray(image[top:bottom, left:right])
    return resize_antialiased(pixels, (window.side, window.side)), rounded.affine


class LocalizationTransform:
    """Crop, flip and colours, all random; a transform of `DetectionDataset`.

    Args:
        size: side of the output in pixels.
        crop: `JitteredCrop`, `ResizedCrop` or `CenterWindow`.
        flip_prob: chance of a horizontal flip.
        min_visible: share of an object's area, 0..1, that a crop has to show; see `TRIES`.
        color_jitter: strength of `ColorJitter`; 0 is off.
    """

    exact = False
    """Images are decoded by what is fastest, not by Pillow on every machine."""
    needs_outlines = False

    def __init__(
        self,
        size: int,
        *,
        crop: Crop,
        flip_prob: float = 0.5,
        min_visible: float = 0.25,
        color_jitter: float = 0.0,
    ) -> None:
        self.size, self.crop = size, crop
        self.flip_prob, self.min_visible = flip_prob, min_visible
        self.jitter = ColorJitter(color_jitter) if color_jitter else None

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
        others: Others | None = None,
    ) -> Transformed:
        """Transforms (H, W, 3) uint8 RGB and its objects; the result depends on `seed` alone."""
        rng = np.random.default_rng(seed)
        source_size = (image.shape[0], image.shape[1])
        window = self.draw(source_size, objects.boxes, rng)
        square, affine = cut_window(image, window)
        if rng.random() < self.flip_prob:
            square = np.asarray(cv2.flip(square, 1), np.uint8)
            affine = affine.then(Affine(scale_x=-1, shift_x=self.size))
        if self.jitter is not None:
            picture = Image.fromarray(np.ascontiguousarray(square))
            square = np.asarray(self.jitter(picture, rng))
        layer = whole_image(square, objects, affine, source_size)
        return place_objects(square, [layer], mask_size)

    def draw(
        self, size: tuple[int, int], boxes: NDArray[np.floating], rng: np.random.Generator
    ) -> Window:
        """The first window that shows enough of one of the boxes (G, 4), else the last one."""
        window = self.crop.draw(size, self.size, rng)
        for _ in range(TRIES - 1):
            if not len(boxes) or visible_share(window, boxes).max() >= self.min_visible:
                break
            window = self.crop.draw(size, self.size, rng)
        return window


def visible_share(window: Window, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """(G,) share of each box's area, 0..1, that is inside a window; boxes (G, 4) xyxy pixels."""
    corner = np.array([window.left, window.top, window.left, window.top])
    limit = corner + np.array([0, 0, window.width, window.height])
    inside = np.clip(boxes, np.tile(corner[:2], 2), np.tile(limit[2:], 2))
    return _area(inside) / np.maximum(_area(boxes), 1e-9)


def _area(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return sides.prod(axis=1)


@dataclass(frozen=True)
class View:
    """A picture that the network sees of a test image, and where its points are in the image."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    affine: Affine
    """From pixels of the view to pixels of the image."""


@dataclass(frozen=True)
class LocalizationViews:
    """Cuts a test image into views: its centre, or all of it at several scales."""

    dense: bool
    resize: int
    """Short side in pixels before a centre crop, and of a dense view without `scales`."""
    size: int
    """Side of the centre crop in pixels."""
    scales: Sequence[int] = ()
    """Short sides in pixels of the dense views."""
    flip: bool = False
    """Add the mirror image of each view."""

    def __call__(self, image: NDArray[np.uint8]) -> list[View]:
        """(H, W, 3) uint8 RGB → views; a mirror image follows its view."""
        views = []
        for scale in (self.scales or [self.resize]) if self.dense else [self.resize]:
            view = self._whole(image, scale) if self.dense else self._center(image)
            views.append(view)
            if self.flip:
                mirror = Affine(scale_x=-1, shift_x=view.pixels.shape[1])
                pixels = np.ascontiguousarray(view.pixels[:, ::-1])
                views.append(View(pixels, mirror.then(view.affine)))
        return views

    def _whole(self, image: NDArray[np.uint8], short: int) -> View:
        height, width = image.shape[:2]
        size = short_edge_size((height, width), short)
        size = max(size[0], 1), max(size[1], 1)
        pixels = resize_exactly(image, *size)
        return View(pixels, Affine(scale_x=width / size[1], scale_y=height / size[0]))

    def _center(self, image: NDArray[np.uint8]) -> View:
        height, width = image.shape[:2]
        size = short_edge_size((height, width), self.resize)
        top, left = center_corner(size, self.size)
        (pixels,) = resize_parts(image, size, [(top, left)], self.size)
        whole = Affine(scale_x=width / size[1], scale_y=height / size[0])
        return View(pixels, Affine(shift_x=left, shift_y=top).then(whole))
