"""Loading weights into a network: what fits, what is left out, and what is refused."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resdet.errors import UserError, first_few
from resdet.interop.architecture import backbone_tensors, described, mismatch, remedy
from resdet.interop.classes import fit_branches, fit_classes, fit_context
from resdet.interop.loaded import (
    HEAD_PREFIX,
    LoadedWeights,
    Reading,
    check_reading,
    other_conventions,
)
from resdet.interop.torchvision.classifiers import CLASSIFIERS
from resdet.interop.weights import read_weights

# The last layers of classifiers, which a detector does not use.
CLASSIFIER_PREFIXES = ("fc.", "classifier.", "aux1.", "aux2.", HEAD_PREFIX)
# Of our classifiers: the normalisation of pixels.
PIXELS = ("pixel_mean", "pixel_std")
COUNTER = "num_batches_tracked"
MAX_LISTED = 3
"""Tensors that a message lists of each problem."""
CLASS_LAYERS = ("rpn.logits.", "rpn.deltas.", "cls_score.", "bbox_pred.")
"""Of localizers: what has filters for each class."""


def load_backbone(
    backbone: nn.Module,
    spec: str | LoadedWeights,
    reading: Reading | None = None,
    elsewhere: Collection[str] = (),
) -> list[str]:
    """Load `spec`, or weights that were read, into `backbone`; returns log lines.

    `reading` is the backbone's; weights with another one are refused if theirs is known. From a
    detector or a classifier only the backbone is taken, and what is left out is listed, except for
    the keys that are used `elsewhere`.
    Raises UserError that lists missing, unexpected and mis-shaped keys; nothing is loaded then.
    """
    weights = _read(spec)
    state, lines = weights.state, [f"backbone weights: {weights.source}"]
    own = backbone.state_dict()
    if weights.prefix and all(key.startswith(weights.prefix) for key in own):
        # the backbone itself has a part of this name
        state = {f"{weights.prefix}{key}": value for key, value in state.items()}
    check_reading(_reading_of(weights), reading, weights.source)
    if weights.kind != "backbone":
        others = [key for key in state if key.startswith(HEAD_PREFIX)]
        lines += _pixel_lines(weights, state)
        state = backbone_tensors(state)
        if weights.kind != "classifier":
            lines.append(f"only the backbone of the {weights.kind} is used")
        elif others := [key for key in others if key not in elsewhere]:
            lines.append(f"left out, the classifier: {', '.join(others)}")
    head = [key for key in state if key.startswith(CLASSIFIER_PREFIXES) and key not in own]
    if unused := [key for key in head if key not in elsewhere]:
        lines.append(f"left out, the classifier: {', '.join(unused)}")
    state = {key: value for key, value in state.items() if key not in head}
    parts = {key.partition(".")[0] for key in own}
    others = [key for key in state if key.partition(".")[0] not in parts]
    if others and _has_all(own, state):
        lines.append(f"left out, {len(others)} tensors beside the backbone: {first_few(others, 3)}")
        state = {key: value for key, value in state.items() if key not in others}
    _load(backbone, own, state, weights)
    return lines


def load_classifier_weights(
    model: nn.Module, spec: str | LoadedWeights, reading: Reading | None = None
) -> list[str]:
    """Load the whole classifier `spec` into `model`; returns log lines.

    `reading` is the model's; weights with another one are refused if theirs is known. If the number
    of classes differs, the layers that depend on it keep their initial values and are listed.
    Raises UserError that lists missing, unexpected and mis-shaped keys.
    """
    weights = _read(spec)
    check_reading(_reading_of(weights), reading, weights.source)
    own, state = model.state_dict(), weights.state
    names_there = weights.class_names
    if weights.kind != "classifier":
        raise UserError(
            f"{weights.source} holds {described(weights)}, not a classifier of resdet; "
            + remedy(weights, "for its backbone set model.backbone.weights")
        )
    lines = [f"classifier weights: {weights.source}", *_pixel_lines(weights, state)]
    # the images are normalised by the run's own mean and deviation
    state = {key: own[key] if key in PIXELS else value for key, value in state.items()}
    state |= {key: own[key] for key in PIXELS}
    own_names = list(getattr(model, "class_names", []))
    head = [k for k in own if k.startswith(HEAD_PREFIX) and k in state]
    new = [
        k for k in head if own[k].shape != state[k].shape and own[k].shape[1:] == state[k].shape[1:]
    ]
    if new:
        sizes = f"{len(state[new[0]])} classes there, {len(own_names)} here"
        lines.append(f"{sizes}: these layers start from scratch: {', '.join(new)}")
        state = {key: own[key] if key in new else value for key, value in state.items()}
    elif names_there and own_names and names_there != own_names:
        lines.append(
            f"class names differ: {first_few(names_there)} there, {first_few(own_names)} here, "
            "taken by position"
        )
    _load(model, own, state, weights)
    return lines


def load_detector(
    model: nn.Module, spec: str | LoadedWeights, section: Mapping[str, Any] | None = None
) -> list[str]:
    """Load the whole detector `spec` into `model`; returns log lines.

    `section` is the model's config section `model` as plain values: its `Reading`, which must agree
    with that of the weights if it is known, and its `class_map`. With other classes, those matched
    by name keep their rows of the predictors, see `match_classes`; a mask head that only one side
    has is left out or starts from scratch; context that only the model has starts from 0, see
    `fit_context`; all of this is listed.
    Raises UserError that lists other missing, unexpected and mis-shaped keys.
    """
    section = section or {}
    weights = _read(spec, refuse_classifier)
    if weights.kind != "detector":
        raise UserError(
            f"{weights.source} holds {described(weights)}, not a detector of resdet; "
            + remedy(weights, "it belongs to model.backbone.weights")
        )
    lines = [f"detector weights: {weights.source}"]
    if weights.config is not None and section:
        check_reading(_reading_of(weights), Reading.of(section), weights.source)
        lines += other_conventions(weights.config.get("model") or {}, section)
    own, state = model.state_dict(), weights.state
    state, branch_lines = fit_branches(own, state)
    state, context_lines = fit_context(own, state, weights.source)
    state, class_lines = fit_classes(
        own, state, getattr(model, "class_names", []), weights, section.get("class_map") or {}
    )
    lines += branch_lines + context_lines + class_lines
    _load(model, own, state, weights)
    return lines


def load_localizer(
    model: nn.Module, spec: str | LoadedWeights, reading: Reading | None = None
) -> list[str]:
    """Load the whole localizer `spec` into `model`; returns log lines.

    `reading` is the model's; weights with another one are refused. With other classes, the layers
    that depend on their number keep their initial values and are listed.
    Raises UserError that lists missing, unexpected and mis-shaped keys.
    """
    weights = _read(spec)
    check_reading(_reading_of(weights), reading, weights.source)
    if weights.kind != "localizer":
        raise UserError(
            f"{weights.source} holds {described(weights)}, not a localizer of resdet; "
            + remedy(weights, "for its backbone set model.backbone.weights")
        )
    lines = [f"localizer weights: {weights.source}"]
    own, state = model.state_dict(), weights.state
    names = list(getattr(model, "class_names", []))
    if names != weights.class_names:
        new = [key for key in own if key in state and key.startswith(CLASS_LAYERS)]
        lines.append(
            f"{len(weights.class_names)} classes there ({first_few(weights.class_names, 3)}), "
            f"{len(names)} here ({first_few(names, 3)}): these layers start from scratch: "
            f"{', '.join(new)}"
        )
        state = {key: own[key] if key in new else value for key, value in state.items()}
    _load(model, own, state, weights)
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
    """UserError, before a download, if `spec` names a published classifier."""
    origin, _, name = spec.partition(":")
    is_torchvisions = origin == "torchvision" and name.partition(".")[0] in CLASSIFIERS
    if is_torchvisions or origin == "timm":
        raise UserError(
            f"{spec} is a classifier, not a detector; it belongs to model.backbone.weights, "
            "beside model.backbone.name"
        )


def load_exactly(model: nn.Module, weights: LoadedWeights) -> None:
    """Load `weights` into the `model` of their own config; UserError lists any difference."""
    _load(model, model.state_dict(), weights.state, weights)


def _reading_of(weights: LoadedWeights) -> Reading | None:
    """The reading of the weights' network; None if it is not known for certain."""
    if weights.config is None or weights.is_guessed:
        return None
    return Reading.of(weights.config.get("model") or {})


