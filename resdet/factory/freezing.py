"""Freezing by name: the parameters that a pattern of `model.freeze` matches."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import nn

from resdet.backbones.norm import freeze_children
from resdet.errors import UserError, did_you_mean, first_few

M = TypeVar("M", bound=nn.Module)

MOST_COMPARED = 2000
"""Names among which a hint looks for one that is alike."""


def freeze_named(model: M, patterns: Sequence[str]) -> M:
    """Freeze every parameter whose full name (backbone.layer1.0.conv1.weight) matches one of
    the shell patterns, and return the model. Batch norms of which all is frozen keep their
    statistics, too.

    Raises UserError for a pattern that matches nothing, and where nothing is left to train.
    """
    if not patterns:
        return model
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            parts = dict.fromkeys(f"{name.split('.')[0]}.*" for name in names)
            otherwise = f"its parts are {', '.join(parts)}"
            hint = did_you_mean(pattern, [*parts, *names[:MOST_COMPARED]], otherwise)
            raise UserError(f"model.freeze: {pattern!r} matches no parameter of the model; {hint}")
        frozen.update(found)
    if len(frozen) == len(names):
        raise UserError(
            f"model.freeze: [{first_few(list(patterns), 5)}] freezes every parameter; leave out a "
            "pattern, so that there is something to train"
        )
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            prefix = ".".join(filter(None, (parent_name, name)))
            own = [f"{prefix}.{key}" for key, _ in child.named_parameters()]
            is_norm = isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm)
            if is_norm and own and frozen.issuperset(own):
                freeze_children(parent, [name])
    return model
