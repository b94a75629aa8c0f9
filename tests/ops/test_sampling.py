import torch

from resdet.ops import sampler
from resdet.ops.boxes import cell_anchors, grid_anchors
from resdet.ops.sampler import match_boxes, random_order, sample_slots
from tests.ops.test_boxes import random_boxes


def test_cell_anchors_have_their_area_and_ratio() -> None:
    cell = cell_anchors([32, 64], [0.5, 1, 2])
    size = cell[:, 2:] - cell[:, :2]
    torch.testing.assert_close(size.prod(dim=1), torch.tensor([32.0**2] * 3 + [64.0**2] * 3))
    torch.testing.assert_close(size[:, 1] / size[:, 0], torch.tensor([0.5, 1, 2] * 2))
    torch.testing.assert_close(
        cell[0], torch.tensor([-22.627417, -11.313708, 22.627417, 11.313708])
    )


def test_grid_anchors_go_by_row_then_column_then_anchor() -> None:
    cell = cell_anchors([16], [1, 4])
    anchors = grid_anchors(cell, (2, 3), 8)
    assert anchors.shape == (12, 4)
    assert anchors[0].tolist() == [-8, -8, 8, 8]
    assert (anchors[2] - anchors[0]).tolist() == [8, 0, 8, 0]
    assert (anchors[6] - anchors[0]).tolist() == [0, 8, 0, 8]


def match(gt: torch.Tensor, valid: torch.Tensor, boxes: torch.Tensor, best: bool = True):
    return match_boxes(
        gt, valid, boxes, background_iou=0.3, foreground_iou=0.7, best_of_each_object=best
    )


def test_match_labels_by_threshold_and_by_best() -> None:
    gt = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, True, False]])
    boxes = torch.tensor(
        [[0.0, 0, 10, 9], [0, 0, 10, 5], [52, 50, 62, 56], [52, 50, 62, 56], [80, 80, 90, 90]]
    )
    matches, labels = match(gt, valid, boxes)
    # .9 is positive, .5 between, two tied best of the second object are positive, the rest negative
    assert labels.tolist() == [[1, -1, 1, 1, 0]]
    assert matches[0, :4].tolist() == [0, 0, 1, 1]
    assert match(gt, valid, boxes, best=False)[1].tolist() == [[1, -1, -1, -1, 0]]


def test_an_image_without_objects_is_all_background() -> None:
    labels = match(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), random_boxes(20))[1]
    assert (labels == 0).all()


def test_matching_in_parts_is_the_same(monkeypatch) -> None:
    gt, valid = random_boxes(5, 6), torch.rand(5, 6) > 0.3
    whole = match(gt, valid, random_boxes(300, seed=4))
    monkeypatch.setattr(sampler, "MAX_IOU_ELEMENTS", 2000)
    parts = match(gt, valid, random_boxes(300, seed=4))
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def order(keys: list[int], count: int, **values: int) -> torch.Tensor:
    return random_order(torch.tensor(keys), count, **{"seed": 0, "step": 0, "stream": 0, **values})


def test_random_order_depends_on_its_keys_alone() -> None:
    together, alone = order([3, 8, 11], 1000), order([8], 1000)
    assert torch.equal(together[1], alone[0])
    for other in (order([8], 1000, step=1), order([8], 1000, seed=1), order([8], 1000, stream=1)):
        assert not torch.equal(other, alone)
    assert len(alone.unique()) == 1000
    # Fixed numbers: a change of the hash changes every published run.
    assert alone[0, :3].tolist() == PINNED


PINNED = [65215035886010368, 3630188399165441, 38270866869452802]


def test_random_order_is_uniform_over_positions_and_steps() -> None:
    first = torch.stack([order([5], 50, step=step)[0].argmax() for step in range(4000)])
    counts = first.bincount(minlength=50).double()
    # Chi-squared with 49 degrees of freedom: mean 49, deviation 9.9.
    assert ((counts - 80) ** 2 / 80).sum() < 49 + 5 * 9.9


def test_samples_are_positives_first_then_negatives_then_empty() -> None:
    labels = torch.full((3, 60), -1, dtype=torch.int8)
    labels[0, :20], labels[0, 20:] = 1, 0  # more positives than may be taken
    labels[1, :3], labels[1, 3:8] = 1, 0  # too few of both
    labels[2, 30:] = 0  # no positive
    positions, positive, valid = sample_slots(
        labels, order([0, 1, 2], 60), num_samples=16, positive_fraction=0.25
    )
    assert positive.sum(1).tolist() == [4, 3, 0]
    assert valid.sum(1).tolist() == [16, 8, 16]
    assert positive[:, :3].tolist() == [[True] * 3, [True] * 3, [False] * 3]
    picked = labels.gather(1, positions)
    assert (picked[positive] == 1).all() and (picked[valid & ~positive] == 0).all()
    for row, ok in zip(positions, valid, strict=True):
        assert len(row[ok].unique()) == ok.sum()


def test_every_positive_is_equally_likely() -> None:
    labels = torch.zeros((1, 40), dtype=torch.int8)
    labels[0, :10] = 1
    counts = torch.zeros(40)
    for step in range(2000):
        positions, _, _ = sample_slots(
            labels, order([7], 40, step=step), num_samples=8, positive_fraction=0.5
        )
        counts[positions[0]] += 1
    assert (counts[:10] - 800).abs().max() < 5 * 22
    assert (counts[10:] - 267).abs().max() < 5 * 16
