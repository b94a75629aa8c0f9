"""Maxout over two scales, and the mean of several detectors, one region after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resdet.inference.region_scores import Maps, Scales, adjacent_scales, score_regions
from resdet.models.rcnn import RCNN
from resdet.ops.boxes import decode_boxes
from resdet.structures import ImageBatch
from tests.models.test_fixed_slots import C4
from tests.models.tiny import merged, tiny_model

DC5 = {"fpn": None, "backbone": {"res5_dilation": 2}, "rpn": {"anchor_sizes": [[32, 64]]},
       "roi": {"mask_head": None, "box_head": {"num_fcs": 2}}}  # fmt: skip
CONTEXT = {"roi": {"context": True}}
FRAME = (80, 100)
SIDE = 112
"""Of a region at the scale that suits it; half of the real one, for small images."""
SCALES = (0.7, 1.0, 1.6, 2.5)


@pytest.fixture(autouse=True)
def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resdet.inference.region_scores.CANONICAL_AREA", SIDE**2)


def maps_of(model: RCNN, scales: tuple[float, ...], images: int = 2) -> list[Maps]:
    """Noise of the frame's size times each scale."""
    maps = []
    for number, scale in enumerate(scales):
        height, width = (round(side * scale) for side in FRAME)
        pixels = torch.rand(
            images, 3, height, width, generator=torch.Generator().manual_seed(number)
        )
        pad = (0, -width % model.size_divisibility, 0, -height % model.size_divisibility)
        sizes = torch.tensor([[height, width]] * images)
        batch = ImageBatch(torch.nn.functional.pad(pixels * 255, pad), sizes)
        with torch.no_grad():
            maps.append(Maps(model, model.levels(batch), sizes))
    return maps