def _check_norms(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Batch norm and group norm name their parameters alike and are not interchangeable."""
    means = {key for key in state if key.endswith("running_mean")}
    own_means = {key for key in own if key.endswith("running_mean")}
    if means and not own_means:
        raise UserError(
            f"{source} was trained with batch norm, and the model has none: set "
            "model.backbone.norm to bn, sync_bn or frozen_bn, or start without weights"
        )
    if own_means and not means and state:
        raise UserError(
            f"{source} has no batch norm statistics, and the model has batch norm: set "
            "model.backbone.norm to gn (of VGG: none) if the weights were trained so, or start "
            "without weights"
        )


def _load(
    module: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor], weights: LoadedWeights
) -> None:
    """Copy `state`, tensors of `weights`, into `module`, whose state dict is `own`; all of it or
    nothing."""
    source = weights.source
    fits = _has_all(own, state) and all(key in own for key in state if not key.endswith(COUNTER))
    if not fits and (other := mismatch(own, state, weights)):
        raise UserError(other)
    _check_norms(own, state, source)
    # Batch norm counts its batches, frozen batch norm does not; neither uses the count.
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
        f"{len(keys)} {what}: {first_few(keys, MAX_LISTED)}"
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
        raise UserError(f"{source} holds NaN or infinite values: {first_few(bad)}")
    module.load_state_dict(state, strict=False)


def _has_all(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether `state` has all tensors of the state dict `own` in their shapes."""
    return all(
        key in state and state[key].shape == value.shape
        for key, value in own.items()
        if not key.endswith(COUNTER)
    )


def _pixel_lines(weights: LoadedWeights, state: Mapping[str, Tensor]) -> list[str]:
    """The weights' pixel mean and deviation, if they are known."""
    if weights.is_guessed or any(key not in state or state[key].ndim != 3 for key in PIXELS):
        return []
    mean, std = (state[key].double().mean((1, 2)).tolist() for key in PIXELS)
    mean_text, std_text = (", ".join(f"{value:.2f}" for value in row) for row in (mean, std))
    return [
        f"trained with a pixel mean of [{mean_text}] and a deviation of [{std_text}], which "
        "model.pixel_mean and model.pixel_std set here"
    ]
