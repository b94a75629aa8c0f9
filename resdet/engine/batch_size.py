"""`train.batch_size: auto`: the largest batch that fits, and with which updates are fast.

Sizes of 1, 2, 4 … images per process and micro-batch are tried on real batches, by a copy of the
model whose weights do not move: nothing of the run changes.
"""

from __future__ import annotations

import gc
import logging
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from resdet.engine import distributed, optim
from resdet.engine.distributed import Processes
from resdet.engine.estimate import MEMORY_SHARE, MIB, estimate_memory, free_memory
from resdet.engine.precise_bn import ONE_VALUE
from resdet.engine.step import update
from resdet.errors import UserError
from resdet.hardware import memory_mb
from resdet.memory import forget_peak, is_out_of_memory, resident_memory
from resdet.models.losses import without_other_processes

if TYPE_CHECKING:
    from resdet.engine.setup import Training

logger = logging.getLogger("resdet")

SPEED_SHARE = 0.95
"""Of the most images/s that a batch has to reach."""
UPDATES = 3
"""Of each size; the first is not timed."""
MAX_SECONDS = 60.0
"""After these no larger size is tried; the last one may take twice as long."""
GIB = 2**30


@dataclass(frozen=True)
class Trial:
    """What updates of one size took."""

    batch_size: int
    images_per_s: float
    needed: float
    """Bytes of memory on top of the model, in the process that takes most."""


def smallest_batch(processes: Processes, accumulate: int) -> int:
    """The batch size that data and model are made with before another one is known: two images per
    forward pass, for which batch norm has statistics in any network."""
    return 2 * processes.world_size * accumulate


