"""Predictions in tiles: each object once, whatever cuts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from resdet.errors import UserError
from resdet.files.windows import WholeImage
from resdet.models.tiles import predict_tiles
from resdet.ops.tiles import Tiling
from resdet.structures import Detections


class ColourDetector:
    """Detects each colour but black as one object of class red // 100, as well as a network could:
    boxes of what is visible, and masks on a grid of 28×28 cells."""

    tile_scale = 1.0

    def __init__(self, *, has_masks: bool = True, as_rles: bool = False, jitter: float = 0) -> None:
        self.has_masks, self.as_rles, self.jitter = has_masks, as_rles, jitter
        self.rng = np.random.default_rng(0)
        self.batches: list[int] = []

    def prepare(self, pixels: np.ndarray, *, is_tile: bool = False) -> np.ndarray:
        assert is_tile
        return pixels

    def predict_prepared(
        self,
        images: Sequence[Any],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        self.batches.append(len(images))
        return [self._detect(image) for image in images]

    def _detect(self, image: np.ndarray) -> Detections:
        codes = image.astype(np.int64) @ (65536, 256, 1)
        boxes, labels, probs = [], [], []
        for code in np.unique(codes[codes > 0]).tolist():
            ys, xs = np.nonzero(codes == code)
            x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            box = np.array([x1, y1, x2, y2]) + self.rng.normal(0, self.jitter, 4)
            box = box.clip(0, np.tile(image.shape[1::-1], 2))
            if (box[2:] <= box[:2]).any():  # as detectors drop them
                continue
            boxes.append(box)
            labels.append(code >> 16 >= 200)
            mask = (codes[y1:y2, x1:x2] == code).astype(np.float32)
            probs.append(cv2.resize(mask, (28, 28), interpolation=cv2.INTER_AREA))
        n = len(boxes)
        found = Detections(
            torch.tensor(np.array(boxes).reshape(n, 4), dtype=torch.float32),
            torch.tensor(self.rng.uniform(0.5, 1, n), dtype=torch.float32),
            torch.tensor(labels, dtype=torch.int64),
            image_size=image.shape[:2],
            mask_probs=torch.tensor(np.array(probs, np.float32).reshape(n, 28, 28)),
            extra={"code": torch.tensor([int(label) for label in labels], dtype=torch.int64)},
        )
        order = found.scores.argsort(descending=True)
        found = found[order]
        if self.as_rles:
            found.rles, found.mask_probs = found.encoded_masks(), None
        if not self.has_masks:
            found.mask_probs = None
        return found


def picture(shapes: Sequence[tuple[Any, ...]], size: tuple[int, int] = (300, 400)) -> np.ndarray:
    """Polygons and boxes, each (class, points), in colours of their own."""
    image = np.zeros((*size, 3), np.uint8)
    for number, (label, points) in enumerate(shapes, 1):
        cv2.fillPoly(
            image, [np.array(points)], (200 if label else 100, number // 200, number % 200 + 1)
        )
    return image


def box(x1: int, y1: int, x2: int, y2: int) -> list[tuple[int, int]]:
    return [(x1, y1), (x2 - 1, y1), (x2 - 1, y2 - 1), (x1, y2 - 1)]


def check(image: np.ndarray, found: Detections, *, slack: float = 0.0) -> None:
    """Every object of the picture is found once, with its whole box and mask."""
    codes = image.astype(np.int64) @ (65536, 256, 1)
    objects = np.unique(codes[codes > 0]).tolist()
    assert len(found) == len(objects)
    masks = found.masks
    for code in objects:
        ys, xs = np.nonzero(codes == code)
        truth = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        away = np.abs(found.boxes.numpy() - truth).max(axis=1)
        row = int(away.argmin())
        assert away[row] <= slack + 1e-3, (truth, found.boxes[row])
        assert int(found.labels[row]) == (code >> 16 >= 200)
        if masks is not None:
            truth_mask = codes == code
            mask = masks[row].numpy()
            assert (mask & truth_mask).sum() / (mask | truth_mask).sum() > (0.5 if slack else 0.85)


def predict(image: np.ndarray, size: int, overlap: float, **options: Any) -> Detections:
    detector = ColourDetector(**options)
    return predict_tiles(detector, WholeImage(image), Tiling(size, overlap), batch_size=3)


SCENES = {
    "inside one tile": [(0, box(5, 5, 40, 30))],
    "cut by a seam, whole in both or one": [(0, box(80, 20, 98, 40)), (1, box(70, 60, 99, 90))],
    "a sliver beyond a border": [(0, box(70, 20, 103, 40)), (0, box(60, 50, 101, 60))],
    "longer than the overlap": [(0, box(30, 30, 180, 60)), (1, box(40, 100, 60, 290))],
    "longer than a tile": [(0, box(10, 10, 390, 40)), (0, box(20, 60, 380, 280))],
    "touching side by side": [
        (0, box(70, 10, 90, 60)),
        (0, box(90, 10, 112, 60)),
        (0, box(70, 60, 112, 99)),
    ],
    "touching along a slope": [
        (0, [(60, 10), (120, 10), (60, 90)]),
        (0, [(122, 14), (122, 95), (63, 95)]),
    ],
    "one in front of a large one": [(0, box(10, 10, 300, 250)), (0, box(85, 85, 105, 105))],
    "another class in front": [(0, box(10, 10, 300, 250)), (1, box(60, 60, 130, 130))],
    "a U whose legs are cut": [
        (0, [(60, 60), (75, 60), (75, 180), (95, 180), (95, 60), (115, 60), (115, 210), (60, 210)])
    ],
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(("size", "overlap"), [(100, 0.2), (128, 0.5), (90, 0.05)])
def test_every_object_once(scene: str, size: int, overlap: float) -> None:
    image = picture(SCENES[scene])
    check(image, predict(image, size, overlap))


@pytest.mark.parametrize(
    "scene", [name for name in SCENES if "slope" not in name and "U" not in name]
)
def test_boxes_alone(scene: str) -> None:
    image = picture(SCENES[scene])
    found = predict(image, 100, 0.2, has_masks=False)
    assert found.masks is None and not found.has_masks
    if "front" not in scene:  # the box of the small one is in that of the large one, as for an NMS
        check(image, found)


def test_tiles_without_overlap_are_joined_at_their_borders() -> None:
    for scene in ("longer than the overlap", "touching side by side", "a sliver beyond a border"):
        image = picture(SCENES[scene])
        check(image, predict(image, 100, 0.0))


def test_masks_that_come_as_run_lengths() -> None:
    image = picture(SCENES["longer than a tile"])
    check(image, predict(image, 100, 0.2, as_rles=True))


def test_many_objects_with_noisy_boxes() -> None:
    rng = np.random.default_rng(1)
    places = [(x, y) for y in range(0, 580, 20) for x in range(0, 780, 20)]
    shapes = [
        (
            int(rng.integers(2)),
            box(x, y, x + int(rng.integers(8, 20)), y + int(rng.integers(8, 20))),
        )
        for x, y in places
    ]
    image = picture(shapes, (600, 800))
    found = predict(image, 150, 0.2, jitter=0.7)
    check(image, found, slack=4)


def test_the_answer_is_sorted_and_has_the_best_scores() -> None:
    image = picture([(0, box(10 * i, 20, 10 * i + 7, 40)) for i in range(38)])
    detector = ColourDetector()
    found = predict_tiles(detector, WholeImage(image), Tiling(100, 0.2), batch_size=4)
    assert (found.scores.diff() <= 0).all() and found.image_size == (300, 400)
    assert max(detector.batches) == 4 and sum(detector.batches) == 4 * 5
    assert found.extra["code"].shape == (38,)
    assert [rle["size"] for rle in found.rles or []] == [[300, 400]] * 38


def test_nothing_to_detect_and_images_smaller_than_a_tile() -> None:
    nothing = predict(np.zeros((300, 400, 3), np.uint8), 100, 0.2)
    assert len(nothing) == 0 and nothing.rles == [] and nothing.masks.shape == (0, 300, 400)
    image = picture([(0, box(5, 5, 40, 30))], (50, 60))
    check(image, predict(image, 100, 0.2))


class Huge:
    """An image of which no tile can be read."""

    size = 100_000, 100_000

    def read(self, window: object) -> np.ndarray:
        raise UserError("the first tile")


def test_an_image_beyond_run_lengths_is_refused() -> None:
    image, tiling = Huge(), Tiling(1000, 0.0)
    with pytest.raises(UserError, match=r"a\.tif: has 100000×100000 pixels.*cut the image into"):
        predict_tiles(ColourDetector(), image, tiling, name="a.tif")
    with pytest.raises(UserError, match="the first tile"):
        predict_tiles(ColourDetector(has_masks=False), image, tiling)
