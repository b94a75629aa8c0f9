"""Read weights put into a network: what fits, what is left out, and what does not belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.interop.classes import fit_classes, fit_mask_head
from resdet.interop.loaded import LoadedWeights
from resdet.interop.reading import Reading, check_reading, other_conventions
from resdet.interop.torchvision import classifiers as torchvision
from resdet.interop.weights import BACKBONE_PREFIX, HEAD_PREFIX, read_weights

# The last layers of classifiers, which a detector has no use for.
CLASSIFIER_PREFIXES = ("fc.", "classifier.", "aux1.", "aux2.", HEAD_PREFIX)
# Of our classifiers: how pixels become their input.
PIXELS = ("pixel_mean", "pixel_std")
RES5_PREFIX = "roi_heads.res5."
COUNTER = "num_batches_tracked"
MAX_LISTED = 8


def load_backbone(
    backbone: nn.Module, spec: str | LoadedWeights, reading: Reading | None = None
) -> list[str]:
    """Load `spec`, or weights that were read, into `backbone`; returns log lines.

    `reading` is the backbone's own, and must be that of the weights where it is known.

    Of a detector or a classifier only its backbone is taken, and what is left out is listed.
    Raises UserError that lists missing, unexpected and mis-shaped keys; nothing is loaded then.
    """
    weights = _read(spec)
    state, lines = weights.state, [f"backbone weights: {weights.source}"]
    own = backbone.state_dict()
    check_reading(_reading_of(weights), reading, weights.source)
    if weights.kind in ("detector", "classifier"):
        others = [key for key in state if key.startswith(HEAD_PREFIX)]
        lines += _pixel_lines(weights, state)
        found = {
            key.removeprefix(BACKBONE_PREFIX): value
            for key, value in state.items()
            if key.startswith(BACKBONE_PREFIX)
        }
        # the last stage that a C4 detector keeps in its head
        found |= {
            f"layer4.{key.removeprefix(RES5_PREFIX)}": value
            for key, value in state.items()
            if key.startswith(RES5_PREFIX)
        }
        state = found
        if weights.kind == "detector":
            lines.append("of a detector, its backbone alone is used")
        elif others:
            lines.append(f"left out, the classifier: {', '.join(others)}")
    head = [key for key in state if key.startswith(CLASSIFIER_PREFIXES) and key not in own]
    if head:
        lines.append(f"left out, the classifier: {', '.join(head)}")
    state = {key: value for key, value in state.items() if key not in head}
    _check_norms(own, state, weights.source)
    _load(backbone, own, state, weights.source)
    return lines


def load_classifier_weights(
    model: nn.Module, spec: str | LoadedWeights, reading: Reading | None = None
) -> list[str]:
    """Load the whole classifier `spec` into `model`; returns log lines.

    `reading` is the model's own, and must be that of the weights where it is known.

    Where the number of classes differs, the layers whose size depends on it keep their start
    values and are listed. Raises UserError that lists missing, unexpected and mis-shaped keys.
    """
    weights = _read(spec)
    check_reading(_reading_of(weights), reading, weights.source)
    own, state = model.state_dict(), weights.state
    names_there = weights.class_names
    if weights.kind != "classifier":
        raise UserError(
            f"{weights.source} holds a {weights.kind} and no classifier: for its backbone give "
            "model.backbone.weights"
        )
    lines = [f"classifier weights: {weights.source}", *_pixel_lines(weights, state)]
    # the run's own mean and deviation hold, which its images are prepared with
    state = {key: own[key] if key in PIXELS else value for key, value in state.items()}
    state |= {key: own[key] for key in PIXELS}
    own_names = list(getattr(model, "class_names", []))
    head = [k for k in own if k.startswith(HEAD_PREFIX) and k in state]
    anew = [
        k for k in head if own[k].shape != state[k].shape and own[k].shape[1:] == state[k].shape[1:]
    ]
    if anew:
        sizes = f"{len(state[anew[0]])} classes there, {len(own_names)} here"
        lines.append(f"{sizes}: these layers start anew: {', '.join(anew)}")
        state = {key: own[key] if key in anew else value for key, value in state.items()}
    elif names_there and own_names and names_there != own_names:
        lines.append(
            f"class names differ: {_shorten(names_there)} there, {_shorten(own_names)} here, "
            "taken by position"
        )
    _check_norms(own, state, weights.source)
    _load(model, own, state, weights.source)
    return lines


def load_detector(
    model: nn.Module, spec: str | LoadedWeights, section: Mapping[str, Any] | None = None
) -> list[str]:
    """Load the whole detector `spec` into `model`; returns log lines.

    `section` is the model's own section `model` as plain values: how it reads its input, which
    must be as the weights do where that is known, and its `class_map`. Of other classes those
    matched by name keep their rows of the predictors, see `match_classes`, and a mask head that
    only one side has is left out or starts anew; all of it is listed.
    Raises UserError that lists other missing, unexpected and mis-shaped keys.
    """
    section = section or {}
    weights = _read(spec, refuse_classifier)
    if weights.kind != "detector":
        raise UserError(
            f"{weights.source} holds a {weights.kind} and no detector: it belongs to "
            f"model.backbone.weights"
        )
    lines = [f"detector weights: {weights.source}"]
    if weights.config is not None and section:
        check_reading(_reading_of(weights), Reading.of(section), weights.source)
        lines += other_conventions(weights.config.get("model") or {}, section)
    own, state = model.state_dict(), weights.state
    state, said = fit_mask_head(own, state)
    lines += said
    state, said = fit_classes(
        own, state, getattr(model, "class_names", []), weights, section.get("class_map") or {}
    )
    lines += said
    _check_norms(own, state, weights.source)
    _load(model, own, state, weights.source)
    return lines


def _read(
    spec: str | LoadedWeights, check: Callable[[str], object] = lambda spec: None
) -> LoadedWeights:
    """The weights of a spec, checked before it is read or downloaded; what was read stays."""
    if isinstance(spec, LoadedWeights):
        return spec
    check(spec)
    return read_weights(spec)


def refuse_classifier(spec: str) -> None:
    """UserError, before a download, where `spec` names a published classifier."""
    origin, _, name = spec.partition(":")
    is_torchvisions = origin == "torchvision" and name.partition(".")[0] in torchvision.CLASSIFIERS
    if is_torchvisions or origin == "timm":
        raise UserError(
            f"{spec} is a classifier and no detector: it belongs to model.backbone.weights, "
            "beside model.backbone.name"
        )


def load_exactly(model: nn.Module, weights: LoadedWeights) -> None:
    """Load `weights` into the `model` that its own config built; UserError lists any difference."""
    _load(model, model.state_dict(), weights.state, weights.source)


def _reading_of(weights: LoadedWeights) -> Reading | None:
    """How the network of the weights reads its input; None where it is not known for sure."""
    if weights.config is None or weights.is_guessed:
        return None
    return Reading.of(weights.config.get("model") or {})


def _check_norms(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Batch norm and group norm have parameters of the same names and are not interchangeable."""
    means = {key for key in state if key.endswith("running_mean")}
    own_means = {key for key in own if key.endswith("running_mean")}
    if means and not own_means:
        raise UserError(
            f"{source} was trained with batch norm, and the model has none: set "
            f"model.backbone.norm to bn, sync_bn or frozen_bn, or start without weights"
        )
    if own_means and not means and state:
        raise UserError(
            f"{source} has no batch norm statistics, the model is built with batch norm: set "
            f"model.backbone.norm to gn (of VGG: none) if the weights were trained so, or start "
            f"without weights"
        )


