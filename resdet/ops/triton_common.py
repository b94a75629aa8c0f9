"""What the Triton kernels and their callers share."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """How regions are cut into bins and sampled, by all kernels of RoIAlign."""

    scales: tuple[float, ...]
    """Cells per pixel of each level."""
    size: int
    """Bins per side."""
    aligned: bool
    sampling_ratio: int
    """Samples per bin and side; 0 adapts to the box."""


MAX_LEVELS = 5
"""Maps that RoIAlign's kernel takes at once."""


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, wherever their tensors are."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
