"""Stochastic depth: residual branches left out at random in training (Huang et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resdet.errors import UserError


def skip_chance(index: int, count: int, last: float) -> float:
    """The chance that block `index` of `count` (0 … count - 1) loses its branch.

    Linear decay (Huang et al. 2016, eq. 4): block l of L, from 1, is skipped with l / L · `last`,
    so that the last block is skipped with `last`. UserError unless 0 ≤ `last` < 1.
    """
    if not 0 <= last < 1:
        raise UserError(
            f"model.backbone.stochastic_depth: {last} is not in [0, 1); it is the chance that the "
            "last block is skipped in a training step, such as 0.5"
        )
    return (index + 1) / count * last


def drop_branch(branch: Tensor, chance: float, training: bool) -> Tensor:
    """A residual branch (B, …), in training 0 with probability `chance` for each sample.

    What is kept is scaled by 1 / (1 - chance), so that evaluation takes the branch as it is; the
    paper drops the branch for a whole batch and scales it in evaluation instead. Both have the
    same expected output. Draws from torch's global generator of the branch's device.
    """
    if not training or chance == 0:
        return branch
    shape = (len(branch),) + (1,) * (branch.ndim - 1)
    kept = torch.rand(shape, device=branch.device) >= chance
    return branch * (kept / (1 - chance)).to(branch.dtype)


def keep_branches(stage: nn.Sequential) -> None:
    """End stochastic depth in a stage that is frozen: what does not learn gives the same maps."""
    for block in stage:
        block.skip = 0.0  # type: ignore[assignment]
