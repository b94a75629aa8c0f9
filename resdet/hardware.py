"""What the machine decides: device, precision, compilation, threads, determinism, seeds."""

import functools
import os
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import record_function
from torch.utils import deterministic

from resdet.errors import UserError


@dataclass(frozen=True)
class Precision:
    """The number format a run computes in."""

    name: str
    """fp32, bf16, fp16 or fp64; int8 of an exported model."""
    device_type: str
    """cuda or cpu, for autocast; export for an exported model, which torch does not compute."""
    reason: str
    """Why, for the log."""

    @property
    def parameters(self) -> torch.dtype:
        """Of weights and optimizer: float32, or float64 for parity checks."""
        return torch.float64 if self.name == "fp64" else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """The context of a forward pass; a new one each time."""
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.name not in dtypes or self.device_type == "export":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=dtypes[self.name])


PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""What users may ask for; fp64 is for parity checks."""


def choose_precision(
    wanted: str,
    device: torch.device,
    *,
    is_imported: bool = False,
    key: str = "train.precision",
) -> Precision:
    """The precision to compute in on this device: the only place that decides it.

    `wanted` is auto, fp32, bf16, fp16 or fp64. auto is bf16 where the processor computes in it, and
    fp32 for weights that were imported from another toolkit, whose published numbers are fp32's.
    `key` is the option or config key that errors name. Raises UserError for an unknown name, and
    for fp16 without a GPU.
    """
    kind = device.type
    if wanted not in (*PRECISIONS, "fp64"):
        raise UserError(f"{key}: no precision {wanted!r}; use {', '.join(PRECISIONS)}")
    if wanted == "fp16" and kind != "cuda":
        raise UserError(
            f"{key}: fp16 needs a GPU, and the device is {device}; use bf16, fp32 or auto"
        )
    if wanted != "auto":
        return Precision(wanted, kind, "as configured")
    if is_imported:
        return Precision("fp32", kind, "the weights are imported, and their numbers are fp32's")
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", kind, "the GPU computes in bf16")
        return Precision("fp32", kind, "the GPU has no bf16 units")
    if kind == "cpu" and cpu_has_bf16():
        return Precision("bf16", kind, "the processor has AVX512_BF16 or AMX")
    return Precision("fp32", kind, "the processor has neither AVX512_BF16 nor AMX")


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; emulation would be slower than fp32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_compile(
    wanted: bool | str, device: torch.device, *, recomputes: bool = False
) -> tuple[bool, str]:
    """Whether to torch.compile the model's part of fixed shapes, and the reason for the log.

    UserError where `true` is wanted and does not work, and for a model that `recomputes`
    activations, which torch cannot compile as we do it.
    """
    if recomputes and wanted is True:
        raise UserError(
            "train.compile: true cannot be combined with model.backbone.activation_checkpointing; "
            "set one of them to false"
        )
    if recomputes and wanted == "auto":
        return False, "off: activation checkpointing"
    if wanted is False:
        return False, "off, as configured"
    if wanted == "auto" and device.type != "cuda":
        return False, "off: train.compile auto uses it on a GPU only"
    fault = compile_fault(device)
    if fault is None:
        return True, "on"
    if wanted == "auto":
        return False, f"off: torch.compile does not work here: {fault}"
    raise UserError(
        f"train.compile: true, but torch.compile does not work here: {fault}; install what is "
        "missing, or set train.compile to auto or false"
    )


@functools.cache
def compile_fault(device: torch.device) -> str | None:
    """Why torch.compile does not work on the device; None where it does.

    A few operations are compiled, forward and backward: whether compilers, their headers and Triton
    are there and accept the processor, only a trial tells. Most of its time is the import of the
    compiler, which the run needs then.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.linspace(0, 1, 64, device=device, requires_grad=True)
            torch.compile(_compile_trial)(x).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    except Exception as error:  # whatever a compiler that is missing or broken raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reasons = [line for line in lines if "error:" in line] or lines or [repr(error)]
        return f"{type(error).__name__}: {reasons[0]}"
    return None


def _compile_trial(x: torch.Tensor) -> torch.Tensor:
    return (x.sin() * 2).relu().sum()


def choose_device(wanted: str | None, local_rank: int) -> torch.device:
    """`--device`, else the first free choice: this process's GPU, else the CPU."""
    if wanted is None:
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise UserError(f"--device {wanted}: not a device; use cpu, cuda or cuda:0") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(
            f"--device {wanted}: is not supported; resdet trains and predicts on cpu and cuda, so "
            "give one of them"
        )
    if not torch.cuda.is_available():
        raise UserError(f"--device {wanted}: torch sees no GPU here; use --device cpu")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank} of this machine needs GPU {index} and there are "
            f"{torch.cuda.device_count()}; start fewer processes (--nproc-per-node)"
        )
    return torch.device("cuda", index)


def set_threads(configured: int | None, recorded: int | None) -> int:
    """CPU threads of this process: the config's, else the resumed run's, else torch's choice.

    Sums are split over the threads, so that a resumed run is bit-exact only with as many.
    """
    threads = configured or recorded
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextmanager
def settings_restored() -> Iterator[None]:
    """What a run sets for the whole program is as before after it: threads, determinism, the
    generators' states, the current GPU."""
    threads, wanted = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if torch.cuda.is_initialized():
            torch.cuda.set_device(gpu)
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def set_determinism(wanted: bool, device: torch.device) -> None:
    """Deterministic algorithms on a CPU; `index_put_` with accumulate is unordered without them."""
    if device.type == "cpu":
        torch.use_deterministic_algorithms(wanted)
        # NaN-filling every new tensor is for finding bugs, and costs a pass over memory.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def seed_all(seed: int, step: int = 0, rank: int = 0) -> None:
    """Seed every generator as a function of (seed, step, rank), so that no state needs saving."""
    key = int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint32)[0])
    random.seed(key)
    np.random.seed(key)
    torch.manual_seed(key)


def memory_mb(device: torch.device) -> float:
    """Peak memory so far in MiB: allocated on the GPU, or resident (0 on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":
        # getrusage begins with what the parent had when it started this process
        status = Path("/proc/self/status").read_text().split()
        if "VmHWM:" in status:
            return int(status[status.index("VmHWM:") + 1]) / 2**10
    if sys.platform == "win32":  # has no such count
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def default_workers(configured: int | None, local_world_size: int) -> int:
    """`data.workers`, else up to 4 per process, leaving each training process a core of its own."""
    if configured is not None:
        return configured
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(0, min(4, (cores or 1) // local_world_size - 1))


PROFILE_PREFIX = "resdet: "


def profiled(name: str) -> AbstractContextManager[Any]:
    """Names what happens inside, for `train.profile` or any profiler of torch; nothing but that."""
    if torch.compiler.is_compiling():
        return nullcontext()
    return record_function(PROFILE_PREFIX + name)
