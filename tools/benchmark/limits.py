"""What the machine can do at most: its matrix rate and its copy bandwidth, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from resdet import hardware

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Sides of the square matrices that are multiplied; the best counts."""
COPY_MB = {"cpu": 256, "cuda": 2048}
REPEATS = 5


@dataclass
class Limits:
    """Rates of this machine, as torch reaches them."""

    flops: dict[str, float]
    """Floating-point operations per second of a matrix product, by number format (fp32, bf16)."""
    bytes_per_s: float
    """Read and written by a copy of a large tensor."""

    def words(self) -> str:
        rates = ", ".join(f"{name} {rate / 1e12:.3g} Tflop/s" for name, rate in self.flops.items())
        return f"matrix products: {rates}; copies: {self.bytes_per_s / 1e9:.3g} GB/s"


def measure_limits(device: torch.device) -> Limits:
    """Measure both on `device` and print them; products in fp32, and bf16 where it has that."""
    formats = {"fp32": torch.float32}
    if hardware.choose_precision("auto", device).name == "bf16":
        formats["bf16"] = torch.bfloat16
    flops = {name: _matrix_rate(device, dtype) for name, dtype in formats.items()}
    limits = Limits(flops, _copy_rate(device))
    print(limits.words())
    return limits


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    best = 0.0
    for side in SIDES[device.type]:
        left = torch.randn(side, side, device=device).to(dtype)
        right = torch.randn(side, side, device=device).to(dtype)
        out = torch.empty(side, side, device=device, dtype=dtype)
        seconds = _median(partial(torch.mm, left, right, out=out), device)
        # the same product as a convolution: on a CPU another library computes it
        pixels = left.t().contiguous().view(1, side, side // 32, 32)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        kernel = right.view(side, side, 1, 1).contiguous(memory_format=torch.channels_last)
        other = _median(partial(F.conv2d, pixels, kernel), device)
        best = max(best, 2 * side**3 / min(seconds, other))
    return best


def _copy_rate(device: torch.device) -> float:
    count = COPY_MB[device.type] * 2**20 // 4
    source = torch.ones(count, device=device)
    target = torch.zeros(count, device=device)
    return 8 * count / _median(partial(target.copy_, source), device)


def _median(work: Callable[[], Any], device: torch.device) -> float:
    times = []
    for number in range(REPEATS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number > 0:
            times.append(time.perf_counter() - start)
    return statistics.median(times)
