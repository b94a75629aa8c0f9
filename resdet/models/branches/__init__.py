"""RoI branches by the name of their section: what is predicted per object besides class and box.

A module named in `imports` adds its own to BRANCHES, and `model.roi.branches` of a config turns it
on. `resdet.models.regions` describes what a branch is and what it is given.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from resdet.backbones import build_checked
from resdet.errors import NotRegistered, did_you_mean
from resdet.models.branches.mask import MaskHead

BRANCHES: dict[str, Callable[..., nn.Module]] = {"mask_head": MaskHead}


def make_branch(
    name: str, in_channels: int, num_classes: int, options: Mapping[str, Any]
) -> nn.Module:
    """The branch `name` with `options` for its keyword arguments.

    Raises UserError for an unknown branch or option, and for options that the branch refuses.
    """
    if name not in BRANCHES:
        hint = did_you_mean(name, BRANCHES, "import the module that adds it to BRANCHES")
        raise NotRegistered(f"model.roi.branches: no branch {name!r}; {hint}")
    return build_checked(
        "model.roi.branches", name, BRANCHES[name], options, in_channels, num_classes
    )
