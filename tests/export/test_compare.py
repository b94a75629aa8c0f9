"""How the detections of two models for one image are compared."""

from __future__ import annotations

import math

import pytest
import torch

from resdet.export.compare import Differences, compare, compare_classes, match
from resdet.structures import Classification, Detections

BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 9, 10]])


def make(scores: list[float], boxes: torch.Tensor = BOXES, **more: object) -> Detections:
    count = len(scores)
    labels = torch.tensor([0, 1, 1])[:count]
    return Detections(boxes[:count], torch.tensor(scores), labels, image_size=(50, 60), **more)  # type: ignore[arg-type]


def test_the_closest_of_one_class_are_the_same() -> None:
    swapped = make([0.9, 0.8, 0.7])[torch.tensor([2, 0, 1])]
    assert match(make([0.9, 0.8, 0.7]), swapped).tolist() == [[0, 1], [1, 2], [2, 0]]
    assert match(make([]), swapped).tolist() == []


def test_largest_differences() -> None:
    masks = torch.zeros(3, 28, 28)
    moved = BOXES + torch.tensor([0.0, 0, 0.25, 0])
    result = compare(
        make([0.9, 0.8, 0.7], mask_probs=masks),
        make([0.9, 0.81, 0.7], moved, mask_probs=masks + 0.125),
        thresh=0.05,
        limit=100,
        scale=2.0,
    )
    assert (result.matched, result.unmatched) == (3, 0)
    assert (result.box, result.mask) == (0.5, 0.125)
    assert result.score == pytest.approx(0.01)
    worse = Differences(1, 2, 0.1, 0.5, None, 0.9)
    result.add(worse)
    assert result == Differences(4, 2, 0.5, 0.5, 0.125, 0.9)


@pytest.mark.parametrize(
    ("score", "limit", "unmatched"),
    [
        (0.4, 100, 1),
        (0.0509, 100, 0),  # as good as the threshold
        (0.4, 3, 0),  # the last that is kept
        (0.4, 4, 1),
    ],
)
def test_rounding_decides_at_the_threshold_and_at_the_limit(
    score: float, limit: int, unmatched: int
) -> None:
    both = make([0.9, 0.8]), make([0.9, 0.8, score])
    for reference, other in (both, both[::-1]):
        result = compare(reference, other, thresh=0.05, limit=limit)
        assert (result.matched, result.unmatched) == (2, unmatched)


def test_pasted_masks_are_compared_by_their_overlap() -> None:
    probs = torch.ones(1, 28, 28)
    mine = make([0.9], mask_probs=probs)
    pasted = make([0.9], mask_probs=probs)
    pasted = make([0.9], rles=pasted.encoded_masks())
    assert compare(mine, pasted, thresh=0.05, limit=9).mask_iou == 1.0
    half = make([0.9], torch.tensor([[0.0, 0, 10, 5]]), mask_probs=probs)
    half = make([0.9], rles=half.encoded_masks())
    assert compare(mine, half, thresh=0.05, limit=9).mask_iou == pytest.approx(0.5, abs=0.05)


def test_probabilities_of_classes() -> None:
    labels, names = torch.tensor([1, 0]), ["a", "b"]
    first = Classification(labels, torch.tensor([0.6, 0.4]), torch.tensor([0.4, 0.6]), names)
    other = Classification(labels, torch.tensor([0.7, 0.3]), torch.tensor([0.3, 0.7]), names)
    result = compare_classes(first, other)
    assert result.matched == 1 and result.score == pytest.approx(0.1)


def test_what_is_not_a_number_is_apart() -> None:
    result = compare(make([0.9, 0.8]), make([0.9, float("nan")]), thresh=0.05, limit=9)
    total = Differences()
    total.add(result)
    assert total.matched == 2 and total.score == math.inf