def _load(
    module: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor], source: str
) -> None:
    """Copy `state` into `module`, whose state dict is `own`; all of it or nothing."""
    # Batch norm counts its batches, frozen batch norm does not; the count is not used in either.
    state = {key: value for key, value in state.items() if key in own or not key.endswith(COUNTER)}
    missing = [key for key in own if key not in state and not key.endswith(COUNTER)]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(value.shape)} there, {tuple(own[key].shape)} here"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    types = [
        f"{key} {value.dtype} there, {own[key].dtype} here"
        for key, value in state.items()
        if key in own and own[key].is_floating_point() != value.is_floating_point()
    ]
    problems = [
        f"{len(keys)} {what}: {_shorten(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another type", types),
        )
        if keys
    ]
    if problems:
        raise UserError(f"{source} does not fit the model; {'; '.join(problems)}")
    bad = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise UserError(f"{source} holds NaN or infinite values: {_shorten(bad)}")
    module.load_state_dict(state, strict=False)


def _pixel_lines(weights: LoadedWeights, state: Mapping[str, Tensor]) -> list[str]:
    """What the weights' pixels were normalised by, where it is known."""
    if weights.is_guessed or any(key not in state or state[key].ndim != 3 for key in PIXELS):
        return []
    mean, std = (state[key].double().mean((1, 2)).tolist() for key in PIXELS)
    return [
        f"trained at a pixel mean of {_numbers(mean)} and deviation of {_numbers(std)}, which "
        "model.pixel_mean and model.pixel_std give here"
    ]


def _numbers(values: list[float]) -> str:
    return f"[{', '.join(f'{value:.2f}' for value in values)}]"


def _shorten(items: list[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more
