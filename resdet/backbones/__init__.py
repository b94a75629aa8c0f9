"""The backbone registry, the only registry there is: backbones are what users add.

A backbone is a function that returns a module with
    forward(images (B, 3, H, W) float, normalised) -> {"c2": …, "c5": …} feature maps,
    .channels and .strides: dicts by the same names,
    .freeze_stages(freeze_at): fixes the stem (1), res2 (2) … res5 (5),
and, where a classifier on it is more than pooling and one linear layer,
    .make_head(num_classes, dropout) -> a head (resdet/models/classifier.py says what that is).
Networks for small images have c1 … c3 at strides below those, and serve classifiers alone.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from resdet.errors import UserError


class Backbone(Protocol):
    """What a detector asks of a backbone."""

    channels: dict[str, int]
    strides: dict[str, int]

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...

    def freeze_stages(self, freeze_at: int) -> None: ...


Builder = TypeVar("Builder", bound=Callable[..., nn.Module])
_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def register_backbone(builder: Builder) -> Builder:
    """Register a function of keyword arguments under its own name; a duplicate name raises."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"backbone {name!r} is registered already; give yours another name")
    _BUILDERS[name] = builder
    return builder


def list_backbones() -> list[str]:
    """Names accepted by `model.backbone.name`, in the order of registration."""
    return list(_BUILDERS)


def build_backbone(name: str, options: dict[str, Any] | None = None) -> nn.Module:
    """Build backbone `name` with `options` for its keyword arguments.

    Raises UserError with near names for an unknown backbone, and with the accepted options for an
    unknown one.
    """
    options = options or {}
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see resdet.list_backbones()"
        raise UserError(f"model.backbone.name: no backbone {name!r}; {hint}")
    builder = _BUILDERS[name]
    accepted = list(inspect.signature(builder).parameters)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise UserError(
            f"model.backbone: {name} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}"
        )
    try:
        return builder(**options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"model.backbone: {name} refuses {options}: {error}") from error


from resdet.backbones import (  # noqa: E402  each registers its family
    cifar,  # noqa: F401
    googlenet,  # noqa: F401
    highway,  # noqa: F401
    plain,  # noqa: F401
    preact,  # noqa: F401
    resnet,  # noqa: F401
    vgg,  # noqa: F401
)
