"""One update of the weights, from the micro-batches of a step."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resdet import hardware
from resdet.engine import distributed, optim
from resdet.engine.distributed import Processes
from resdet.hardware import profiled

if TYPE_CHECKING:
    from resdet.engine.setup import Training


def update(training: Training, micro_batches: list[Any], step: int) -> dict[str, Tensor]:
    """One optimizer update from the micro-batches of update number `step`, counted from 0.

    Returns the total loss, each named loss and the task's other numbers (means over the
    micro-batches, weighted by their images that could be read) and, where gradients are clipped,
    their norm before that; all on the device.
    """
    t, config = training, training.config
    # Whatever draws random numbers depends on (seed, step, process) alone.
    hardware.seed_all(config.train.seed, step, t.processes.rank)
    sums: dict[str, Tensor] = {}
    of_losses, of_others = divisors([num_readable(b) for b in micro_batches], t.processes)
    count = len(micro_batches)
    for number, batch in enumerate(micro_batches):
        with profiled("to the device"):
            batch = batch.to(t.processes.device)
        with exchange(t.wrapped, is_last=number + 1 == count):
            with profiled("forward"), t.precision.autocast():
                losses, others = t.task.losses(t.wrapped, batch, seed=config.train.seed, step=step)
            loss = torch.stack(list(losses.values())).sum() / of_losses[number]
            with profiled("backward"):
                t.scaler.scale(loss).backward()
        shares = {"loss": loss.detach()}
        shares |= {name: value.detach() / of_losses[number] for name, value in losses.items()}
        shares |= {name: value.detach() / of_others[number] for name, value in others.items()}
        for name, share in shares.items():
            sums[name] = sums[name] + share if name in sums else share
    if config.optim.clip_norm is not None:
        t.scaler.unscale_(t.optimizer)
        sums["grad_norm"] = torch.nn.utils.clip_grad_norm_(
            optim.trained(t.optimizer), config.optim.clip_norm
        )
    with profiled("optimizer"):
        t.scaler.step(t.optimizer)
        t.scaler.update()
        t.optimizer.zero_grad(set_to_none=True)
    if t.ema:
        t.ema.update(step)
    return sums


def num_readable(batch: Any) -> int:
    """Images of a micro-batch that could be read."""
    return len(batch.paths) - len(batch.problems)


def divisors(counts: list[int], processes: Processes) -> tuple[list[float], list[float]]:
    """What the losses, and the other numbers, of each micro-batch are divided by, so that every
    image that could be read weighs the same: `counts` are those of this process.

    Losses are means over all processes already, other numbers those of this process. Where all
    images could be read, everything is divided by the number of micro-batches.
    """
    everywhere = [float(count) for count in counts]
    if len(counts) > 1:
        everywhere = distributed.mean(torch.tensor(everywhere), processes).tolist()
    return _inverse_shares(everywhere), _inverse_shares([float(count) for count in counts])


def _inverse_shares(counts: list[float]) -> list[float]:
    """The sum over each; without anything in any of them, their number."""
    total = sum(counts)
    if not total:
        return [float(len(counts))] * len(counts)
    return [total / count if count else math.inf for count in counts]


def exchange(wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Processes average their gradients once per step, in the backward pass of its last batch."""
    if isinstance(wrapped, DistributedDataParallel) and not is_last:
        return wrapped.no_sync()
    return nullcontext()
