"""Names for the parts of a step, for profilers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.profiler import record_function

PREFIX = "resdet: "


def profiled(name: str) -> AbstractContextManager[Any]:
    """Names what happens inside, for `train.profile` or any profiler of torch; nothing but that."""
    if torch.compiler.is_compiling():
        return nullcontext()
    return record_function(PREFIX + name)
