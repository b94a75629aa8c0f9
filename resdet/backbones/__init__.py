"""The backbone registry: the networks that a config may name, and those that users add.

A backbone is a function that returns a module with
    forward(images (B, 3, H, W) float, normalised) -> {"c2": …, "c5": …} feature maps,
    .channels and .strides: dicts with the same keys,
    .freeze_stages(freeze_at): freezes the stem (1), res2 (2) … res5 (5),
and, if its classifier is more than pooling and one linear layer,
    .make_head(num_classes, dropout) -> a head, see `resdet.backbones.heads.Head`.
Networks for small images have c1 … c3 at strides 1, 2, 4 and only serve classifiers.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from resdet.errors import NotRegistered, UserError, did_you_mean


class Backbone(Protocol):
    """What a detector needs of a backbone."""

    channels: dict[str, int]
    strides: dict[str, int]

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...

    def freeze_stages(self, freeze_at: int) -> None: ...


Builder = TypeVar("Builder", bound=Callable[..., nn.Module])
_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def register_backbone(builder: Builder) -> Builder:
    """Register a function of keyword arguments under its own name.

    Raises ValueError if the name is taken.
    """
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(f"backbone {name!r} is registered already; give yours another name")
    _BUILDERS[name] = builder
    return builder


def register_variant(
    name: str, network: Callable[..., nn.Module], fixed: Mapping[str, Any]
) -> None:
    """Register `network` as `name` with the arguments `fixed`; its other arguments are options."""
    signature = inspect.signature(network)
    options = [value for key, value in signature.parameters.items() if key not in fixed]
    builder: Any = partial(network, **fixed)
    builder.__name__ = name
    builder.__signature__ = signature.replace(parameters=options)
    register_backbone(builder)


def list_backbones() -> list[str]:
    """Names accepted by `model.backbone.name`, in the order of registration."""
    return list(_BUILDERS)


def build_backbone(name: str, options: dict[str, Any] | None = None) -> nn.Module:
    """Build backbone `name` with `options` for its keyword arguments.

    Raises UserError for an unknown name, with similar names, for an unknown option, with the
    accepted ones, and for a value that the backbone rejects.
    """
    options = options or {}
    if name not in _BUILDERS:
        hint = did_you_mean(name, _BUILDERS, "see resdet.list_backbones()")
        raise NotRegistered(f"model.backbone.name: no backbone {name!r}; {hint}")
    return build_checked("model.backbone", name, _BUILDERS[name], options)


def build_checked(
    key: str, name: str, builder: Callable[..., nn.Module], options: Mapping[str, Any], *given: Any
) -> nn.Module:
    """The module that `builder` makes of `given` and the `options` of a config section `key`.

    UserError for an option that its signature does not have, and for values that it rejects.
    """
    accepted = list(inspect.signature(builder).parameters)[len(given) :]
    if unknown := [option for option in options if option not in accepted]:
        raise UserError(
            f"{key}: {name} does not accept {', '.join(unknown)}; it accepts {', '.join(accepted)}"
        )
    try:
        return builder(*given, **options)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {name} refuses {dict(options)}: {error}") from error


from resdet.backbones import (  # noqa: E402  each registers its family
    cifar,  # noqa: F401
    googlenet,  # noqa: F401
    highway,  # noqa: F401
    preact,  # noqa: F401
    resnet,  # noqa: F401
    vgg,  # noqa: F401
)
