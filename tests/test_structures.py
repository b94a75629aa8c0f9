"""Detections are picked by slices, masks, tensors and numbers; extras travel like boxes."""

from __future__ import annotations

import pytest
import torch

from resdet import Detections
from resdet.data.detection.batches import collate
from resdet.data.detection.dataset import Sample
from resdet.structures import Target


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


def test_masks_as_run_lengths():
    found = three()
    found.mask_probs = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    merged = three()
    merged.rles = found.encoded_masks()
    assert found.has_masks and merged.has_masks and not three().has_masks
    assert three().masks is None and three().encoded_masks() is None
    assert torch.equal(merged.masks, found.masks)
    assert merged.to_coco(1) == found.to_coco(1)
    picked = merged[torch.tensor([False, False, True])]
    assert picked.rles == [merged.rles[2]] and torch.equal(picked.masks, found.masks[2:])
    assert merged[1].rles == [merged.rles[1]] and merged[1:].rles == merged.rles[1:]
    assert repr(merged).endswith("8×8; rles)")


def test_a_loop_ends():
    assert [len(each) for each in three()] == [1, 1, 1]
    with pytest.raises(IndexError):
        three()[3]


def test_extras_are_picked_moved_and_written():
    found = three()
    found.extra = {"colour": torch.tensor([3, 1, 2]), "keypoints": torch.arange(18).view(3, 3, 2)}
    picked = found[torch.tensor([2, 0])].cpu()
    assert picked.extra["colour"].tolist() == [2, 3]
    assert picked.extra["keypoints"].shape == (2, 3, 2)
    records = found.to_coco(1)
    assert [record["colour"] for record in records] == [3, 1, 2]
    assert "keypoints" not in records[0], "more than two axes"


def test_repr_is_one_line_of_counts_and_sizes():
    found = three()
    assert repr(found) == "Detections(3: 2 of class 0, 1 of class 1; 8×8)"
    found.class_names = ["cat", "dog"]
    found.mask_probs, found.extra = torch.zeros(3, 28, 28), {"colour": torch.zeros(3)}
    assert repr(found) == "Detections(3: 2 cat, 1 dog; 8×8; mask_probs 28×28, colour)"
    assert repr(found[:0]) == "Detections(0; 8×8; mask_probs 28×28, colour)"


def test_extras_are_padded_like_boxes():
    def sample(count: int) -> Sample:
        boxes, labels = torch.ones(count, 4), torch.ones(count, dtype=torch.int64)
        masks = torch.ones(count, 2, 2, dtype=torch.uint8)
        extra = {"colour": torch.arange(count) + 5, "points": torch.ones(count, 2)}
        target = Target(boxes, labels, masks, count, count, extra)
        return Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), target, (8, 8), "x.png")

    batch = collate([sample(2), sample(0), sample(3)])
    targets = batch.to(torch.device("cpu")).targets
    assert targets.extra["colour"].tolist() == [[5, 6, 0], [0, 0, 0], [5, 6, 7]]
    assert targets.extra["points"].shape == (3, 3, 2) and targets.extra["points"].sum() == 10
    assert targets.valid.sum(1).tolist() == [2, 0, 3]
    assert targets.mask_rows[targets.valid].tolist() == [0, 1, 2, 3, 4]
    assert collate([sample(0)]).targets.extra["colour"].shape == (1, 1)
