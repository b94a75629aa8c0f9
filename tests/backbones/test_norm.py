"""Tests of resdet.backbones.norm: frozen batch norm computes with what its buffers hold now."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones.norm import FrozenBatchNorm2d


@pytest.fixture
def norm() -> FrozenBatchNorm2d:
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(5)
    norm.load_state_dict({key: torch.rand(5) + 0.5 for key in norm.state_dict()})
    return norm


def check(norm: FrozenBatchNorm2d, dtype: torch.dtype = torch.float32) -> None:
    """Twice, so that whatever was kept of the first time would be used."""
    x = torch.randn(2, 5, 3, 3)
    mean, var = norm.running_mean.float(), norm.running_var.float()
    expected = F.batch_norm(x, mean, var, norm.weight.float(), norm.bias.float())
    for _ in range(2):
        found = norm(x.to(dtype))
        assert found.dtype == dtype
        bound = 1e-5 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(found.float(), expected, rtol=bound, atol=bound)


def test_every_way_to_change_it(norm: FrozenBatchNorm2d) -> None:
    check(norm)
    check(norm, torch.bfloat16)
    norm.weight.mul_(2)
    check(norm)
    norm.load_state_dict({key: torch.rand(5) + 0.5 for key in norm.state_dict()})
    check(norm)
    norm.running_var = torch.rand(5) + 0.5
    check(norm)
    norm.to(torch.bfloat16)
    check(norm, torch.bfloat16)
    norm.float()
    check(norm)
    # whose buffers count their changes anew
    other = copy.deepcopy(norm)
    for changed in (other, norm, other):
        changed.load_state_dict({key: torch.rand(5) + 0.5 for key in norm.state_dict()})
        check(changed)
    norm.weight.data.mul_(3)
    check(norm)


def test_it_trains_after_inference_mode(norm: FrozenBatchNorm2d) -> None:
    conv = nn.Conv2d(3, 5, 1)
    x = torch.randn(1, 3, 4, 4)

    def forward() -> Tensor:
        return norm(conv(x)).sum()

    with torch.inference_mode():
        forward()
    forward().backward()
    assert conv.weight.grad is not None and conv.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        made_there = FrozenBatchNorm2d(5)
        check(made_there)
