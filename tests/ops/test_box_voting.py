"""Box voting against its definition, one box and one voter at a time."""

import pytest
import torch

from resdet.ops.box_voting import vote_boxes


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def slow(kept, kept_groups, boxes, scores, groups, thresh):
    out = []
    for own, group in zip(kept, kept_groups, strict=True):
        total, sums = 0.0, [0.0] * 4
        for box, score, other in zip(boxes, scores, groups, strict=True):
            if other == group and iou(own, box) >= thresh:
                total += score
                sums = [s + score * side for s, side in zip(sums, box, strict=True)]
        out.append([s / total for s in sums] if total > 0 else own)
    return out


def case(seed: int, count: int, shift: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30
    size = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20
    # whole pixels: IoUs that are exactly the threshold, and empty boxes
    boxes = torch.cat([corner, corner + size], dim=1).round() + shift
    scores = torch.randint(0, 5, (count,), generator=generator).double() / 4
    return boxes, scores, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("shift", [0.0, 1e7])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_equals_the_definition(count: int, shift: float) -> None:
    for seed in range(20):
        boxes, scores, groups = case(seed, count, shift)
        kept = torch.arange(0, count, 3)
        voted = vote_boxes(boxes[kept], groups[kept], boxes, scores, groups, 0.5)
        rows = (boxes[kept], groups[kept], boxes, scores, groups)
        expected = slow(*(row.tolist() for row in rows), 0.5)
        torch.testing.assert_close(
            voted, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-7
        )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        again = vote_boxes(
            boxes[kept], groups[kept], boxes[order], scores[order], groups[order], 0.5
        )
        torch.testing.assert_close(again, voted, rtol=1e-12, atol=1e-7)


def test_what_stays_as_it_is() -> None:
    box = torch.tensor([[0.1, 0.2, 1234567.0, 9.3]])
    one, none = torch.ones(1), torch.zeros(1)
    group = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(vote_boxes(box, group, box, one, group, 0.5), box)
    assert torch.equal(vote_boxes(box, group, box, none, group, 0.5), box), "no weight"
    assert torch.equal(vote_boxes(box, group, box, one, group + 1, 0.5), box), "another class"
    empty = box[:, [0, 1, 0, 1]]
    assert torch.equal(vote_boxes(empty, group, empty, one, group, 0.5), empty)
    assert vote_boxes(box[:0], group[:0], box, one, group, 0.5).shape == (0, 4)
    assert torch.equal(vote_boxes(box, group, box[:0], one[:0], group[:0], 0.5), box)


def test_many_boxes_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores, groups = case(3, 50)
    whole = vote_boxes(boxes, groups, boxes, scores, groups, 0.3)
    monkeypatch.setattr("resdet.ops.box_voting.MAX_PAIRS", 120)
    assert torch.equal(vote_boxes(boxes, groups, boxes, scores, groups, 0.3), whole)