def regions(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([75.0, 55.0])
    side = 4 + torch.rand(count, 2, generator=generator) * 75
    limits = torch.tensor([FRAME[1], FRAME[0]], dtype=torch.float32)
    boxes = torch.cat([corner, torch.minimum(corner + side, limits)], dim=1)
    return boxes, torch.arange(count) % 2


def slow_scales(areas: list[float], second: str) -> tuple[int, int]:
    distance = [abs(area - SIDE**2) for area in areas]
    first = distance.index(min(distance))
    neighbours = [i for i in (first - 1, first + 1) if 0 <= i < len(areas)]
    if second == "nearest":
        return first, min(neighbours, key=lambda i: distance[i])
    wanted = first - 1 if areas[first] >= SIDE**2 else first + 1
    return first, wanted if wanted in neighbours else neighbours[0]


@pytest.mark.parametrize("second", ["other_side", "nearest"])
def test_the_two_scales_of_a_region(second: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 5):
        sides = torch.rand(200, 1, generator=generator) * 450
        scales = (0.2 + torch.rand(count, generator=generator)).sort().values * 2
        areas = (sides * scales) ** 2
        areas[0] = SIDE**2  # all alike
        first, other = adjacent_scales(areas, second)
        expected = [slow_scales(row, second) for row in areas.tolist()]
        assert list(zip(first.tolist(), other.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("changes", "maxout"),
    [
        (C4, "after_head"),
        (merged(C4, CONTEXT), "after_pooling"),
        (DC5, "after_pooling"),
        (merged(DC5, CONTEXT), "after_head"),
    ],
)
@torch.no_grad()
def test_maxout_one_region_at_a_time(changes: dict, maxout: str) -> None:
    model = tiny_model(changes).eval()
    heads, (head,) = model.roi_heads, model.roi_heads.box_heads
    maps = maps_of(model, SCALES)
    frame = maps[1].sizes
    scales = Scales(maps, frame, torch.arange(2), maxout=maxout)

    def meet(box: Tensor, image: Tensor) -> Tensor:
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        ratios = [(m.sizes[0] / frame[0]).flip(0) for m in maps]
        two = slow_scales([area * float(r[0] * r[1]) for r in ratios], "other_side")
        values = []
        for number in two:
            features, own = maps[number].features, box * ratios[number].repeat(2)
            pooled = features.pool_maps(own[None], image[None], heads.box_pool_size)
            if maxout == "after_head":
                pooled = head.embed(features.finish(pooled))
            values.append(pooled)
        best = torch.maximum(*values)
        return best if maxout == "after_head" else head.embed(maps[0].features.finish(best))

    boxes, images = regions()
    rows = []
    for box, image in zip(boxes, images, strict=True):
        hidden = meet(box, image)
        if heads.context:
            hidden = torch.cat([hidden, meet(torch.tensor([0.0, 0, 100, 80]), image)], dim=1)
        logits, deltas = head.predict(hidden)
        rows.append((logits.softmax(1), head.decode(deltas, box[None])))
    scores, moved = scales.score(boxes, images)
    torch.testing.assert_close(scores, torch.cat([row[0] for row in rows]))
    torch.testing.assert_close(moved, torch.cat([row[1] for row in rows]), rtol=1e-4, atol=1e-3)
    single = Scales(maps[1:2], frame, torch.arange(2)).score(boxes, images)[0]
    assert not torch.allclose(single, scores, atol=1e-6)


@torch.no_grad()
def test_scores_and_deltas_of_members_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of other sizes, pyramids, delta weights, class order, one box for all classes."""
    agnostic = {"roi": {"mask_head": None, "box_head": {"class_agnostic": True},
                        "stages": [{"box_weights": [20, 20, 10, 10]}]}}  # fmt: skip
    members = [tiny_model().eval(), tiny_model(agnostic, seed=1).eval(), tiny_model(DC5).eval()]
    orders = [torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0, 1])]
    for model in members:  # random heads that really move their boxes
        torch.nn.init.normal_(model.roi_heads.box_heads[0].bbox_pred.weight, std=0.5)
    boxes, images = regions()
    maps = [maps_of(model, (scale,))[0] for model, scale in zip(members, (1.0, 0.7, 1.3))]  # noqa: B905
    frame = maps[0].sizes
    together = [Scales([m], frame, o) for m, o in zip(maps, orders, strict=True)]
    scores, moved = score_regions(together, boxes, images)
    assert scores.shape == (12, 3) and moved.shape == (12, 2, 4)
    for row, (box, image) in enumerate(zip(boxes, images, strict=True)):
        probs, deltas = torch.zeros(3), torch.zeros(2, 4)
        for model, own, order in zip(members, maps, orders, strict=True):
            (head,) = model.roi_heads.box_heads
            ratio = (own.sizes[0] / frame[0]).flip(0).repeat(2)
            pooled = own.features.pool((box * ratio)[None], image[None], 7)
            logits, raw = head(pooled)
            normal = raw[0] / torch.tensor(head.box_weights)
            probs += logits.softmax(1)[0, [*order.tolist(), 2]] / 3
            deltas += (normal if len(normal) == 1 else normal[order]) / 3
        torch.testing.assert_close(scores[row], probs)
        expected = decode_boxes(deltas, box, (1.0, 1, 1, 1))
        expected = torch.minimum(expected.clamp(min=0), torch.tensor([100.0, 80, 100, 80]))
        torch.testing.assert_close(moved[row], expected, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr("resdet.inference.region_scores.MAX_REGIONS", 7)
    again = score_regions(together, boxes, images)
    torch.testing.assert_close(again[0], scores)
    empty = score_regions(together, boxes[:0], images[:0])
    assert empty[0].shape == (0, 3) and empty[1].shape[2:] == (4,)


@torch.no_grad()
def test_a_cascade_ends_where_its_stages_lead() -> None:
    cascade = {"roi": {"mask_head": None, "box_head": {"class_agnostic": True},
                       "stages": [{}, {"box_weights": [20, 20, 10, 10]}]}}  # fmt: skip
    model = tiny_model(cascade).eval()
    for head in model.roi_heads.box_heads:
        torch.nn.init.normal_(head.bbox_pred.weight, std=0.1)
    (maps,) = maps_of(model, (1.0,))
    boxes, images = regions()
    member = Scales([maps], maps.sizes, torch.arange(2))
    expected = model.roi_heads.score(maps.features, boxes, images, maps.sizes)
    one, two = score_regions([member], boxes, images), score_regions([member] * 2, boxes, images)
    for scores, moved in (one, two):
        torch.testing.assert_close(scores, expected[0])
        torch.testing.assert_close(moved, expected[1], rtol=1e-4, atol=1e-3)
