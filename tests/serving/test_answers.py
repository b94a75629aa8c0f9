"""Predictions as JSON and PNG, compared with what they are made of."""

import io

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import resdet
from resdet.serving.answers import as_json, as_png
from resdet.structures import Classification, Detections

SIZE = (60, 90)


@pytest.fixture(scope="module")
def detections() -> Detections:
    torch.manual_seed(1)
    corner = torch.rand(5, 2) * torch.tensor([50.0, 30.0])
    return Detections(
        torch.cat([corner, corner + 8 + torch.rand(5, 2) * 25], dim=1),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]),
        torch.tensor([0, 1, 0, 1, 1]),
        image_size=SIZE,
        mask_probs=F.interpolate(torch.rand(5, 1, 5, 5), 28, mode="bicubic")[:, 0],
        class_names=["cell", "dirt"],
        category_ids=[7, 30],
        extra={"weight": torch.arange(5.0)},
    )


def test_detections_are_the_records_of_coco(detections: Detections) -> None:
    answer = as_json(detections, SIZE, "rle")
    assert (answer["width"], answer["height"]) == (90, 60)
    expected = detections.to_coco(1)
    for record, theirs in zip(answer["detections"], expected, strict=True):
        x1, y1, x2, y2 = record["box"]
        assert (x1, y1, x2 - x1, y2 - y1) == pytest.approx(theirs["bbox"], abs=2e-3)
        assert record["rle"] == theirs["segmentation"]
        assert record["category_id"] == theirs["category_id"]
        assert record["class_name"] == ("cell" if record["label"] == 0 else "dirt")
        assert record["weight"] == theirs["weight"]
    assert "rle" not in as_json(detections, SIZE)["detections"][0]


def test_polygons_are_the_masks_to_a_pixel(detections: Detections) -> None:
    assert detections.masks is not None
    answer = as_json(detections, SIZE, "polygons")["detections"]
    for record, mask in zip(answer, detections.masks.numpy(), strict=True):
        rings = [np.array(ring) * 8 for ring in record["polygons"]]
        drawn = np.zeros((SIZE[0] * 8, SIZE[1] * 8), np.uint8)
        cv2.fillPoly(drawn, rings, 1)
        wrong = drawn[4::8, 4::8] != mask
        assert wrong.sum() < 0.06 * mask.sum()


def test_a_drawing_is_that_of_predict(detections: Detections) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    with Image.open(io.BytesIO(as_png(pixels, detections))) as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == np.asarray(resdet.draw(pixels, detections))).all()


def test_classes_are_the_best_five() -> None:
    scores = torch.tensor([0.6, 0.4])
    answer = as_json(Classification(torch.tensor([1, 0]), scores, scores, ["cat", "dog"]), SIZE)
    assert [each["name"] for each in answer["classes"]] == ["dog", "cat"]


def test_without_detections_the_list_is_empty(detections: Detections) -> None:
    for masks in ("none", "rle", "polygons"):
        assert as_json(detections[:0], SIZE, masks)["detections"] == []
