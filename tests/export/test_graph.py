"""The graphs that are exported, in torch: the numbers of the models that they are made from."""

from __future__ import annotations

import pytest
import torch

from resdet.export.graph import ClassifierGraph, DetectorGraph
from resdet.export.nms import nms_by_rows, nms_together
from resdet.export.paste import PastedGraph
from resdet.export.pooling import level_areas
from resdet.ops.masks import paste_masks
from resdet.ops.roi_pool import assign_levels
from resdet.structures import ImageBatch
from tests.export.exports import EVERY_KIND, assert_same, make, noise
from tests.models.tiny_classifier import make_classifier


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_of_detector_gives_its_detections(kind: str) -> None:
    model = make(kind)
    # no side is a multiple of anything without a pyramid
    size = (96, 128) if model.size_divisibility > 1 else (97, 131)
    images, sizes = noise(*size, count=2)
    with torch.no_grad():
        assert assert_same(model, DetectorGraph(model)(images, sizes), images, sizes) > 20


def test_no_detection_and_no_proposal() -> None:
    images, sizes = noise(64, 64, 2)
    model = make("mask", score_thresh=0.999)
    with torch.no_grad():
        assert assert_same(model, DetectorGraph(model)(images, sizes), images, sizes) == 0
    # every anchor's box is empty after clipping
    model.rpn.deltas.bias.data.fill_(-1e4)
    with torch.no_grad():
        assert assert_same(model, DetectorGraph(model)(images, sizes), images, sizes) == 0


def test_nms_keeps_what_it_keeps_one_class_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 40, 2, generator=generator) * 60 + 1e5
    boxes = torch.cat([corners, corners + 40], dim=-1)
    scores = torch.rand(3, 2, 40, generator=generator).round(decimals=1)
    scores[scores < 0.3] = -torch.inf
    scores[2] = -torch.inf
    kept = nms_by_rows(boxes, scores, 0.5, 1000)
    assert 0 < len(kept) < int((scores > -torch.inf).sum())
    other = nms_together(boxes, scores, 0.5, 1000)
    assert {*map(tuple, kept.tolist())} == {*map(tuple, other.tolist())}
    assert len(nms_by_rows(boxes, scores, 0.5, 1)) == 4


def test_levels_are_assigned_by_area_as_by_their_logarithm() -> None:
    areas = level_areas([4, 8, 16, 32])
    for level, area in enumerate(areas, 3):
        exact = torch.tensor([area, torch.nextafter(torch.tensor(area), torch.tensor(0.0))])
        boxes = torch.stack([exact * 0, exact * 0, exact, torch.ones(2)], dim=1)
        assert assign_levels(boxes, 2, 5).tolist() == [level, level - 1]


@pytest.mark.parametrize("kind", ["mask", "torchvision"])
def test_pasted_masks_are_those_of_predict(kind: str) -> None:
    model = make(kind)
    model.mask_paste = "rounded" if kind == "torchvision" else "continuous"
    images, sizes = noise(96, 128, 2)
    originals = [(60, 70), (60, 70)]
    graph = PastedGraph(DetectorGraph(model))
    with torch.no_grad():
        results = graph(images, sizes, torch.tensor(originals))
    for image, expected in enumerate(model.infer(ImageBatch(images, sizes), originals)):
        count = int(results["counts"][image])
        assert count == len(expected) > 0
        torch.testing.assert_close(results["boxes"][image, :count], expected.boxes)
        masks = paste_masks(expected.mask_probs, expected.boxes, (60, 70), paste=model.mask_paste)
        assert (results["masks"][image, :count].bool() ^ masks).float().mean() < 1e-4
        assert not results["masks"][image, count:].any()


def test_a_classifier_gives_its_probabilities() -> None:
    model = make_classifier()
    images, _ = noise(96, 96, 2)
    with torch.no_grad():
        expected = model.logits(model.normalize(images))[0].softmax(1)
        got = ClassifierGraph(model)(images)
    torch.testing.assert_close(got["probabilities"], expected)