def choose_batch_size(trial: Training, processes: Processes) -> int:
    """The batch size, the same in all `processes` of the run, after a line that says why. `trial`
    is a run with a model of its own, alone in its process.

    UserError where not even the smallest batch fits.
    """
    parts = processes.world_size * trial.config.train.accumulate
    most = max(parts, len(trial.task.train_data))
    free = min(distributed.gather(_free_memory(processes), processes))
    optim.set_lr(trial.optimizer, 0.0)
    trials: list[Trial] = []
    started, size, why = time.monotonic(), parts, ""
    with _unnoticed(trial.processes.device):
        meter = _Meter(trial)
        while not why and size <= most:
            expected = max(distributed.gather(meter.expected(size // parts, trials), processes))
            if expected > MEMORY_SHARE * free:
                why = f"{size} would take {expected / GIB:.2g} GiB"
                break
            result = _try(trial, meter, size, processes)
            if isinstance(result, str):
                why = result
            elif result is not None:
                trials.append(result)
                why = _why_last(trials, MEMORY_SHARE * free)
            is_late = time.monotonic() - started > MAX_SECONDS
            if distributed.any_process(is_late, processes) and not why:
                why = f"larger ones were not tried after {MAX_SECONDS:.0f} s"
            size *= 2
    fitting = [each for each in trials if each.needed <= MEMORY_SHARE * free]
    if not fitting:
        raise UserError(
            f"train.batch_size: auto: not even {parts} image(s) fit into {MEMORY_SHARE:.0%} of the "
            f"{free / GIB:.3g} GiB that are free on {processes.device} ({why}); make images "
            "smaller, or give a number"
        )
    best = max(each.images_per_s for each in fitting)
    chosen = [each for each in fitting if each.images_per_s >= SPEED_SHARE * best][-1]
    speeds = ", ".join(f"{each.batch_size}: {each.images_per_s:.3g}" for each in trials)
    logger.info(
        f"train.batch_size: auto → {chosen.batch_size}; images/s by size: {speeds}; "
        f"{chosen.batch_size} take {chosen.needed / GIB:.2g} of {free / GIB:.3g} GiB free; "
        + (why or f"{size} are more than the training images")
    )
    return chosen.batch_size


def _why_last(trials: list[Trial], limit: float) -> str:
    """Why no larger size is tried after these; empty where one is."""
    last, best = trials[-1], max(each.images_per_s for each in trials)
    if last.needed > limit:
        return f"{last.batch_size} take {last.needed / GIB:.2g} GiB"
    # one alone may be the machine's noise
    if all(each.images_per_s < SPEED_SHARE * best for each in trials[-2:]):
        return f"{last.batch_size} are slower"
    return ""


def _free_memory(processes: Processes) -> float:
    """Bytes that this process can still take of its device."""
    left = free_memory(processes.device)
    if left is None:
        raise UserError(
            "train.batch_size: auto: this system does not report how much memory is free; give a "
            "number"
        )
    return left if processes.device.type == "cuda" else left / processes.local_world_size


class _Meter:
    """Memory in bytes on top of what the process has when it is made."""

    def __init__(self, trial: Training) -> None:
        self.device, self.largest_area = trial.processes.device, trial.task.largest_area()
        parts = estimate_memory(trial, 1)
        self.fixed = MIB * (parts["gradients"] + parts["optimizer"])
        self.per_image = MIB * parts["activations"]
        """What autograd keeps of the largest image; work space comes on top."""
        self.before: int | None = 0
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            self.before = torch.cuda.memory_reserved(self.device)
        else:
            self.before = resident_memory() if forget_peak() else None

    def expected(self, images: int, trials: list[Trial]) -> float:
        """What so many images per forward pass will take, by the estimate and by the last trial,
        of half of them."""
        measured = 2 * max(0.0, trials[-1].needed - self.fixed) if trials else 0.0
        return self.fixed + max(images * self.per_image, measured)

    def start(self) -> None:
        """An update comes."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            forget_peak()

    def taken(self, batches: list[Any]) -> float:
        """What updates since `start` took, as of batches with images as large as they get."""
        grown = 0.0
        if self.device.type == "cuda":
            grown = torch.cuda.max_memory_reserved(self.device) - (self.before or 0)
        elif self.before is not None:
            grown = memory_mb(self.device) * MIB - self.before
        shapes = [(len(batch.paths), batch.shape) for batch in batches]
        area = max(shape[0] * shape[-2] * shape[-1] / count for count, shape in shapes)
        scale = max(1.0, self.largest_area / area)
        least = self.per_image * max(count for count, _ in shapes)
        return self.fixed + max(least, scale * (grown - self.fixed))


def _try(trial: Training, meter: _Meter, size: int, processes: Processes) -> Trial | str | None:
    """Updates of one size in every process; None where batch norm has no statistics for it, and
    why it is too large as text."""
    trial.task.take_batches_of(size)
    with closing(trial.task.load_steps(0, UPDATES, trial.workers)) as loaded:
        steps = list(loaded)
    took, needed, fault = 0.0, 0.0, ""
    try:
        meter.start()
        took = _fastest(trial, steps)
        needed = meter.taken([batch for micro_batches in steps for batch in micro_batches])
    except (MemoryError, RuntimeError, ValueError) as error:
        if str(error).startswith(ONE_VALUE):
            fault = ONE_VALUE
        elif is_out_of_memory(error):
            fault = f"{size} run out of memory"
        else:
            raise
    del steps
    _tidy(trial)
    gathered = distributed.gather((took, needed, fault), processes)
    faults = [each[2] for each in gathered if each[2]]
    if faults:
        return None if faults[0] == ONE_VALUE else faults[0]
    slowest = max(each[0] for each in gathered)
    return Trial(size, size / slowest, max(each[1] for each in gathered))


def _fastest(trial: Training, steps: list[list[Any]]) -> float:
    """Seconds of the fastest update but the first."""
    times = []
    for step, micro_batches in enumerate(steps):
        start = time.perf_counter()
        update(trial, micro_batches, step)
        if trial.processes.device.type == "cuda":
            torch.cuda.synchronize(trial.processes.device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _tidy(trial: Training) -> None:
    """Give back what an update took, whole or not."""
    trial.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if trial.processes.device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _unnoticed(device: torch.device) -> Iterator[None]:
    """Inside, nothing waits for other processes or is compiled; generators and the peak of memory
    are as before after it."""
    states = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices),
            without_other_processes(),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if devices:
            torch.cuda.reset_peak_memory_stats(device)
        else:
            forget_peak()
