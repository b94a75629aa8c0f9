"""resdet's classifiers and backbones as state dicts of torchvision's models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resdet.errors import UserError, first_few
from resdet.interop.loaded import LoadedWeights
from resdet.interop.reading import value_at
from resdet.interop.torchvision.classifiers import CLASSIFIERS, prefixes_of
from resdet.interop.weights import BACKBONE_PREFIX, HEAD_PREFIX

COUNTER = "num_batches_tracked"


def exported_classifier(weights: LoadedWeights) -> dict[str, Tensor]:
    """The tensors of a classifier, or of a backbone alone, under torchvision's names.

    Compared with torchvision's own model: every tensor exists and has its shape, except the last
    layer of a backbone alone. Raises UserError if torchvision has no such network.
    """
    section = value_at(weights.config, "model.backbone") or {}
    name = section.get("name")
    if not isinstance(name, str):
        raise UserError(f"{weights.source} does not identify its network; give --from ORIGIN:NAME")
    known = list(dict.fromkeys(backbone for backbone, _ in CLASSIFIERS.values()))
    if name not in known:
        raise UserError(f"{weights.source}: torchvision has no {name}; it has {', '.join(known)}")
    head, rest = prefixes_of(name)
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
            f"{name} in the 3×3: its numbers would differ"
        )
    problems = _differences(_model(name, state, section), state, has_head=bool(prefix))
    if problems:
        raise UserError(
            f"{weights.source} is not the network that torchvision calls {name}: "
            f"{first_few(problems)}"
        )
    return state


def _model(name: str, state: dict[str, Tensor], section: dict[str, Any]) -> nn.Module:
    """torchvision's model of that name on the meta device."""
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
        f"{key} is {tuple(value.shape)} here, {tuple(theirs[key].shape)} there"
        for key, value in ours.items()
        if key in theirs and value.shape != theirs[key].shape
    ]
    return problems


def _is_head(key: str) -> bool:
    return key.startswith(("fc.", "classifier.", "aux1.", "aux2."))
