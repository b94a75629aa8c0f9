"""Files of detections that look like a mistake of the program that wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.coco import evaluate_coco_full
from resdet.evaluation.coco_detections import read_detections
from resdet.evaluation.conventions import XYWH, XYXY, describe_results

NUM_IMAGES, NUM_CLASSES = 40, 6
Boxes = np.ndarray


@pytest.fixture(scope="module")
def truth() -> AnnotationTable:
    """Images of several shapes with a few objects each."""
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(NUM_IMAGES):
        width, height = rng.choice([(640, 480), (480, 640), (500, 375)])
        name = f"{image:03}.jpg"
        images.append({"id": 10 + image, "file_name": name, "width": width, "height": height})
        for _ in range(rng.integers(1, 8)):
            w, h = (rng.uniform(0.05, 0.6, 2) * (width, height)).round()
            x, y = (rng.random(2) * (width - w, height - h)).round()
            box = [x, y, w, h]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 10 + image, "bbox": box, "area": w * h}
                | {"category_id": 1 + len(annotations) % NUM_CLASSES, "iscrowd": 0}
            )
    categories = [{"id": 1 + k, "name": f"class {k}"} for k in range(NUM_CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return read_annotations(json.loads(json.dumps(content, default=float)), [])


def detect(truth: AnnotationTable, *, missed: float = 0.3, extra: int = 200) -> dict[str, Boxes]:
    """Detections as a mediocre detector has them: imprecise, with misses and false ones."""
    rng = np.random.default_rng(1)
    keep = np.flatnonzero(rng.random(len(truth.labels)) > missed)
    boxes = truth.boxes_xywh[keep]
    boxes = boxes + rng.normal(0, 0.08, boxes.shape) * boxes[:, [2, 3, 2, 3]]
    wrong = rng.random((extra, 4)) * (300, 300, 150, 150) + (0, 0, 5, 5)
    images = np.concatenate([truth.image_of[keep], rng.integers(NUM_IMAGES, size=extra)])
    labels = np.concatenate([truth.labels[keep], rng.integers(NUM_CLASSES, size=extra)])
    scores = np.concatenate([rng.uniform(0.2, 1, len(keep)), rng.uniform(0, 0.6, extra)])
    return {
        "images": images,
        "labels": labels,
        "scores": scores,
        "boxes": np.concatenate([boxes, wrong]),
    }


def notes(truth: AnnotationTable, columns: dict[str, Boxes], own: str = XYWH) -> str:
    return "\n".join(describe_results(truth, **columns, own=own))


@pytest.mark.parametrize("extra", [0, 200, 3000])
@pytest.mark.parametrize("missed", [0.0, 0.3, 0.6])
def test_honest_detections(truth: AnnotationTable, missed: float, extra: int) -> None:
    found = notes(truth, detect(truth, missed=missed, extra=extra))
    # a detector may well find nothing in some images
    assert "look like" not in found and "copies" not in found and "score" not in found


def test_detections_at_random(truth: AnnotationTable) -> None:
    for missed in (0.9, 1.0):
        assert "look like" not in notes(truth, detect(truth, missed=missed, extra=2000))


FRACTIONS = "fractions of their image (0..1)"
CONVENTIONS: dict[str, Callable[[Boxes, Boxes, Boxes], Boxes]] = {
    "corners [x1, y1, x2, y2]": lambda b, w, h: np.c_[b[:, :2], b[:, :2] + b[:, 2:]],
    "[center x, center y, width, height]": lambda b, w, h: np.c_[b[:, :2] + b[:, 2:] / 2, b[:, 2:]],
    "[y, x, height, width]": lambda b, w, h: b[:, [1, 0, 3, 2]],
    FRACTIONS: lambda b, w, h: b / np.c_[w, h, w, h],
    FRACTIONS + " given as [center x, center y, width, height]": lambda b, w, h: (
        np.c_[b[:, :2] + b[:, 2:] / 2, b[:, 2:]] / np.c_[w, h, w, h]
    ),
    "thousandths of their image (0..1000)": lambda b, w, h: 1000 * b / np.c_[w, h, w, h],
    "pixels of images resized to 300×300": lambda b, w, h: 300 * b / np.c_[w, h, w, h],
    "pixels of images resized to a longer side of 1333": lambda b, w, h: (
        1333 * b / np.maximum(w, h)[:, None]
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_boxes_of_another_convention(truth: AnnotationTable, name: str) -> None:
    columns = detect(truth)
    height, width = truth.sizes[columns["images"]].T
    columns["boxes"] = CONVENTIONS[name](columns["boxes"], width, height)
    found = notes(truth, columns)
    assert f"the boxes look like {name}, but they are read as [x, y, width, height]" in found


def test_widths_where_corners_are_read(truth: AnnotationTable) -> None:
    columns = detect(truth)
    assert "look like [x, y, width, height], but" in notes(truth, columns, XYXY)


def test_without_sizes(truth: AnnotationTable) -> None:
    columns = detect(truth)
    bare = replace(truth, sizes=np.zeros_like(truth.sizes))
    assert "look like" not in notes(bare, columns)
    columns["boxes"] = columns["boxes"][:, [1, 0, 3, 2]]
    assert "look like [y, x, height, width]" in notes(bare, columns)


@pytest.mark.parametrize("shift", [1, -1, 3])
def test_classes_of_another_list(truth: AnnotationTable, shift: int) -> None:
    columns = detect(truth)
    columns["labels"] = (columns["labels"] + shift) % NUM_CLASSES
    assert "category ids look like those of another list" in notes(truth, columns)


def test_classes_that_a_detector_confuses(truth: AnnotationTable) -> None:
    columns = detect(truth)
    columns["labels"] = np.where(columns["labels"] == 2, 3, columns["labels"])
    assert "another list" not in notes(truth, columns)
    columns["labels"] = np.zeros_like(columns["labels"])
    assert "another list" not in notes(truth, columns)


def test_records(truth: AnnotationTable) -> None:
    columns = detect(truth)
    count = len(columns["scores"])
    twice = {name: np.concatenate([column, column]) for name, column in columns.items()}
    assert f"{count} of {2 * count} detections are copies" in notes(truth, twice)
    assert f"all {count} detections have the score 1" in notes(
        truth, columns | {"scores": np.ones(count)}
    )
    half = columns["images"] < NUM_IMAGES // 2
    half_of = {name: column[half] for name, column in columns.items()}
    assert "20 of 40 images with objects have no detection" in notes(truth, half_of)
    assert "scores are outside 0..1" in notes(truth, columns | {"scores": 100 * columns["scores"]})


def test_scores_beyond_one_are_evaluated(truth: AnnotationTable, tmp_path: Path) -> None:
    columns = detect(truth)
    records = [
        {"image_id": 10 + image, "category_id": 1 + label, "score": score, "bbox": box}
        for image, label, score, box in zip(*(c.tolist() for c in columns.values()), strict=True)
    ]
    for record in records:
        record["bbox"] = [abs(value) for value in record["bbox"]]
    result = evaluate_coco_full(truth, records)
    for scale in (100, -1):
        for record, score in zip(records, columns["scores"].tolist(), strict=True):
            record["score"] = scale * score
        other = evaluate_coco_full(truth, records)
        assert any("outside 0..1" in note for note in other.notes)
        other.write(tmp_path / "out")
        details = json.loads((tmp_path / "out" / "eval.json").read_text())
        assert "tide" in details and "calibration" not in details
        assert scale < 0 or other.summary == result.summary


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"results": [{"bbox": [1, 2, 3, 4], "score": 1}]}, "write the list in its 'results'"),
        ({"images": [], "annotations": [], "categories": []}, "were the two files swapped?"),
        ({"model": "x", "size": 3}, "this is an object with 'model', 'size'"),
        ([{"image_id": 10, "category": "class 1", "score": 1}], "the first of them has 'image_id'"),
        (
            [{"image_id": 10, "category_id": "class 1", "score": 1, "bbox": [1, 2, 3, 4]}],
            "these are class names: write ids instead, such as 2 for 'class 1'",
        ),
        (
            [{"image_id": "003", "category_id": 1, "score": 1, "bbox": [1, 2, 3, 4]}],
            "these are file names: write ids instead, such as 13 for '003'",
        ),
    ],
)
def test_files_of_other_tools(
    truth: AnnotationTable, tmp_path: Path, content: object, words: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_detections(path, truth)
    assert words in str(error.value) and str(path) in str(error.value)


def test_a_folder_of_results(truth: AnnotationTable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give the file in it"):
        read_detections(tmp_path, truth)
