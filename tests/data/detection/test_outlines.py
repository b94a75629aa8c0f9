"""Outlines become masks as pycocotools makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import (
    POLYGON,
    Affine,
    Outlines,
    decode_rle_windows,
    fill_polygons,
    rasterise,
    rle_outlines,
)
from resdet.ops.masks import resample_masks


def polygon_outlines(objects: list[list[list[float]]]) -> Outlines:
    parts = [np.array(part, np.float32).reshape(-1, 2) for each in objects for part in each]
    return Outlines(
        np.full(len(objects), POLYGON, np.uint8),
        np.cumsum([0, *map(len, objects)]),
        np.cumsum([0, *map(len, parts)]),
        np.concatenate(parts),
        np.zeros(len(objects) + 1, np.int64),
        np.zeros(0, np.uint8),
    )


def iou(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return both / np.maximum(either, 1)


@pytest.fixture(scope="module")
def coco_objects(shared_data: Path) -> list[dict[str, Any]]:
    path = shared_data / "coco128_inst" / "annotations" / "train.json"
    annotations = json.loads(path.read_text())["annotations"]
    return [each for each in annotations if not each["iscrowd"]]


def test_masks_are_those_of_pycocotools(coco_objects: list[dict[str, Any]]) -> None:
    objects = coco_objects[::3]
    boxes = np.array([each["bbox"] for each in objects])
    boxes[:, 2:] += boxes[:, :2]
    outlines = polygon_outlines([each["segmentation"] for each in objects])
    masks = rasterise(outlines, boxes, (112, 112), affine=Affine(), image_size=(1, 1))
    references: dict[int, list[Any]] = {112: [], 896: []}
    for each, box in zip(objects, boxes, strict=True):
        for size, reference in references.items():
            scale = size / (box[2:] - box[:2])
            parts = [
                ((np.array(part).reshape(-1, 2) - box[:2]) * scale).reshape(-1)
                for part in each["segmentation"]
            ]
            code = coco_mask.merge(coco_mask.frPyObjects(parts, size, size))
            reference.append(coco_mask.decode(code))
    same_size = iou(masks, np.stack(references[112]))
    assert same_size.mean() > 0.985
    fine = np.stack(references[896])
    enlarged = masks.repeat(8, 1).repeat(8, 2)
    coarse = np.stack(references[112]).repeat(8, 1).repeat(8, 2)
    assert iou(enlarged, fine).mean() > 0.975
    assert iou(enlarged, fine).mean() > iou(coarse, fine).mean() - 1e-3


def test_a_rectangle_is_exact_and_parts_are_united() -> None:
    left, right = [0.0, 0, 4, 0, 4, 8, 0, 8], [2.0, 0, 8, 0, 8, 4, 2, 4]
    outlines = polygon_outlines([[left], [left, right]])
    boxes = np.array([[0.0, 0, 8, 8]] * 2)
    masks = rasterise(outlines, boxes, (8, 8), affine=Affine(), image_size=(8, 8))
    expected = np.zeros((2, 8, 8), np.uint8)
    expected[:, :, :4] = 1
    expected[1, :4, 2:] = 1
    np.testing.assert_array_equal(masks, expected)


def test_polygons_may_reach_far_out_of_the_box() -> None:
    points = np.array([[-1e4, -1e4], [1e4, -1e4], [1e4, 5], [-1e4, 5.0]])
    masks = fill_polygons(points, np.array([0, 4]), np.array([[0.0, 0, 10, 10]]), (10, 10))
    expected = np.zeros((1, 10, 10), np.uint8)
    expected[:, :5] = 1
    np.testing.assert_array_equal(masks, expected)


def test_windows_of_rle_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for blur in (0.6, 2.0, 15.0):
        size = (int(rng.integers(40, 300)), int(rng.integers(40, 300)))
        noise = [cv2.GaussianBlur(rng.random(size), (0, 0), blur) > 0.5 for _ in range(5)]
        noise += [np.zeros(size, bool), np.ones(size, bool)]
        codes = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8)))["counts"] for m in noise]
        outlines = rle_outlines(codes)
        for window in ((0, 0, size[1], size[0]), (3, 5, 20, 30), (7, 0, 7, 9)):
            windows = np.tile(np.array(window, np.int64), (len(noise), 1))
            found = decode_rle_windows(outlines.rle, outlines.rle_offsets, size, windows)
            x0, y0, x1, y1 = window
            for mask, bitmap in zip(noise, found, strict=True):
                np.testing.assert_array_equal(bitmap, mask[y0:y1, x0:x1])


@pytest.mark.parametrize("flip", [False, True])
def test_polygon_and_rle_of_one_object_agree(
    coco_objects: list[dict[str, Any]], flip: bool
) -> None:
    size = (700, 700)
    objects = [each for each in coco_objects if each["area"] > 2000][:40]
    codes = [
        coco_mask.merge(coco_mask.frPyObjects(each["segmentation"], *size))["counts"]
        for each in objects
    ]
    boxes = np.array([each["bbox"] for each in objects])
    boxes[:, 2:] += boxes[:, :2]
    affine = Affine(scale_x=1.7, shift_x=-31.3, scale_y=0.6, shift_y=2.5)
    if flip:
        affine = affine.then(Affine(scale_x=-1, shift_x=640))
    grid = (112, 112)
    polygons = polygon_outlines([each["segmentation"] for each in objects])
    moved = affine.boxes(boxes)
    first = rasterise(polygons, moved, grid, affine=affine, image_size=size)
    second = rasterise(rle_outlines(codes), moved, grid, affine=affine, image_size=size)
    assert iou(first, second).mean() > 0.95
    assert iou(first, second).min() > 0.8


def test_affines_compose_and_invert() -> None:
    first, second = Affine(2, 3, -1, 5), Affine(-0.5, 1, 4, 0)
    points = np.array([[1.0, 2], [7, -3]])
    both = first.then(second)
    np.testing.assert_allclose(both.points(points), second.points(first.points(points)))
    np.testing.assert_allclose(both.inverse().points(both.points(points)), points)
    boxes = first.boxes(np.array([[0.0, 0, 2, 3]]))
    np.testing.assert_allclose(boxes, [[3, 2, 7, 5]])


def test_targets_resampled_from_the_masks_are_those_of_the_polygon(
    coco_objects: list[dict[str, Any]],
) -> None:
    """28×28 targets in shifted proposals: from the M×M masks, and rasterised as Detectron2 does."""
    objects = coco_objects[::3]
    boxes = np.array([each["bbox"] for each in objects])
    boxes[:, 2:] += boxes[:, :2]
    shifts = np.random.default_rng(0).uniform(-0.12, 0.12, (len(boxes), 4))
    proposals = boxes + shifts * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    outlines = polygon_outlines([each["segmentation"] for each in objects])
    masks = rasterise(outlines, boxes, (112, 112), affine=Affine(), image_size=(1, 1))
    targets = resample_masks(
        torch.from_numpy(masks),
        torch.from_numpy(boxes).float(),
        torch.from_numpy(proposals).float(),
        28,
    )
    references = []
    for each, box in zip(objects, proposals, strict=True):
        scale = 28 / (box[2:] - box[:2])
        parts = [
            ((np.array(part).reshape(-1, 2) - box[:2]) * scale).reshape(-1)
            for part in each["segmentation"]
        ]
        references.append(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 28, 28))))
    assert iou(targets.numpy().astype(np.uint8), np.stack(references)).mean() > 0.98


def test_parts_and_crossings_are_filled_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """200,000 parts at once would take gigabytes; in groups the masks are the same."""
    rng = np.random.default_rng(0)
    objects = [
        [(40 * rng.random(2 * points) + 20).tolist() for points in rng.integers(3, 30, parts)]
        for parts in (1, 40, 2, 1, 7)
    ]
    outlines, boxes = polygon_outlines(objects), np.tile([20.0, 20, 60, 60], (5, 1))
    options: dict[str, Any] = {"affine": Affine(2, 1, 2, 1), "image_size": (80, 80)}
    boxes = Affine(2, 1, 2, 1).boxes(boxes)
    whole = rasterise(outlines, boxes, (28, 20), **options)
    for most in (10_000, 1_000, 100, 7):  # 560 cells per polygon
        monkeypatch.setattr("resdet.data.detection.outlines.MOST_CELLS", most)
        assert (rasterise(outlines, boxes, (28, 20), **options) == whole).all()
    assert 0.2 < whole.mean() < 0.9
