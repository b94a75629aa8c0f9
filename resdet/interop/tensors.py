"""Looking up a detector's tensors by name, to identify its network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from resdet.errors import UserError


def count_names(state: Mapping[str, Any], pattern: str) -> int:
    """How many names end with the regular expression."""
    return sum(1 for name in state if re.search(f"(?:{pattern})$", name))


def find_matrix(state: Mapping[str, Tensor], end: str, source: str) -> Tensor:
    """The first matrix or filter whose name ends with `end`; UserError if there is none, or if it
    is damaged."""
    name = next((name for name in state if name.endswith(end)), None)
    if name is None:
        raise UserError(
            f"{source} has no {end}: it is truncated, or no detector that resdet supports"
        )
    if state[name].ndim < 2 or 0 in state[name].shape:
        raise UserError(f"{source}: {name} has shape {tuple(state[name].shape)}; it is damaged")
    return state[name]
