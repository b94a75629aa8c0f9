"""What the Triton kernels and their callers share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

MAX_LEVELS = 5
"""Maps that RoIAlign's kernel takes at once."""


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, wherever their tensors are."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
