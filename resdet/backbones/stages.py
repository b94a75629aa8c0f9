"""What networks of several stages share: their loop, freezing, and initial weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from torch import Tensor, nn

from resdet.backbones.norm import freeze, freeze_children
from resdet.backbones.recompute import run_block
from resdet.backbones.stochastic_depth import keep_branches

Module = TypeVar("Module", bound=nn.Module)


def run_stages(
    names: Iterable[str], stages: Iterable[nn.Sequential], x: Tensor, recompute: bool
) -> dict[str, Tensor]:
    """The output of each stage by name, fewer than the names where the last stage is missing.

    With `recompute` blocks are computed again in the backward pass, see `run_block`.
    """
    features = {}
    for name, stage in zip(names, stages, strict=False):
        for block in stage:
            x = run_block(block, x, recompute)
        features[name] = x
    return features


def freeze_first(
    network: nn.Module,
    freeze_at: int,
    *,
    stem: Iterable[str],
    stages: Sequence[nn.Sequential],
    last: Iterable[str] = (),
) -> None:
    """Freeze the first parts of a network, their batch norms included: the children `stem`
    (`freeze_at` ≥ 1), each of the S `stages` (≥ 2 … S + 1), and `last` with the last stage."""
    if freeze_at >= 1:
        freeze_children(network, stem)
    for stage in stages[: max(0, freeze_at - 1)]:
        freeze(stage)
        keep_branches(stage)
    if freeze_at > len(stages):
        freeze_children(network, last)


def init_convolutions(module: Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> Module:
    """He normal (He et al. 2015) for all convolutions inside, biases 0; returns the module."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode=mode, nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    return module


def zero_scale(norm: nn.Module) -> None:
    """Start a block's last norm at 0, so that the block starts as its shortcut (Goyal et al. 2017,
    5.1). Frozen norms stay as they are: they could never learn another scale."""
    if isinstance(norm.weight, nn.Parameter):
        nn.init.zeros_(norm.weight)
