"""Which images show the same, without comparing each with every other."""

from __future__ import annotations

import cv2
import numpy as np

from resdet.data.alike import find_alike
from resdet.data.looks import LOOK, Looks, measure


def looks_of(images: list[np.ndarray]) -> Looks:
    looks = np.zeros(len(images), LOOK)
    for row, image in enumerate(images):
        looks[row] = measure(image, image.tobytes())
    return looks


def scene(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (240, 180), interpolation=cv2.INTER_CUBIC)


def stored_again(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def test_copies_are_paired_with_the_first_image() -> None:
    images = [scene(seed) for seed in range(40)]
    copies = [
        images[3].copy(),
        stored_again(images[5], 25),
        cv2.resize(images[7], (120, 90), interpolation=cv2.INTER_AREA),
        np.clip(images[9] * 1.15, 0, 255).astype(np.uint8),
        stored_again(images[5], 60),
    ]
    pairs = find_alike(looks_of(images + copies))
    assert pairs.second.tolist() == [40, 41, 42, 43, 44]
    assert pairs.first.tolist() == [3, 5, 7, 9, 5]
    assert pairs.equal.tolist() == [True, False, False, False, False]


def test_one_light_is_not_one_image() -> None:
    rng = np.random.default_rng(0)
    glow = np.hypot(*np.mgrid[-1:1:180j, -1:1:240j])[..., None]
    images = [
        np.clip(200 - 90 * glow + 14 * rng.standard_normal((180, 240, 1)).repeat(3, 2), 0, 255)
        for _ in range(30)
    ]
    assert not len(find_alike(looks_of([image.astype(np.uint8) for image in images])).second)


def test_images_without_structure_are_equal_only_byte_for_byte() -> None:
    flat = [np.full((60, 80, 3), value, np.uint8) for value in (0, 1, 128, 128)]
    pairs = find_alike(looks_of(flat))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([2], [3])


def test_thousands_of_frames_of_one_scene_take_no_square_of_their_number() -> None:
    looks = np.zeros(6000, LOOK)
    looks[:] = looks_of([scene(1)])[0]
    looks["digest"] = np.arange(6000)
    looks["hash"] ^= np.uint64(1) << (np.arange(6000) % 5).astype(np.uint64)
    pairs = find_alike(looks)
    assert len(pairs.second) >= 5990
