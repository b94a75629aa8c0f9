"""Stored predictions come back exactly; damaged files and other data are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.classification import answers_of, join_answers
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.inclusive import PixelDetections
from resdet.evaluation.stored import FILE, Answers, read_stored, store
from resdet.files.findings import DataError
from resdet.files.npz import write_npz

CONFIG = {"task": "detection", "train": {"epochs": 1.5}, "imports": ["ümlaut"]}


@pytest.fixture(scope="module")
def truth(nuclei: Path) -> AnnotationTable:
    return read_annotations(nuclei / "annotations" / "val.json", [])


def detections(truth: AnnotationTable, *, masks: bool) -> DetectionTable:
    """Objects as detections, moved a little."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(truth.labels))[:200]
    boxes = (truth.boxes_xywh[rows] + rng.normal(0, 2, (200, 4))).round(3)
    scores = rng.random(200).astype(np.float32).astype(np.float64)
    table = DetectionTable(truth.image_of[rows], truth.labels[rows], scores, boxes)
    if masks:
        table.rles = [truth.rles[row] for row in rows.tolist()]
        table.mask_areas = truth.areas[rows].astype(np.int64)
    return table


@pytest.mark.parametrize("masks", [False, True])
def test_detections_come_back_exactly(truth: AnnotationTable, tmp_path: Path, masks: bool) -> None:
    table = detections(truth, masks=masks)
    path = store(tmp_path, table, CONFIG, truth, kinds=["bbox"])
    assert path == tmp_path / FILE
    stored = read_stored(tmp_path)
    assert stored.config == CONFIG and stored.truth(truth) is truth
    assert stored.kinds == ["bbox"]
    found = stored.predictions
    assert isinstance(found, DetectionTable)
    for name in ("images", "labels", "scores", "boxes"):
        assert np.array_equal(getattr(found, name), getattr(table, name)), name
    if not masks:
        assert found.rles is None
        return
    assert [rle["counts"] for rle in found.rles or []] == [r["counts"] for r in table.rles or []]


def test_scores_and_boxes_that_need_all_their_digits(
    truth: AnnotationTable, tmp_path: Path
) -> None:
    table = detections(truth, masks=False)
    table.scores, table.boxes = table.scores / 3, table.boxes / 7
    store(tmp_path, table, CONFIG, truth)
    found = read_stored(tmp_path).predictions
    assert isinstance(found, DetectionTable)
    assert np.array_equal(found.scores, table.scores)
    assert np.array_equal(found.boxes, table.boxes)


def test_inclusive_pixels_keep_their_base(truth: AnnotationTable, tmp_path: Path) -> None:
    table = detections(truth, masks=False)
    labels = table.labels.copy()
    labels[0] = -1  # of a class that the data does not have
    pixels = PixelDetections(table.images, labels, table.scores, table.boxes, 1)
    store(tmp_path, pixels, CONFIG, truth)
    found = read_stored(tmp_path).predictions
    assert isinstance(found, PixelDetections) and found.base == 1
    assert np.array_equal(found.corners, table.boxes) and found.labels[0] == -1


def test_answers_of_a_classifier(tmp_path: Path) -> None:
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, float("nan"), 2.0], [0.0, 3.0, 1.0]])
    labels = torch.tensor([1, -1, 1])
    parts = [answers_of(logits[k : k + 1], labels[k : k + 1], [n], "xyz") for k, n in ((2, "a"),)]
    parts.append(answers_of(logits[:2], labels[:2], ["c", "b"], "xyz"))
    answers = join_answers(parts)
    assert answers is not None and answers.names == ["a", "c"]
    # of equal logits the first class is the prediction
    assert answers.top.tolist() == [[1, 2, 0], [0, 1, 2]]
    store(tmp_path, answers, CONFIG)
    found = read_stored(tmp_path).predictions
    assert isinstance(found, Answers)
    assert np.array_equal(found.top_scores, answers.top_scores)
    assert np.array_equal(found.own_scores, answers.own_scores)
    assert np.allclose(found.own_scores[1], torch.tensor([1.0, 1.0, 0.0]).softmax(0)[1])


def test_images_that_were_left_out_stay_without_objects(
    truth: AnnotationTable, tmp_path: Path
) -> None:
    without = truth.without_objects([3, 5])
    store(tmp_path, detections(truth, masks=False), CONFIG, without)
    found = read_stored(tmp_path).truth(truth)
    assert len(found.labels) == len(without.labels) < len(truth.labels)


def test_other_annotations_are_refused(truth: AnnotationTable, tmp_path: Path) -> None:
    store(tmp_path, detections(truth, masks=False), CONFIG, truth)
    stored = read_stored(tmp_path)
    renamed = replace(truth, class_names=["other"])
    for other in (renamed, truth.select(np.arange(1900)), truth.select_images(np.arange(67) > 1)):
        with pytest.raises(DataError, match="evaluate the run again"):
            stored.truth(other)


def test_masks_of_other_sizes_are_refused(truth: AnnotationTable, tmp_path: Path) -> None:
    store(tmp_path, detections(truth, masks=True), CONFIG, truth)
    larger = replace(truth, sizes=truth.sizes * 2)
    with pytest.raises(DataError, match="evaluate the run again"):
        read_stored(tmp_path).truth(larger)


def test_what_is_not_kept(truth: AnnotationTable, tmp_path: Path) -> None:
    unannotated = replace(truth, has_annotations=False)
    assert store(tmp_path, detections(truth, masks=False), CONFIG, unannotated) is None
    assert store(tmp_path, {"own": "metric"}, CONFIG, truth) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no such file"):
        read_stored(tmp_path)


def test_damaged_files_are_an_error(truth: AnnotationTable, tmp_path: Path) -> None:
    store(tmp_path, detections(truth, masks=True), CONFIG, truth)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError):
        read_stored(tmp_path)
    (tmp_path / FILE).write_bytes(whole)
    with np.load(tmp_path / FILE) as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes())
    assert header["version"] == 1
    changes = {
        "images": arrays["images"] + 60,
        "labels": arrays["labels"] + 1,
        "scores": arrays["scores"][:-1],
        "boxes": arrays["boxes"][:, :3],
        "masks": arrays["masks"][:-1],
        "mask_sizes": arrays["mask_sizes"] * 2,
        "num_objects": arrays["num_objects"][:3],
        "header": np.frombuffer(json.dumps(header | {"version": 2}).encode(), np.uint8),
    }
    for name, values in changes.items():
        write_npz(tmp_path / FILE, arrays | {name: values})
        with pytest.raises(DataError, match="evaluate the run again"):
            read_stored(tmp_path)
    for name in arrays:
        write_npz(tmp_path / FILE, {k: v for k, v in arrays.items() if k != name})
        if name != "masks":  # without masks these are detections of boxes
            with pytest.raises(DataError):
                read_stored(tmp_path)
