"""Geometry moves pixels, boxes and outlines together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.data.detection.dataset import read_dataset
from resdet.data.detection.outlines import POLYGON, Outlines
from resdet.data.detection.pipeline import dense_masks
from resdet.data.detection.placing import Objects
from resdet.data.detection.resizes import LargeScaleJitter, ShortEdge
from resdet.data.detection.transforms import TestTransform, TrainTransform
from resdet.files.pixels import output_size, resize_exactly, resize_image


def one_object(points: list[list[float]], box: list[float]) -> Objects:
    outlines = Outlines(
        np.array([POLYGON], np.uint8),
        np.array([0, 1]),
        np.array([0, len(points)]),
        np.array(points, np.float32),
        np.zeros(2, np.int64),
        np.zeros(0, np.uint8),
    )
    return Objects(np.array([box], np.float32), np.array([2]), outlines)


def red_inside(height: int, width: int, box: list[int]) -> np.ndarray[Any, Any]:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2], 0] = 255
    return image


def seed(number: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence((1, 2, number))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # What Detectron2's ResizeShortestEdge.get_output_shape(h, w, 800, 1333) gives.
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((427, 640), (800, 1199)),
        ((333, 500), (800, 1201)),
        ((640, 640), (800, 800)),
        ((300, 900), (444, 1333)),
        ((1000, 200), (1333, 267)),
        ((1, 1000), (1, 1333)),
    ],
)
def test_output_sizes_are_detectron2s(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert output_size(*size, 800, 1333) == expected


def test_resize_is_pillows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    expected = Image.fromarray(image).resize((40, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_image(image, 30, 1333), np.asarray(expected))
    assert resize_image(image, 90, 1333) is image


@pytest.mark.parametrize("horizontal", [0.0, 1.0])
@pytest.mark.parametrize("vertical", [0.0, 1.0])
def test_flips_move_everything(horizontal: float, vertical: float) -> None:
    # a triangle in the upper left of its box
    objects = one_object([[10, 4], [30, 4], [10, 24]], [10, 4, 30, 24])
    image = red_inside(40, 60, [10, 4, 30, 24])
    transform = TrainTransform(
        resize=ShortEdge([80], 1000), flip_prob=horizontal, vertical_flip_prob=vertical
    )
    result = transform(image, objects, mask_size=28, seed=seed())
    x0, x1 = (20, 60) if not horizontal else (60, 100)
    y0, y1 = (8, 48) if not vertical else (32, 72)
    np.testing.assert_allclose(result.boxes, [[x0, y0, x1, y1]], atol=1e-4)
    assert (result.image[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2, 0] == 255).all()
    assert result.masks is not None
    mask = result.masks[0]
    upright = mask[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    assert upright[0, :-1].all()
    assert upright[:-1, 0].all()
    assert not upright[-1, 1:].any()
    assert abs(mask.mean() - 0.5) < 0.03


def test_crop_cuts_to_what_is_left_of_the_outline() -> None:
    # An L: a bar on the left, a foot along the bottom. A crop of the top has the bar only.
    points = [[10.0, 0], [20, 0], [20, 80], [90, 80], [90, 100], [10, 100]]
    image = np.zeros((100, 100, 3), np.uint8)
    transform = TrainTransform(resize=ShortEdge([100], 1000), flip_prob=0, crop=(50, 100))
    tops = set()
    for number in range(40):
        objects = one_object(points, [10, 0, 90, 100])
        result = transform(image, objects, mask_size=112, seed=seed(number))
        assert result.image.shape == (50, 100, 3)
        assert result.masks is not None
        box = result.boxes[0]
        foot = box[2] > 50
        tops.add(bool(foot))
        expected = [10, 0, 90 if foot else 20, 50]
        np.testing.assert_allclose(box, expected, atol=0.5)
        if not foot:
            assert result.masks[0].mean() > 0.97
    assert tops == {True, False}


def test_objects_out_of_the_crop_are_dropped_with_label_and_mask() -> None:
    left = one_object([[0, 0], [9, 0], [9, 9], [0, 9]], [0, 0, 9, 9])
    transform = TrainTransform(resize=ShortEdge([20], 1000), flip_prob=0, crop=(20, 20))
    counts = set()
    for number in range(30):
        result = transform(
            np.zeros((20, 100, 3), np.uint8),
            left,
            mask_size=28,
            seed=seed(number),
        )
        assert result.masks is not None
        assert len(result.boxes) == len(result.labels) == len(result.masks)
        assert result.boxes.shape[1:] == (4,)
        counts.add(len(result.boxes))
    assert counts == {0, 1}


def test_a_box_whose_outline_is_outside_the_crop_is_dropped() -> None:
    # the box reaches into the crop, the outline (a triangle at the far corner) does not
    objects = one_object([[100, 60], [100, 100], [60, 100]], [0, 0, 100, 100])
    transform = TrainTransform(resize=ShortEdge([100], 1000), flip_prob=0, crop=(30, 30))
    for number in range(20):
        result = transform(
            np.zeros((100, 100, 3), np.uint8),
            objects,
            mask_size=28,
            seed=seed(number),
        )
        if len(result.boxes):
            assert result.masks is not None and result.masks.any()


def test_large_scale_jitter_fills_a_square() -> None:
    image = red_inside(60, 90, [30, 20, 60, 40])
    jitter = LargeScaleJitter(128, (0.1, 2.0))
    widths = []
    for number in range(60):
        objects = one_object([[30, 20], [60, 20], [60, 40], [30, 40]], [30, 20, 60, 40])
        transform = TrainTransform(resize=jitter, flip_prob=0.5)
        result = transform(image, objects, mask_size=28, seed=seed(number))
        assert result.image.shape == (128, 128, 3)
        for box in result.boxes:
            x0, y0, x1, y1 = (round(float(value)) for value in box)
            widths.append(x1 - x0)
            if min(x1 - x0, y1 - y0) > 8:
                inside = result.image[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2, 0]
                assert (inside > 250).all()
        if result.masks is not None and len(result.masks):
            assert result.masks.all()
    assert min(widths) < 20 < 60 < max(widths)


def test_jitter_resizes_a_window_of_whole_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    lefts = set()
    for number in range(20):
        window, affine = LargeScaleJitter(64, (2.0, 2.0))(image, np.random.default_rng(number))
        assert window.shape == (64, 64, 3)
        # 91×128 of 50×70, of which 64×64 are seen: 35×35 pixels of the file
        back = affine.inverse()
        x0, y0, x1, y1 = back.boxes(np.array([[0.0, 0.0, 64.0, 64.0]])).round(9)[0].tolist()
        assert (x1 - x0, y1 - y0) == (35, 35)
        assert 0 <= x0 <= 35 and 0 <= y0 <= 15 and x0 == int(x0) and y0 == int(y0)
        expected = resize_exactly(image[int(y0) : int(y1), int(x0) : int(x1)], 64, 64)
        assert np.abs(window.astype(int) - expected).max() <= 2
        lefts.add(x0)
    assert len(lefts) > 8


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (1, 1), (3, 5000)])
def test_jitter_of_odd_pictures(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    for number in range(30):
        square, affine = LargeScaleJitter(64, (0.1, 2.0))(image, np.random.default_rng(number))
        assert square.shape == (64, 64, 3)
        x0, y0, x1, y1 = affine.boxes(np.array([[0.0, 0.0, shape[1], shape[0]]]))[0].tolist()
        assert x0 <= 1e-6 and y0 <= 1e-6
        shown = square[: min(64, round(y1)), : min(64, round(x1))]
        assert (shown == 9).all() and (square == 9).sum() == shown.size


def test_small_scale_pads_with_gray() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    window, affine = LargeScaleJitter(64, (0.5, 0.5))(image, np.random.default_rng(0))
    assert (window[:16, :32] == 0).all()
    assert (window[16:] == 128).all() and (window[:, 32:] == 128).all()
    assert (affine.shift_x, affine.shift_y) == (0, 0)


def test_dense_and_polygon_routes_agree(shared_data: Path) -> None:
    """The same flip: ours on polygons, albumentations' on dense masks."""
    folder = shared_data / "coco128_inst"
    source = (str(folder / "images"), str(folder / "annotations" / "val.json"))
    resize = ShortEdge([480], 800)
    ours = TrainTransform(resize=resize, flip_prob=1.0)
    flip = [{"name": "HorizontalFlip", "p": 1.0}]
    dense = TrainTransform(resize=resize, flip_prob=0.0, albumentations=flip)
    first = read_dataset(*source, transform=ours)
    second = read_dataset(*source, transform=dense)
    overlaps = []
    for index in range(8):
        one, other = first[(0, index)].target, second[(0, index)].target
        rows = np.arange(len(one.labels))
        large = (one.boxes[:, 2:] - one.boxes[:, :2]).min(dim=1).values > 24
        if len(one.labels) != len(other.labels):
            continue  # an object of less than a pixel has no dense mask
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=4)
        assert one.masks is not None and other.masks is not None
        for row in rows[large.numpy()]:
            a, b = one.masks[row].bool(), other.masks[row].bool()
            overlaps.append(float((a & b).sum() / (a | b).sum()))
    assert len(overlaps) > 15
    assert np.mean(overlaps) > 0.94


def test_dense_masks_lie_where_the_polygon_is() -> None:
    objects = one_object([[10, 4], [30, 4], [30, 24], [10, 24]], [10, 4, 30, 24])
    assert objects.outlines is not None
    mask = dense_masks(objects.outlines, (40, 60))[0]
    np.testing.assert_array_equal(mask * 255, red_inside(40, 60, [10, 4, 30, 24])[..., 0])


def test_masks_in_the_test_transform_keep_their_boxes(nuclei: Path) -> None:
    data = read_dataset(
        str(nuclei / "images"),
        str(nuclei / "annotations" / "val.json"),
        transform=TestTransform(short_edge=512, max_size=1333),
    )
    target = data[(0, 0)].target
    assert target.masks is not None
    assert target.masks.shape[1:] == (112, 112)
    boxes = data.table.boxes_xywh[data.rows[data.starts[0] : data.stops[0]]]
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(target.boxes, boxes * 2, atol=1e-4)
    # Every mask touches all four sides of its box, as the boxes were made from them.
    touched = [target.masks[:, :8], target.masks[:, -8:], target.masks[..., :8]]
    assert all(bool(side.flatten(1).any(dim=1).all()) for side in touched)
