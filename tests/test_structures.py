"""Detections are picked by slices, masks, tensors and numbers."""

from __future__ import annotations

import pytest
import torch

from resdet import Detections


def three() -> Detections:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6]])
    return Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), (8, 8))


@pytest.mark.parametrize(
    ("keep", "rows"),
    [
        (slice(1, None), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, 0]), [2, 0]),
        (1, [1]),
        (-1, [2]),
    ],
)
def test_picking(keep, rows):
    picked = three()[keep]
    assert torch.equal(picked.boxes, three().boxes[rows])
    assert torch.equal(picked.scores, three().scores[rows])
    assert len(picked) == len(picked.to_coco(1)) == len(rows)


def test_a_loop_ends():
    assert [len(each) for each in three()] == [1, 1, 1]
    with pytest.raises(IndexError):
        three()[3]
