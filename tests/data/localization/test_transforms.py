"""Crops and views: pixels and boxes stay together."""

from __future__ import annotations

import numpy as np
import pytest

from resdet.data.classification.transforms import RandomResizedCrop
from resdet.data.detection.placing import Objects
from resdet.data.localization.transforms import (
    TRIES,
    CenterWindow,
    JitteredCrop,
    LocalizationTransform,
    LocalizationViews,
    ResizedCrop,
    visible_share,
)

CROPS = {
    "jittered": JitteredCrop((96, 160)),
    "resized": ResizedCrop(RandomResizedCrop((0.2, 1.0), (0.75, 1.3333))),
    "center": CenterWindow(112, 96),
}
BOX = np.array([[110.0, 60.0, 250.0, 210.0]], np.float32)


def picture(box: np.ndarray = BOX, height: int = 260, width: int = 340) -> np.ndarray:
    """Black, with one white rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box[0].astype(int)
    image[y1:y2, x1:x2] = 255
    return image


def white_box(image: np.ndarray) -> list[float]:
    """xyxy of the pixels that are at least half white."""
    white = image[..., 0] >= 128
    columns, rows = np.flatnonzero(white.any(axis=0)), np.flatnonzero(white.any(axis=1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def objects(box: np.ndarray = BOX) -> Objects:
    return Objects(box.copy(), np.array([2]), None)


@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_are_where_the_pixels_are(name, flip):
    transform = LocalizationTransform(96, crop=CROPS[name], flip_prob=flip, min_visible=0.3)
    cut = 0
    for number in range(40):
        seed = np.random.SeedSequence((0, number))
        made = transform(picture(), objects(), mask_size=None, seed=seed)
        assert made.image.shape == (96, 96, 3)
        assert made.labels.tolist() == [2]
        assert made.boxes[0].tolist() == pytest.approx(white_box(made.image), abs=1.0)
        cut += bool((made.boxes[0] == [0, 0, 96, 96]).any())
    # some of the crops cut the object, whose box is then clipped to the crop
    assert cut or name == "center"


def test_the_result_depends_on_the_seed_alone():
    transform = LocalizationTransform(96, crop=CROPS["jittered"], color_jitter=0.4)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (150, 200, 3), np.uint8)
    made = [
        transform(image, objects(), mask_size=None, seed=np.random.SeedSequence((1, number)))
        for number in (5, 5, 6)
    ]
    assert np.array_equal(made[0].image, made[1].image)
    assert np.array_equal(made[0].boxes, made[1].boxes)
    assert not np.array_equal(made[0].image, made[2].image)


def test_crops_that_show_too_little_are_drawn_again():
    corner = np.array([[0.0, 0.0, 60.0, 60.0]], np.float32)
    crop = JitteredCrop((180, 240))
    shares = {}
    for least in (0.0, 0.6):
        transform = LocalizationTransform(96, crop=crop, min_visible=least)
        windows = [
            transform.draw((260, 340), corner, np.random.default_rng(number))
            for number in range(60)
        ]
        shares[least] = [visible_share(window, corner).item() for window in windows]
    assert min(shares[0.0]) == 0
    enough = np.mean(np.array(shares[0.6]) >= 0.6)
    # a chance p per draw leaves (1 − p) to the power of the tries
    chance = np.mean(np.array(shares[0.0]) >= 0.6)
    assert enough > 1 - (1 - chance) ** TRIES - 0.2
    assert enough > chance


def test_an_object_outside_the_crop_is_left_out():
    far = np.array([[330.0, 250.0, 339.0, 259.0]], np.float32)
    transform = LocalizationTransform(96, crop=CenterWindow(200, 96), flip_prob=0)
    made = transform(picture(far), objects(far), mask_size=None, seed=np.random.SeedSequence(0))
    assert made.boxes.shape == (0, 4)
    assert made.labels.shape == (0,)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"dense": False}, [(96, 96)]),
        ({"dense": False, "flip": True}, [(96, 96)] * 2),
        ({"dense": True}, [(128, 167)]),
        ({"dense": True, "scales": (64, 200), "flip": True}, [(64, 83)] * 2 + [(200, 261)] * 2),
    ],
)
def test_views_map_back_to_the_image(options, sizes):
    views = LocalizationViews(resize=128, size=96, **options)(picture())
    assert [view.pixels.shape[:2] for view in views] == sizes
    for view in views:
        inside = white_box(view.pixels)
        back = view.affine.boxes(np.array([inside], np.float64))[0]
        if view.pixels.shape[1] == 96:
            # the crop cuts the object on no side
            assert min(inside) > 0
        assert back.tolist() == pytest.approx(BOX[0].tolist(), abs=340 / view.pixels.shape[1])


def test_the_centre_crop_is_that_of_the_classifier():
    from resdet.data.classification.transforms import center_crop

    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (150, 211, 3), np.uint8)
    (view,) = LocalizationViews(dense=False, resize=128, size=96)(image)
    assert np.array_equal(view.pixels, center_crop(image, 128, 96))
