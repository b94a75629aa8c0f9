"""RoI branches by the name of their section: what is predicted per object besides class and box.

A module named in `imports` adds its own to BRANCHES, and `model.roi.branches` of a config turns it
on. `resdet.models.regions` describes what a branch is and what it is given.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from resdet.errors import NotRegistered, UserError
from resdet.models.branches.mask import MaskHead

BRANCHES: dict[str, Callable[..., nn.Module]] = {"mask_head": MaskHead}


def make_branch(
    name: str, in_channels: int, num_classes: int, options: Mapping[str, Any]
) -> nn.Module:
    """The branch `name` with `options` for its keyword arguments.

    Raises UserError for an unknown branch or option, and for options that the branch refuses.
    """
    key = f"model.roi.branches.{name}"
    if name not in BRANCHES:
        near = difflib.get_close_matches(name, BRANCHES, n=1)
        hint = f"did you mean {near[0]}?" if near else "import the module that adds it to BRANCHES"
        raise NotRegistered(f"{key}: no such branch; {hint}")
    accepted = list(inspect.signature(BRANCHES[name]).parameters)[2:]
    if unknown := [option for option in options if option not in accepted]:
        raise UserError(
            f"{key}: no option {', '.join(unknown)}; it takes {', '.join(accepted) or 'none'}"
        )
    try:
        return BRANCHES[name](in_channels, num_classes, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {dict(options)} is refused: {error}") from error
