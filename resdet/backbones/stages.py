"""What networks of several stages share: their loop, activation checkpointing (Chen et al. 2016),
freezing, and initial weights."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resdet.backbones.norm import freeze, freeze_children
from resdet.backbones.residual import keep_branches

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


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), computed again in the backward pass instead of stored.

    Random draws inside the block, such as stochastic depth's, are the same both times: the state
    of the generators is restored. Batch norms count the batch once.
    """
    contexts = partial(_forward_and_again, block)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def run_block(block: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """block(x), by `recomputed` where `recompute` is set and a backward pass will follow."""
    if recompute and block.training and torch.is_grad_enabled():
        return recomputed(block, x)
    return block(x)


def _forward_and_again(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _fixed_statistics(block)


@contextmanager
def _fixed_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms use the batch but do not add it to their running statistics a second time."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, _count(norm).clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            _count(norm).copy_(count)


def _count(norm: nn.Module) -> Tensor:
    return norm.get_buffer("num_batches_tracked")
