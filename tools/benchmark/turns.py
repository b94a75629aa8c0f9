"""Alternating contenders: each in its own process, one running at a time.

A process of its own gives each contender its own peak memory, threads and settings, and keeps what
one does to torch (compilation, flags, caches) from the others. They alternate, so that whatever
else the machine does falls on all of them alike.
"""

from __future__ import annotations

import gc
import importlib
import logging
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing

from resdet import hardware

logger = logging.getLogger("resdet")

Step = Callable[[], Any]
"""One piece of the work that is timed."""
START_S = 1800.0
"""Longest start of a contender: building, compiling and its warm-up."""


@dataclass(frozen=True)
class Contender:
    """A way to do the work: a function that builds it, called in the contender's own process."""

    name: str
    make: str
    """package.module:function; it returns a `Step`, or (Step, note for the table)."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """For that function; what can be sent to another process."""


@dataclass
class Timing:
    """What one contender took; all `None` but the error where it failed."""

    name: str
    note: str
    seconds: float | None = None
    """Median over the turns of the mean time of a step."""
    fastest_s: float | None = None
    slowest_s: float | None = None
    """The same of the fastest and the slowest turn."""
    peak_mb: float | None = None
    """Peak memory in MiB: allocated on the GPU, or resident of the process, libraries included."""
    error: str | None = None


def take_turns(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    steps: int,
    warmup: int,
    device: str,
    threads: int | None = None,
) -> list[Timing]:
    """Time `rounds` turns of `steps` steps of each contender, after `warmup` steps at its start.

    A contender that fails is reported, and the others continue. `threads` are torch's for each;
    None is torch's own choice.
    """
    running = [_Process(each, device, threads) for each in contenders]
    try:
        for each in running:
            each.start(warmup)
        for number in range(rounds):
            for each in running:
                each.take(steps)
            said = ", ".join(f"{r.name} {r.turns[-1]:.4f} s" for r in running if r.turns)
            logger.info(f"round {number + 1} of {rounds}: {said}")
        return [each.end() for each in running]
    finally:
        for each in running:
            each.kill()


class _Process:
    """The parent's side of a contender."""

    def __init__(self, contender: Contender, device: str, threads: int | None) -> None:
        self.name = contender.name
        self.turns: list[float] = []
        self.note, self.error = "", ""
        context = torch.multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, contender, device, threads), daemon=False
        )
        self._process.start()
        theirs.close()

    def _ask(self, *request: Any) -> Any:
        """The answer, or None where the contender has failed, now or before."""
        if self.error:
            return None
        try:
            self._pipe.send(request)
            if not self._pipe.poll(START_S):
                raise EOFError
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1)
            kind, value = "error", f"its process ended (exit code {self._process.exitcode})"
        if kind == "error":
            self.error = str(value)
            logger.warning(f"{self.name}: {self.error}")
            return None
        return value

    def start(self, warmup: int) -> None:
        logger.info(f"warm-up: {self.name}")
        self.note = self._ask("start", warmup) or ""

    def take(self, steps: int) -> None:
        seconds = self._ask("take", steps)
        if seconds is not None:
            self.turns.append(seconds)

    def end(self) -> Timing:
        peak = self._ask("end")
        if self.error or not self.turns:
            return Timing(self.name, self.note, error=self.error or "no turn was taken")
        return Timing(
            self.name,
            self.note,
            statistics.median(self.turns),
            min(self.turns),
            max(self.turns),
            peak,
        )

    def kill(self) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Connection, contender: Contender, device: str, threads: int | None) -> None:
    """The contender's side: builds the work, then takes turns until it is asked to end."""
    if threads is not None:
        torch.set_num_threads(threads)
    place = torch.device(device)
    step: Step | None = None
    while True:
        try:
            request, *values = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            answer: Any
            if request == "start":
                step, answer = _build(contender)
                time_steps(step, values[0], place)
                tidy(place)
            elif request == "take":
                assert step is not None
                # what the last turn gave back to the machine is fetched again outside the clock
                if place.type == "cuda":
                    time_steps(step, 1, place)
                answer = time_steps(step, values[0], place)
                tidy(place)
            else:
                answer = hardware.memory_mb(place)
            pipe.send(("ok", answer))
        except Exception as error:
            logger.debug(traceback.format_exc())
            pipe.send(("error", f"{type(error).__name__}: {error}"))


def _build(contender: Contender) -> tuple[Step, str]:
    module, function = contender.make.split(":")
    made = getattr(importlib.import_module(module), function)(**contender.arguments)
    return made if isinstance(made, tuple) else (made, "")


def time_steps(step: Step, count: int, device: torch.device) -> float:
    """Mean seconds of `count` steps, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / max(1, count)


def tidy(device: torch.device) -> None:
    """Leave the device's memory to the next contender."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
