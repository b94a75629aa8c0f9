"""hotcoco against pycocotools, number by number, on objects that try every rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from resdet.data.detection.readers import read_annotations
from resdet.evaluation.coco_backends import run_backend
from resdet.evaluation.coco_detections import read_detections
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
    for seed in range(24):
        case, records = make_case(seed)
        truth = read_annotations(case, [])
        table, _ = read_detections(records, truth, [kind])
        fast, referee = (
            run_backend(truth, table, iou_type=kind, backend=backend, max_dets=caps)
            for backend in ("fast", "pycocotools")
        )
        assert fast.precision.shape == (10, 101, 3, 4) and fast.recall.shape == (10, 3, 4, 3)
        assert np.array_equal(fast.precision, referee.precision), f"seed {seed}"
        assert np.array_equal(fast.recall, referee.recall), f"seed {seed}"
        hits += int((fast.precision > 0).any())
    assert hits > 18, "the cases find something"


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
    truth = read_annotations(case, [])
    table, _ = read_detections(records, truth, ["bbox"])
    for backend in ("hotcoco", "pycocotools"):
        found = run_backend(truth, table, iou_type="bbox", backend=backend)
        # the second is a false positive after full recall, the two in the crowd count as nothing
        assert (
            found.precision[:, :, 0, 0] == pytest.approx(1) and (found.recall[:, 0, 0] == 1).all()
        )


def test_one_outline_and_several() -> None:
    size = (SIDE, SIDE)
    one, two = square([10.0, 10.0, 30.0, 20.0]), square([20.0, 15.0, 40.0, 40.0])
    for polygons in (one, one + two):
        merged = mask_utils.merge(mask_utils.frPyObjects(polygons, *size))
        assert to_rle(polygons, size, "a mask") == merged
