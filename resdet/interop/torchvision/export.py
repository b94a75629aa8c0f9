"""Our classifiers and backbones as state dicts of torchvision's models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision import classifiers as torchvision
from resdet.interop.weights import BACKBONE_PREFIX, HEAD_PREFIX

COUNTER = "num_batches_tracked"
MAX_LISTED = 8


def exported_classifier(weights: LoadedWeights) -> dict[str, Tensor]:
    """The tensors of a classifier, or of a backbone alone, by torchvision's names.

    Checked against torchvision's own model: every tensor is there and of its shape, but for the
    last layer of a backbone alone. Raises UserError where torchvision has no such network.
    """
    section = ((weights.config or {}).get("model") or {}).get("backbone") or {}
    name = section.get("name")
    if not isinstance(name, str):
        raise UserError(
            f"{weights.source} does not say which network it is; give its --from ORIGIN:NAME"
        )
    head, rest = _names(name, weights.source)
    prefix = BACKBONE_PREFIX if weights.kind == "classifier" else ""
    state: dict[str, Tensor] = {}
    for key, value in weights.state.items():
        if key.startswith(HEAD_PREFIX) and prefix:
            ours = key.removeprefix(HEAD_PREFIX)
            their = next((t for t, our in head.items() if ours.startswith(our)), None)
            state[ours if their is None else their + ours.removeprefix(head[their])] = value
        elif key.removeprefix(prefix).startswith(rest):
            state[key.removeprefix(prefix)] = value
    if section.get("stride_in_1x1"):
        raise UserError(
            f"{weights.source} has its strides in the first 1×1 of a bottleneck, and torchvision's "
            f"{name} in the 3×3: its numbers would be others"
        )
    problems = _differences(_model(name, state, section), state, has_head=bool(prefix))
    if problems:
        more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise UserError(
            f"{weights.source} is not the network that torchvision calls {name}: "
            f"{'; '.join(problems[:MAX_LISTED])}{more}"
        )
    return state


def _names(name: str, source: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """torchvision's prefixes of the head's tensors with ours, and of the others; else UserError."""
    known = [ours for ours, _ in torchvision.CLASSIFIERS.values()]
    if name not in known:
        raise UserError(
            f"{source}: torchvision has no {name}; it has {', '.join(dict.fromkeys(known))}"
        )
    return next(names for start, names in torchvision.NAMES.items() if name.startswith(start))


def _model(name: str, state: dict[str, Tensor], section: dict[str, Any]) -> nn.Module:
    """torchvision's model of that name, with shapes and no values."""
    from torchvision import models

    norm = section.get("norm") or (section.get("options") or {}).get("norm")
    has_norm = any(key.endswith("running_mean") for key in state)
    theirs = f"{name}_bn" if name.startswith("vgg") and (norm or has_norm) else name
    last = state.get("fc.weight", state.get("classifier.6.weight"))
    options: dict[str, Any] = {"num_classes": 1000 if last is None else len(last)}
    if name == "googlenet":
        is_full = any(key.startswith("aux1.") for key in state)
        options |= {"aux_logits": is_full, "init_weights": False}
    with torch.device("meta"):
        model: nn.Module = models.get_model(theirs, weights=None, **options)
    return model


def _differences(model: nn.Module, state: dict[str, Tensor], *, has_head: bool) -> list[str]:
    theirs = {key: value for key, value in model.state_dict().items() if not key.endswith(COUNTER)}
    if not has_head:
        theirs = {key: value for key, value in theirs.items() if key in state or not _is_head(key)}
    ours = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    problems = [f"it lacks {key}" for key in theirs if key not in ours]
    problems += [f"it has {key} besides" for key in ours if key not in theirs]
    problems += [
        f"{key} is {tuple(value.shape)}, there {tuple(theirs[key].shape)}"
        for key, value in ours.items()
        if key in theirs and value.shape != theirs[key].shape
    ]
    return problems


def _is_head(key: str) -> bool:
    return key.startswith(("fc.", "classifier.", "aux1.", "aux2."))
