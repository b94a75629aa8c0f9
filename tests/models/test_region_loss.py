"""The loss of the box head's classes: weights and focal loss against loops, over processes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from resdet.models import losses
from resdet.models.losses import class_weights, region_loss


def by_hand(logits, labels, valid, gamma, weights) -> float:
    """Region by region."""
    total = count = 0.0
    for row, label, use in zip(logits.tolist(), labels.tolist(), valid.tolist(), strict=True):
        if not use:
            continue
        p = math.exp(row[label]) / sum(math.exp(value) for value in row)
        weight = 1.0 if weights is None else weights[label]
        total += weight * (1 - p) ** gamma * -math.log(p)
        count += weight
    return total / count


def regions(count: int = 40):
    torch.manual_seed(3)
    logits = (3 * torch.randn(count, 5, dtype=torch.float64)).requires_grad_()
    return logits, torch.randint(0, 5, (count,)), torch.rand(count) < 0.8


WEIGHTS = [0.5, 3.0, 1.0, 7.0, 0.25]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_loss_is_that_of_a_loop(gamma, weights):
    logits, labels, valid = regions()
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = region_loss(logits, labels, valid, focal_gamma=gamma, weights=tensor)
    assert loss.item() == pytest.approx(by_hand(logits, labels, valid, gamma, weights), rel=1e-12)
    torch.autograd.gradcheck(
        lambda x: region_loss(x, labels, valid, focal_gamma=gamma, weights=tensor), (logits,)
    )


def test_weighted_cross_entropy_is_pytorchs():
    logits, labels, valid = regions()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    loss = region_loss(logits, labels, valid, focal_gamma=0.0, weights=weights)
    expected = F.cross_entropy(logits[valid], labels[valid], weight=weights)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_denominators_are_those_of_all_processes(gamma, monkeypatch):
    """The mean of the gradients of two processes is the gradient of one with all regions."""
    logits, labels, valid = regions()
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)

    def loss(rows):
        return region_loss(
            logits[rows], labels[rows], valid[rows], focal_gamma=gamma, weights=weights
        )

    [whole] = torch.autograd.grad(loss(slice(None)), logits)
    total = weights[labels][valid].sum()
    monkeypatch.setattr(losses.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(losses.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(losses.dist, "all_reduce", lambda count: count.copy_(total))
    parts = [torch.autograd.grad(loss(rows), logits)[0] for rows in (slice(7), slice(7, None))]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_extremes_are_finite():
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0], [0.0, 0.0]], requires_grad=True)
    for gamma in (0.5, 2.0):
        loss = region_loss(
            logits,
            torch.tensor([0, 0, 1]),
            torch.tensor([True, True, False]),
            focal_gamma=gamma,
            weights=torch.tensor([2.0, 1.0]),
        )
        assert loss.item() == pytest.approx(60, rel=1e-5)  # 120 of one of two regions
        [gradient] = torch.autograd.grad(loss, logits)
        assert bool(gradient.isfinite().all())
        assert gradient[2].abs().sum() == 0
    none = region_loss(
        logits,
        torch.tensor([0, 0, 1]),
        torch.zeros(3, dtype=torch.bool),
        focal_gamma=2.0,
        weights=torch.tensor([2.0, 1.0]),
    )
    assert none.item() == 0


def test_rules_give_the_same_weight_in_all():
    counts = [1, 10, 0, 1000]
    inverse = class_weights(counts, power=1.0)
    assert [n * w for n, w in zip(counts, inverse, strict=True)] == pytest.approx(
        [337, 337, 0, 337]
    )
    root = class_weights(counts, power=0.5)
    assert root[2] == inverse[2] == 1
    for weights in (inverse, root):
        total = sum(n * w for n, w in zip(counts, weights, strict=True))
        assert total == pytest.approx(sum(counts))
    assert root[0] / root[1] == pytest.approx(10**0.5)
    assert class_weights([0, 0], power=1.0) == [1, 1]


@pytest.mark.parametrize(("weights", "share"), [(None, 0.05), ([19.0, 1.0], 0.5)])
def test_a_rare_class_gets_the_score_of_its_weight(weights, share):
    """Where nothing tells regions apart, the best score is the class's share of the weights."""
    bias = torch.zeros(2, requires_grad=True)
    labels, valid = (torch.arange(100) >= 5).long(), torch.ones(100, dtype=torch.bool)
    tensor = None if weights is None else torch.tensor(weights)
    optimizer = torch.optim.SGD([bias], lr=2.0)
    for _ in range(200):
        optimizer.zero_grad()
        logits = bias.expand(100, 2)
        region_loss(logits, labels, valid, focal_gamma=0.0, weights=tensor).backward()
        optimizer.step()
    assert bias.softmax(0)[0].item() == pytest.approx(share, abs=0.01)


def test_easy_regions_count_for_less_in_a_focal_loss():
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.5]], requires_grad=True)
    labels, valid = torch.tensor([0, 0]), torch.ones(2, dtype=torch.bool)
    shares = []
    for gamma in (0.0, 2.0):
        loss = region_loss(logits, labels, valid, focal_gamma=gamma, weights=None)
        norms = torch.autograd.grad(loss, logits)[0].norm(dim=1)
        shares.append((norms[0] / norms.sum()).item())
    assert shares[0] > 0.02 and shares[1] < shares[0] / 50
