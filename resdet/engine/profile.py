"""Where the time of a training step goes, by torch's profiler.

The loop and the models mark what they do with `profiled`; `train.profile=true` profiles a few steps
and writes a table of the marked parts and a trace for chrome://tracing or ui.perfetto.dev.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from resdet.engine.log import optional
from resdet.files.writing import make_folder, write_text
from resdet.hardware import PROFILE_PREFIX, profiled
from resdet.viz.tables import plain_table

logger = logging.getLogger("resdet")

SKIPPED, PROFILED = 10, 3
"""Steps that pass before, such as those that compile and choose kernels, and steps profiled."""
SYNCS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize")
"""Calls in which the host waits for the GPU."""


def data_waits_profiled(steps: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """The same steps, with the wait for each of them profiled."""
    source = iter(steps)
    while True:
        with profiled("data wait"):
            micro_batches = next(source, None)
        if micro_batches is None:
            return
        yield micro_batches


class StepProfile:
    """Profiles steps of a run and writes what it saw, once; without `wanted` it does nothing."""

    def __init__(self, folder: Path, device: torch.device, *, wanted: bool) -> None:
        """Into `folder`: steps.txt and trace.json.gz."""
        self.folder, self.device = folder, device
        self._profiler: torch.profiler.profile | None = None
        self._left = SKIPPED + PROFILED if wanted else 0

    def after_step(self) -> None:
        """To be called when a step is done, before the next batch is fetched."""
        if self._left == 0:
            return
        self._left -= 1
        if self._left == PROFILED:
            activities = [ProfilerActivity.CPU]
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
                activities.append(ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif self._left == 0:
            self.close()

    def close(self) -> None:
        """Write what was profiled so far; a run that ends sooner has fewer steps in it."""
        if self._profiler is None:
            return
        steps = PROFILED - self._left
        profiler, self._profiler, self._left = self._profiler, None, 0
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        profiler.stop()
        if steps == 0:
            return
        with optional("the profile"):
            make_folder(self.folder, "--run-dir")
            profiler.export_chrome_trace(str(self.folder / "trace.json.gz"))
        table = profile_table(profiler, steps, self.device)
        with optional("the profile"):
            write_text(self.folder / "steps.txt", table + "\n")
        for line in (f"profile of {steps} steps, in {self.folder}:", *table.splitlines()):
            logger.info(line)


def profile_table(profiler: torch.profiler.profile, steps: int, device: torch.device) -> str:
    """Milliseconds per step of each named part on host and GPU, and the host's waits."""
    on_gpu = device.type == "cuda"
    rows: dict[str, tuple[float, float]] = {}
    syncs = 0
    for event in profiler.key_averages():
        if event.key in SYNCS:
            syncs += event.count
        # the GPU's own copies of these ranges have no time on the host
        if event.key.startswith(PROFILE_PREFIX) and event.cpu_time_total > 0:
            name = event.key.removeprefix(PROFILE_PREFIX)
            host, gpu = event.cpu_time_total / 1e3, event.device_time_total / 1e3
            rows[name] = (host / steps, gpu / steps)
    lines = plain_table(
        ["part", "host ms", *(["GPU ms"] if on_gpu else [])],
        [
            [name, f"{host:.2f}", *([f"{gpu:.2f}"] if on_gpu else [])]
            for name, (host, gpu) in sorted(rows.items(), key=lambda row: -row[1][0])
        ],
    )
    lines.append("(forward includes its parts)")
    if on_gpu:
        lines.append(f"the host waited for the GPU {syncs / steps:g} times per step")
    return "\n".join(lines)
