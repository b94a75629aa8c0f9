"""Activation checkpointing: blocks are computed again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
