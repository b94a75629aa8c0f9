"""Stochastic depth: residual branches are skipped at random in training (Huang et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resdet.errors import UserError


def skip_chance(index: int, count: int, last: float) -> float:
    """The chance, 0..1, that block `index` of `count` (0 … count - 1) skips its branch.

    Linear decay (Huang et al. 2016, eq. 4): block l of L, from 1, is skipped with l / L · `last`,
    so that the last block is skipped with `last`. Raises UserError unless 0 ≤ `last` < 1.
    """
    if not 0 <= last < 1:
        raise UserError(
            f"model.backbone.stochastic_depth: {last} is not in [0, 1); it is the chance that the "
            "last block is skipped in a training step, such as 0.5"
        )
    return (index + 1) / count * last


def drop_branch(branch: Tensor, chance: float, training: bool) -> Tensor:
    """A residual branch (B, …), set to 0 in training with probability `chance` per sample.

    The others are scaled by 1 / (1 - chance), so that evaluation takes the branch unchanged; the
    paper drops the branch for a whole batch and scales it in evaluation instead. The expected
    output is the same. Draws from torch's global generator of the branch's device.
    """
    if not training or chance == 0:
        return branch
    shape = (len(branch),) + (1,) * (branch.ndim - 1)
    kept = torch.rand(shape, device=branch.device) >= chance
    return branch * (kept / (1 - chance)).to(branch.dtype)


def keep_branches(stage: nn.Sequential) -> None:
    """Turn stochastic depth off in a frozen stage, so that its maps are the same at every step."""
    for block in stage:
        block.skip = 0.0  # type: ignore[assignment]
