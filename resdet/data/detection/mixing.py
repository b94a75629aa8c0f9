"""Pictures made of several images: mosaic, and objects of one image pasted into another.

Masks and boxes follow as in a single image: each image has one `Affine` into the picture, and
outlines become masks once, in `place_objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import BOX, Affine
from resdet.data.detection.placing import Layer, Objects, Window, pixel_masks, visible_boxes
from resdet.data.detection.resizes import PAD_VALUE, Resize, resize_and_cut

CENTRE = (0.2, 0.8)
"""Where the four images of a mosaic meet, as shares of its sides: those of Darknet, the code of
Bochkovskiy et al. 2020 (`min_offset`)."""

BLEND_REACH = 3.0
"""Standard deviations beyond a pasted outline that the blending reaches."""


@dataclass(frozen=True)
class Others:
    """The images of the data set that an image may be mixed with."""

    epoch: int
    """Of the image, as in the keys of samples."""
    index: int
    """Its position in the data set."""
    count: int
    """Images in the data set, itself included."""
    read: Callable[[int], tuple[NDArray[np.uint8], Objects] | None]
    """An image (H, W, 3) by its position, and its objects; None where it can't be read."""

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Objects] | None:
        """Another image at random; the same where there is no other."""
        step = int(rng.integers(1, max(self.count, 2)))
        return self.read((self.index + step) % self.count)


@dataclass
class Picture:
    """An image before its geometry."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    objects: Objects
    rng: np.random.Generator
    """What its geometry is drawn from."""

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class Mosaic:
    """Four images around a random point (Bochkovskiy et al. 2020, 3.3).

    The picture is as large as the first image alone would be. Each image is resized by `scale`,
    relative to what the resize without jitter gives, and a random part of it fills its corner;
    smaller ones touch the point and leave the rest gray (`PAD_VALUE`).
    """

    prob: float
    scale: tuple[float, float]
    """Range of one scale per mosaic."""
    min_visible: float
    """See `Layer`."""

    def __call__(
        self,
        pictures: Sequence[Picture | None],
        resize: Resize,
        flip: Callable[[NDArray[np.uint8], np.random.Generator], tuple[NDArray[np.uint8], Affine]],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], list[Layer]]:
        """Four images, of which the first is there, in random corners; None leaves its corner gray.
        Each draws its resize and `flip` from its own generator."""
        first = pictures[0]
        assert first is not None
        fitted, (height, width) = resize.fitted(first.size, first.rng)
        canvas = np.full((height, width, 3), PAD_VALUE, np.uint8)
        factor = rng.uniform(*self.scale)
        middle = tuple(round(rng.uniform(*CENTRE) * side) for side in (height, width))
        corners, layers = rng.permutation(4).tolist(), []
        for number, picture in enumerate(pictures):
            if picture is None:
                continue
            if number:
                fitted, _ = resize.fitted(picture.size, picture.rng)
            below, right = divmod(corners[number], 2)
            limit = tuple(
                max(side - point if after else point, 1)
                for side, point, after in zip((height, width), middle, (below, right), strict=True)
            )
            size = max(round(fitted[0] * factor), 1), max(round(fitted[1] * factor), 1)
            tile, affine = resize_and_cut(picture.pixels, size, (limit[0], limit[1]), picture.rng)
            tile, mirrored = flip(tile, picture.rng)
            y0 = middle[0] if below else middle[0] - tile.shape[0]
            x0 = middle[1] if right else middle[1] - tile.shape[1]
            window = x0, y0, x0 + tile.shape[1], y0 + tile.shape[0]
            canvas[window[1] : window[3], window[0] : window[2]] = tile
            affine = affine.then(mirrored).then(Affine(shift_x=x0, shift_y=y0))
            layers.append(
                Layer(picture.objects, affine, picture.size, window, min_visible=self.min_visible)
            )
        return canvas, layers


@dataclass(frozen=True)
class CopyPaste:
    """Objects of a second picture pasted into the first (Ghiasi et al. 2021, 3).

    A random number of them, up to `max_objects`, is pasted, so that some are left out. Where they
    cover an object, its mask loses these pixels and its box is that of the rest. If the pictures
    are of different sizes, the second is moved to a random place. Objects without an outline of
    their own are not pasted.
    """

    prob: float
    max_objects: int
    min_visible: float
    """Pasted objects of whose box less than this share is in the picture are not pasted, and
    objects below of which less than this share stays uncovered are dropped."""
    blend_sigma: float
    """Standard deviation in pixels of the Gaussian that smooths the pasted masks; 0: sharp edges.
    """

    def __call__(
        self,
        pixels: NDArray[np.uint8],
        layers: Sequence[Layer],
        second: tuple[NDArray[np.uint8], Layer],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint8], list[Layer]]:
        """A picture (H, W, 3) and its layers, and a second one of a single layer → the picture with
        what is pasted, and its layers."""
        size, other = (pixels.shape[0], pixels.shape[1]), second[0].shape
        down, right = (
            int(rng.integers(min(mine - theirs, 0), max(mine - theirs, 0) + 1))
            for mine, theirs in zip(size, other, strict=False)
        )
        layer = second[1].moved(down, right, size)
        layer = self._chosen(replace(layer, min_visible=self.min_visible), rng)
        rows, boxes = visible_boxes(layer)
        if not len(rows):
            return pixels, list(layers)
        layer = replace(layer, objects=layer.objects.select(rows))
        covered = np.zeros(size, np.bool_)
        for _, (x0, y0, x1, y1), mask in pixel_masks(layer, np.arange(len(rows)), boxes):
            covered[y0:y1, x0:x1] |= mask
        pixels = self._compose(pixels, second[0], covered, layer.window, (down, right))
        under = [replace(each, hidden=covered, min_uncovered=self.min_visible) for each in layers]
        return pixels, [*under, layer]

    def _chosen(self, layer: Layer, rng: np.random.Generator) -> Layer:
        """The layer with a random subset of the objects that have an outline."""
        outlines = layer.objects.outlines
        assert outlines is not None, "objects to paste need outlines"
        rows = np.flatnonzero(outlines.kinds != BOX)
        number = int(rng.integers(1, max(min(len(rows), self.max_objects), 1) + 1))
        rows = np.sort(rng.permutation(rows)[:number])
        return replace(layer, objects=layer.objects.select(rows))

    def _compose(
        self,
        pixels: NDArray[np.uint8],
        pasted: NDArray[np.uint8],
        covered: NDArray[np.bool_],
        window: Window,
        corner: tuple[int, int],
    ) -> NDArray[np.uint8]:
        """(H, W, 3) `pixels` with those of the second picture, whose `corner` (y, x) is there and
        whose `window` is visible, where they are `covered` (H, W)."""
        x0, y0, x1, y1 = window
        result = pixels.copy()
        mine = result[y0:y1, x0:x1]
        theirs = pasted[y0 - corner[0] : y1 - corner[0], x0 - corner[1] : x1 - corner[1]]
        alpha = covered[y0:y1, x0:x1]
        if not self.blend_sigma:
            # in place, in a hundredth of the time that np.copyto with a mask takes
            mine[:] = cv2.copyTo(theirs, alpha.astype(np.uint8), mine)
            return result
        reach = 2 * int(np.ceil(BLEND_REACH * self.blend_sigma)) + 1
        weights = cv2.GaussianBlur(alpha.astype(np.float32), (reach, reach), self.blend_sigma)
        mine[:] = np.rint(mine + (theirs - mine.astype(np.float32)) * weights[..., None])
        return result
