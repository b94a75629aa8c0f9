"""Our geometry: flip, resize or large-scale jitter, crop; it moves boxes and outlines, not masks.

All of it is one scale and one shift per axis, so that one `Affine` per image describes it, and
outlines are processed once, when they become masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.mixing import CopyPaste, Mosaic, Others, Picture
from resdet.data.detection.outlines import Affine
from resdet.data.detection.pipeline import Pipeline
from resdet.data.detection.placing import (
    Layer,
    Objects,
    Transformed,
    place_objects,
    whole_image,
)
from resdet.data.detection.resizes import Resize
from resdet.files.pixels import resize_by, resize_image


class Transform(Protocol):
    """What a data set makes of each image: `TrainTransform`, `TestTransform`, or one of another
    task."""

    @property
    def exact(self) -> bool:
        """Whether images are decoded by Pillow on every machine, not by what is fastest."""
        ...

    @property
    def needs_outlines(self) -> bool:
        """Whether it works with outlines even where masks are not wanted."""
        ...

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
        others: Others | None = None,
    ) -> Transformed: ...


class TrainTransform:
    """albumentations, if any, on the image as read; then resize, flips and crop; then mixing.

    Args:
        resize: `ShortEdge` or `LargeScaleJitter`.
        flip_prob: chance of a horizontal flip; vertical_flip_prob: of a vertical one.
        crop: (height, width) in pixels of a random crop at the end; smaller images stay whole.
        albumentations: {name: …, arguments…} each; see `resdet.data.detection.pipeline`.
        mosaic: four images in place of one, flipped one by one and cropped together.
        copy_paste: objects of another image, which has passed all of the above but the mosaic.
    Raises:
        DataError: an entry of `albumentations` is not right.
    """

    exact = False
    """Images are decoded by what is fastest, not by Pillow on every machine."""

    def __init__(
        self,
        *,
        resize: Resize,
        flip_prob: float = 0.5,
        vertical_flip_prob: float = 0.0,
        crop: Sequence[int] | None = None,
        albumentations: Sequence[dict[str, Any]] = (),
        mosaic: Mosaic | None = None,
        copy_paste: CopyPaste | None = None,
    ) -> None:
        self.resize = resize
        self.flip_prob = flip_prob
        self.vertical_flip_prob = vertical_flip_prob
        self.crop = None if crop is None else (int(crop[0]), int(crop[1]))
        self.pipeline = Pipeline(albumentations) if albumentations else None
        self.mosaic, self.copy_paste = mosaic, copy_paste
        self.mosaic_until: int | None = None
        """Epoch, as the keys of samples count them, from which on no mosaics are made."""

    @property
    def needs_outlines(self) -> bool:
        return self.copy_paste is not None

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
        others: Others | None = None,
    ) -> Transformed:
        """Transforms (H, W, 3) uint8 RGB and its objects; the result depends on `seed`, the epoch
        and the other images alone. Without `others` nothing is mixed."""
        picture = self._picture(image, objects, seed)
        if others is None or (self.mosaic is None and self.copy_paste is None):
            pixels, layer = self._geometry(picture)
            return place_objects(pixels, [layer], mask_size)
        # 0 is the key of the plan's permutations
        draw = np.random.default_rng(_child(seed, 1))
        if self.mosaic is not None and self._is_mosaic(others.epoch, draw):
            four = [picture, *(self._other(number, seed, others, draw) for number in range(3))]
            pixels, layers = self.mosaic(four, self.resize, self._flip, draw)
            pixels, layers = self._crop(pixels, layers, picture.rng)
        else:
            pixels, layer = self._geometry(picture)
            layers = [layer]
        if self.copy_paste is not None and draw.random() < self.copy_paste.prob:
            other = self._other(3, seed, others, draw)
            if other is not None:
                pixels, layers = self.copy_paste(pixels, layers, self._geometry(other), draw)
        return place_objects(pixels, layers, mask_size)

    def _is_mosaic(self, epoch: int, draw: np.random.Generator) -> bool:
        if self.mosaic is None or (self.mosaic_until is not None and epoch >= self.mosaic_until):
            return False
        return bool(draw.random() < self.mosaic.prob)

    def _other(
        self,
        number: int,
        seed: np.random.SeedSequence,
        others: Others,
        draw: np.random.Generator,
    ) -> Picture | None:
        """Another image at random; None if it can't be read, which is counted when its own turn
        comes."""
        content = others.draw(draw)
        return None if content is None else self._picture(*content, _child(seed, 2 + number))

    def _picture(
        self, image: NDArray[np.uint8], objects: Objects, seed: np.random.SeedSequence
    ) -> Picture:
        """An image after albumentations."""
        geometry_seed, pipeline_seed = seed.generate_state(2, np.uint64)
        if self.pipeline is not None:
            image, objects.boxes, objects.outlines, rows = self.pipeline(
                image, objects.boxes, objects.outlines, int(pipeline_seed)
            )
            objects.labels, objects.extras = objects.labels[rows], objects.extras_at(rows)
        return Picture(image, objects, np.random.default_rng(geometry_seed))

    def _geometry(self, picture: Picture) -> tuple[NDArray[np.uint8], Layer]:
        """A picture of one image: resize, flips and crop."""
        image, affine = self.resize(picture.pixels, picture.rng)
        image, mirrored = self._flip(image, picture.rng)
        layer = whole_image(image, picture.objects, affine.then(mirrored), picture.size)
        image, (layer,) = self._crop(image, [layer], picture.rng)
        return image, layer

    def _flip(
        self, image: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], Affine]:
        affine = Affine()
        if rng.random() < self.flip_prob:
            image = np.asarray(cv2.flip(image, 1), np.uint8)
            affine = affine.then(Affine(scale_x=-1, shift_x=image.shape[1]))
        if rng.random() < self.vertical_flip_prob:
            image = np.asarray(cv2.flip(image, 0), np.uint8)
            affine = affine.then(Affine(scale_y=-1, shift_y=image.shape[0]))
        return image, affine

    def _crop(
        self, image: NDArray[np.uint8], layers: Sequence[Layer], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[Layer]]:
        """At a random place; sides smaller than the window stay whole."""
        if self.crop is None:
            return image, list(layers)
        top = int(rng.integers(max(image.shape[0] - self.crop[0], 0) + 1))
        left = int(rng.integers(max(image.shape[1] - self.crop[1], 0) + 1))
        image = image[top : top + self.crop[0], left : left + self.crop[1]]
        size = image.shape[0], image.shape[1]
        return image, [layer.moved(-top, -left, size) for layer in layers]


def _child(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """A stream of its own for each number, whatever was drawn from `seed`."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(number,))


@dataclass(frozen=True)
class TestTransform:
    """The resize of test time, with nothing random in it; see `resize_image`."""

    short_edge: int
    max_size: int
    method: str = "pillow"
    factor: float | None = None
    """Resizes by this in place of the two sizes, as tiles are."""

    exact = True
    needs_outlines = False
    __test__ = False  # not a pytest class, whatever its name

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
        others: Others | None = None,
    ) -> Transformed:
        """Transforms (H, W, 3) uint8 RGB and its objects."""
        height, width = image.shape[:2]
        if self.factor is None:
            resized = resize_image(image, self.short_edge, self.max_size, self.method)
        else:
            resized = resize_by(image, self.factor, self.method)
        affine = Affine(scale_x=resized.shape[1] / width, scale_y=resized.shape[0] / height)
        layer = whole_image(resized, objects, affine, (height, width))
        return place_objects(resized, [layer], mask_size)
