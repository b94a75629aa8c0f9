"""Our evaluator against pycocotools, number by number, on objects that try every rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from resdet.evaluation import coco_matching, coco_overlap
from resdet.evaluation.coco_backends import run_backend
from resdet.evaluation.coco_detections import prepare_detections
from resdet.evaluation.coco_input import prepare_ground_truth
from resdet.evaluation.coco_overlap import box_iou, ranks_within
from resdet.files.rle import to_rle

SIDE = 240
CLASSES = (1, 3, 8)


def square(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def rle(box: list[float]) -> dict[str, Any]:
    code = mask_utils.merge(mask_utils.frPyObjects(square(box), SIDE, SIDE))
    return {"size": code["size"], "counts": code["counts"].decode()}


def make_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Crowds, equal boxes, equal scores, areas on the limits, empty images, classes on one side.

    Few places, sizes and scores, so that ties of every kind come up.
    """
    rng = np.random.default_rng(seed)
    sides = [8, 31, 32, 33, 60, 95, 96, 97, 120]

    def box() -> list[float]:
        side = float(rng.choice(sides))
        x, y = (rng.integers(0, 4, 2) * 12 + rng.integers(0, 2, 2) * 0.5).tolist()
        return [x, y, side, side * float(rng.choice([1, 1, 0.8]))]

    images = [{"id": 7 * i, "height": SIDE, "width": SIDE} for i in range(1, 7)]
    truth: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for image in images[:-1]:
        for _ in range(rng.integers(0, 9)):
            place = box()
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice(CLASSES[:2])),
                    "bbox": place,
                    "segmentation": square(place),
                    "area": float(rng.choice([place[2] * place[3], 1024, 9216, 50])),
                    "iscrowd": int(rng.uniform() < 0.2),
                }
            )
    for _ in range(rng.integers(0, 120)):
        known = truth and rng.uniform() < 0.5
        place = list(truth[rng.integers(len(truth))]["bbox"]) if known else box()
        records.append(
            {
                "image_id": int(rng.choice([image["id"] for image in images])),
                "category_id": int(rng.choice(CLASSES[1:] if rng.uniform() < 0.2 else CLASSES[:2])),
                "bbox": place,
                "segmentation": rle(place),
                "score": float(rng.choice([0.1, 0.2, 0.5, 0.5, rng.uniform()])),
            }
        )
    categories = [{"id": number, "name": str(number)} for number in CLASSES]
    return {"images": images, "annotations": truth, "categories": categories}, records


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("caps", [(1, 10, 100), (1, 2, 5)])
def test_equal_to_pycocotools_to_the_last_bit(kind: str, caps: tuple[int, ...]) -> None:
    hits = 0
    for seed in range(40):
        case, records = make_case(seed)
        truth = prepare_ground_truth(case)
        table = prepare_detections(records, truth, kinds=[kind])
        ours, theirs = (
            run_backend(truth, table, kind=kind, backend=backend, max_dets=caps)
            for backend in ("fast", "pycocotools")
        )
        for mine, expected in zip(ours, theirs, strict=True):
            assert mine.shape == expected.shape
            assert np.array_equal(mine, expected), f"seed {seed}"
        hits += int((ours[0] > 0).any())
    assert hits > 30, "the cases find something"


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    case, records = make_case(1)
    truth = prepare_ground_truth(case)
    table = prepare_detections(records, truth, kinds=[kind])
    arguments: dict[str, Any] = {"kind": kind, "backend": "fast", "max_dets": (1, 10, 100)}
    whole = run_backend(truth, table, **arguments)
    monkeypatch.setattr(coco_matching, "_PAIRS_AT_ONCE", 3)
    monkeypatch.setattr(coco_overlap, "_PAIRS_AT_ONCE", 5)
    monkeypatch.setattr(coco_overlap, "_MASKS", 7)
    monkeypatch.setattr(coco_overlap, "_GROUPS_AT_ONCE", 1)
    for mine, expected in zip(run_backend(truth, table, **arguments), whole, strict=True):
        assert np.array_equal(mine, expected)


def test_a_crowd_takes_many_and_an_object_one() -> None:
    """By hand: two detections on one object, two inside a crowd of another place."""
    case, _ = make_case(0)
    place, crowd = [0.0, 0.0, 40.0, 40.0], [100.0, 100.0, 100.0, 100.0]
    common = {"image_id": 7, "category_id": 1}
    case["annotations"] = [
        {"id": 1, **common, "bbox": place, "area": 1600.0, "iscrowd": 0},
        {"id": 2, **common, "bbox": crowd, "area": 1e4, "iscrowd": 1},
    ]
    records = [
        {**common, "bbox": box, "score": score}
        for box, score in [
            (place, 0.9),
            (place, 0.8),
            ([110.0, 110.0, 20.0, 20.0], 0.7),
            ([120.0, 120.0, 20.0, 20.0], 0.6),
        ]
    ]
    truth = prepare_ground_truth(case)
    table = prepare_detections(records, truth, kinds=["bbox"])
    objects = coco_overlap.sort_objects(truth)
    found = coco_overlap.sort_found(truth, table, 100)
    detections, states = coco_matching.match(found, objects, coco_overlap.box_pairs(found, objects))
    assert detections.tolist() == [0, 1, 2, 3]
    assert (states[:, 0] == [[1], [0], [2], [2]]).all()


def test_box_overlaps_are_pycocotools_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    boxes, others = rng.uniform(0, 60, (2, 200, 4)).round(2)
    boxes[:5], others[:3] = others[:5], 0
    boxes[:, 2] *= rng.uniform(size=200) > 0.05
    crowd = rng.uniform(size=200) < 0.3
    expected = [
        mask_utils.iou([box.tolist()], [other.tolist()], [int(is_crowd)])[0, 0]
        for box, other, is_crowd in zip(boxes, others, crowd, strict=True)
    ]
    found = box_iou(boxes, others, crowd)
    assert np.array_equal(found, expected)
    assert 50 < (found > 0).sum() < 200


def test_ranks_within() -> None:
    groups = np.array([4, 4, 7, 9, 9, 9])
    assert ranks_within(groups).tolist() == [0, 1, 0, 0, 1, 2]
    assert ranks_within(groups[:0]).tolist() == []


def test_one_outline_and_several() -> None:
    size = (SIDE, SIDE)
    one, two = square([10.0, 10.0, 30.0, 20.0]), square([20.0, 15.0, 40.0, 40.0])
    for polygons in (one, one + two):
        merged = mask_utils.merge(mask_utils.frPyObjects(polygons, *size))
        assert to_rle(polygons, size, "a mask") == merged
