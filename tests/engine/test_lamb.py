"""LAMB, against a plain loop of the paper's algorithm 2."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from resdet.engine.lamb import Lamb

LR, BETAS, DECAY, EPS = 0.01, (0.9, 0.999), 0.05, 1e-6


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


def _groups(model: nn.Module) -> list[dict]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]


def _backward(model: nn.Module, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    model.zero_grad()
    (model(images).square().sum(dim=1).mean() * scale).backward()


def _optimizer(model: nn.Module, **changes) -> Lamb:
    return Lamb(_groups(model), LR, betas=BETAS, eps=EPS, **changes)


def _plain_steps(model: nn.Module, steps: int, *, scale: float, max_grad_norm: float | None):
    """Algorithm 2 one number at a time; weights without decay take Adam's step."""
    params = list(model.parameters())
    m = [torch.zeros_like(p) for p in params]
    v = [torch.zeros_like(p) for p in params]
    for step in range(1, steps + 1):
        _backward(model, step, scale)
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in params))
        shrink = 1.0 if max_grad_norm is None else max(1.0, norm / max_grad_norm)
        for i, p in enumerate(params):
            g = p.grad / shrink
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * g
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * g**2
            m_hat, v_hat = m[i] / (1 - BETAS[0] ** step), v[i] / (1 - BETAS[1] ** step)
            r = m_hat / (v_hat.sqrt() + EPS)
            ratio = 1.0
            if p.ndim > 1:
                r = r + DECAY * p.data
                ratio = float(p.data.norm() / r.norm())
            p.data -= LR * ratio * r


@pytest.mark.parametrize(("scale", "max_grad_norm"), [(1.0, None), (100.0, 1.0), (1e-3, 1.0)])
def test_five_steps_are_those_of_the_paper(scale, max_grad_norm):
    model = _model()
    expected = copy.deepcopy(model)
    _plain_steps(expected, 5, scale=scale, max_grad_norm=max_grad_norm)
    optimizer = _optimizer(model, max_grad_norm=max_grad_norm)
    for step in range(1, 6):
        _backward(model, step, scale)
        optimizer.step()
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        assert found.detach() == pytest.approx(wanted.detach(), rel=1e-9, abs=1e-12)


def test_a_layers_step_does_not_depend_on_the_scale_of_its_gradient():
    steps = []
    for scale in (1.0, 1000.0):
        # without batch norm, in front of which a bias has no gradient but rounding
        model = nn.Sequential(
            *(layer for layer in _model() if not isinstance(layer, nn.BatchNorm1d))
        )
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = Lamb(model.parameters(), LR, betas=BETAS, weight_decay=DECAY, eps=1e-15)
        _backward(model, 1, scale)
        optimizer.step()
        steps.append([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
    for one, two in zip(*steps, strict=True):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-12)
    # the first layer moves by lr × its norm
    norm = _model()[0].weight.detach().norm()
    assert float(steps[0][0].norm()) == pytest.approx(LR * float(norm))


def test_weights_of_zero_start_moving():
    weight = nn.Parameter(torch.zeros(4, 4))
    optimizer = Lamb([weight], LR, betas=BETAS, weight_decay=DECAY)
    weight.grad = torch.ones(4, 4)
    optimizer.step()
    # a trust ratio of 1
    assert weight.detach() == pytest.approx(torch.full((4, 4), -LR), rel=1e-4)


def test_parameters_without_gradient_stay():
    model = _model()
    optimizer = _optimizer(model)
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.step()
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"0.weight"}


def test_a_resumed_run_is_the_same_to_the_last_bit(tmp_path):
    through, stopped = _model(), _model()
    optimizer, first = _optimizer(through), _optimizer(stopped)
    for step in range(6):
        _backward(through, step)
        optimizer.step()
    for step in range(3):
        _backward(stopped, step)
        first.step()
    torch.save({"model": stopped.state_dict(), "optim": first.state_dict()}, tmp_path / "x.pt")
    # plain tensors and numbers only
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    resumed = _model()
    resumed.load_state_dict(state["model"])
    second = _optimizer(resumed)
    second.load_state_dict(state["optim"])
    for step in range(3, 6):
        _backward(resumed, step)
        second.step()
    for name, value in through.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
