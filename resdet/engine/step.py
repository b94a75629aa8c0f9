"""One update of the weights, from the micro-batches of a step."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resdet import hardware
from resdet.engine import optim
from resdet.engine.setup import Training
from resdet.hardware import profiled


def update(training: Training, micro_batches: list[Any], step: int) -> dict[str, Tensor]:
    """One optimizer update from the micro-batches of update number `step`, counted from 0.

    Returns the total loss, each named loss and the task's other numbers (means over the
    micro-batches) and, where gradients are clipped, their norm before that; all on the device.
    """
    t, config = training, training.config
    # Whatever draws random numbers depends on (seed, step, process) alone.
    hardware.seed_all(config.train.seed, step, t.processes.rank)
    sums: dict[str, Tensor] = {}
    count = len(micro_batches)
    for number, batch in enumerate(micro_batches, start=1):
        with profiled("to the device"):
            batch = batch.to(t.processes.device)
        with exchange(t.wrapped, is_last=number == count):
            with profiled("forward"), t.precision.autocast():
                losses, others = t.task.losses(t.wrapped, batch, seed=config.train.seed, step=step)
            loss = torch.stack(list(losses.values())).sum() / count
            with profiled("backward"):
                t.scaler.scale(loss).backward()
        for name, value in {"loss": loss * count, **losses, **others}.items():
            share = value.detach() / count
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


def exchange(wrapped: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Processes average their gradients once per step, in the backward pass of its last batch."""
    if isinstance(wrapped, DistributedDataParallel) and not is_last:
        return wrapped.no_sync()
    return nullcontext()
