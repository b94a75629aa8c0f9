"""One box per class out of many: the best, or a vote."""

from __future__ import annotations

import torch

from resdet.ops.boxes import pairwise_iou
from resdet.ops.localization import best_boxes, best_proposals


def random_boxes(classes: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(classes, count, 2, generator=generator) * 40
    side = torch.rand(classes, count, 2, generator=generator) * 20 + 30
    return torch.rand(classes, count, generator=generator), torch.cat([corner, corner + side], -1)


def test_the_best_box_and_its_score():
    scores, boxes = random_boxes(3, 50)
    best, chosen = best_boxes(scores, boxes, vote_iou=0.7, vote_boxes=50)
    for row in range(3):
        place = int(scores[row].argmax())
        assert best[row] == scores[row, place]
        assert torch.equal(chosen[row], boxes[row, place])


def test_a_vote_is_the_weighted_mean_of_a_plain_loop():
    scores, boxes = random_boxes(3, 200)
    best, chosen = best_boxes(scores, boxes, merge="vote", vote_iou=0.6, vote_boxes=40)
    for row in range(3):
        order = sorted(range(200), key=lambda place: -float(scores[row, place]))[:40]
        total, weight = torch.zeros(4, dtype=torch.float64), 0.0
        voters = 0
        for place in order:
            if float(pairwise_iou(boxes[row, order[:1]], boxes[row, [place]])) >= 0.6:
                total += float(scores[row, place]) * boxes[row, place].double()
                weight += float(scores[row, place])
                voters += 1
        assert 1 < voters < 40
        assert best[row] == scores[row, order[0]]
        torch.testing.assert_close(chosen[row].double(), total / weight, rtol=1e-5, atol=1e-5)


def test_empty_and_infinite_boxes_are_never_taken():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.9, 0.9, 0.9, torch.nan]])
    good = torch.tensor([1.0, 1.0, 5.0, 5.0])
    empty, infinite = torch.tensor([3.0, 3.0, 3.0, 9.0]), torch.tensor([0, 0, torch.inf, 9.0])
    boxes = torch.stack(
        [
            torch.stack([empty, infinite, good, good + 1]),
            torch.stack([empty, empty, infinite, good]),
        ]
    )
    for merge in ("best", "vote"):
        best, chosen = best_boxes(scores, boxes, merge=merge, vote_iou=0.9, vote_boxes=4)
        assert torch.equal(chosen[0], good)
        assert best.tolist()[0] == scores[0, 2]
        assert best[1] == -1
    kept, _ = best_proposals(scores[1], boxes[1], 10, 0.7)
    assert len(kept) == 0


def test_proposals_are_sorted_and_do_not_overlap():
    scores, boxes = random_boxes(1, 500)
    kept, chosen = best_proposals(scores[0], boxes[0], 12, 0.5)
    assert len(kept) == 12
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)
    assert kept[0] == scores.max()
    overlaps = pairwise_iou(chosen, chosen) - torch.eye(12)
    assert overlaps.max() <= 0.5
    every, _ = best_proposals(scores[0], boxes[0], 400, 1.0)
    assert torch.equal(every, scores[0].sort(descending=True).values[:400])
