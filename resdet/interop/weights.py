"""Start weights by one spec: a file, a run folder, or torchvision:NAME.WEIGHTS.

Files are read with `weights_only=True`: tensors, numbers, strings and containers of them, so that
a file from elsewhere can run no code.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.interop import torchvision
from resdet.interop.reading import Reading, check_reading

CHECKPOINT_FORMAT = 1
BACKBONE_PREFIX = "backbone."
HEAD_PREFIX = "head."
# The last layers of classifiers, which a detector has no use for.
CLASSIFIER_PREFIXES = ("fc.", "classifier.", "aux1.", "aux2.", HEAD_PREFIX)
# Of our classifiers: how pixels become their input.
PIXELS = ("pixel_mean", "pixel_std")
COUNTER = "num_batches_tracked"
# Put before the names by DistributedDataParallel and torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
# Where other programs keep the tensors in their checkpoints.
CONTAINERS = ("model", "state_dict", "model_state_dict")
MAX_LISTED = 8


@dataclass
class LoadedWeights:
    """The tensors of one source and what is known of their origin."""

    state: dict[str, Tensor]
    """Names and tensors on the CPU; averaged (EMA) weights where the checkpoint keeps them."""
    kind: Literal["detector", "classifier", "backbone", "torchvision"]
    config: dict[str, Any] | None
    """The plain config of a resdet checkpoint; None for other files."""
    source: str
    """The file or spec, for messages."""
    class_names: list[str] = field(default_factory=list)
    """Class names of a resdet checkpoint by label; empty where unknown."""
    category_ids: list[int] = field(default_factory=list)
    """Original category ids by label; empty where unknown."""


def read_weights(spec: str) -> LoadedWeights:
    """The weights named by `spec`: a file, a run folder (best.pt, else last.pt), or
    torchvision:NAME.WEIGHTS, which is downloaded once.

    Raises UserError for a spec that names nothing and for a file that cannot be read as weights.
    """
    if spec.startswith(torchvision.PREFIX):
        path = torchvision.fetch(spec)
        return LoadedWeights(_flat_state(read_file(path), path), "torchvision", None, spec)
    path = checkpoint_path(spec)
    values = read_file(path)
    if values.get("kind") in ("detector", "classifier") and "model" in values:
        return _read_checkpoint(values, path)
    state = _flat_state(values, path)
    kind: Literal["detector", "classifier", "backbone"] = "backbone"
    if any(key.startswith(BACKBONE_PREFIX) for key in state):
        is_classifier = any(key.startswith(HEAD_PREFIX) for key in state)
        kind = "classifier" if is_classifier else "detector"
    return LoadedWeights(state, kind, None, str(path))


def checkpoint_path(spec: str | Path) -> Path:
    """The file meant by a run folder (best.pt, else last.pt) or by a file; UserError otherwise."""
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"{spec}: no such file or folder; give a checkpoint, a run folder, or for a backbone "
            f"a name like torchvision:resnet50.IMAGENET1K_V1"
        )
    for name in ("best.pt", "last.pt"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path} has neither best.pt nor last.pt: it is no run folder, or has no step")


def read_file(path: Path) -> dict[str, Any]:
    """The dict in a .pt, .pth or .safetensors file, on the CPU; runs none of its code.

    Raises UserError for anything else: another format, a truncated file, objects in the pickle.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile pickle can raise nearly any exception from inside the unpickler.
    except Exception as error:
        detail = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"{path} cannot be read as weights: it is truncated, no PyTorch file, or holds Python "
            f"objects, which are refused because loading them can run code ({detail})"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, not a dict of named tensors")
    return values


def _read_safetensors(path: Path) -> dict[str, Any]:
    if importlib.util.find_spec("safetensors") is None:
        raise UserError(f"{path}: reading .safetensors needs a package; pip install safetensors")
    try:
        return dict(importlib.import_module("safetensors.torch").load_file(str(path)))
    # The package's own error type is not importable without it.
    except Exception as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from error


def _read_checkpoint(values: dict[str, Any], path: Path) -> LoadedWeights:
    version = values.get("format")
    if not isinstance(version, int) or version > CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has checkpoint format {version!r}, this resdet reads up to "
            f"{CHECKPOINT_FORMAT}: update resdet"
        )
    state = _flat_state(values["model"], path)
    if values.get("ema"):
        state = {**state, **_flat_state(values["ema"], path)}
    return LoadedWeights(
        state,
        values["kind"],
        values.get("config"),
        str(path),
        list(values.get("class_names") or []),
        list(values.get("category_ids") or []),
    )


def _flat_state(values: Any, path: Path) -> dict[str, Tensor]:
    """Names and tensors, out of the container and without the wrappers' prefixes."""
    for container in CONTAINERS:
        if isinstance(values, Mapping) and isinstance(values.get(container), Mapping):
            values = values[container]
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{path} holds no named tensors; give a checkpoint or a state dict")
    state: dict[str, Tensor] = {}
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {key!r} is a {type(value).__name__}, not a tensor; give a checkpoint of "
                f"resdet or a plain state dict"
            )
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
        state[key] = value
    return state


def load_backbone(backbone: nn.Module, spec: str, reading: Reading | None = None) -> list[str]:
    """Load `spec` into `backbone`; returns log lines.

    `reading` is the backbone's own, and must be that of the weights where it is known.

    Of a detector or a classifier only its backbone is taken, and what is left out is listed.
    Raises UserError that lists missing, unexpected and mis-shaped keys; nothing is loaded then.
    """
    weights = read_weights(spec)
    state, lines = weights.state, [f"backbone weights: {weights.source}"]
    if weights.kind == "torchvision":
        name = spec.removeprefix(torchvision.PREFIX).partition(".")[0]
        if name in torchvision.CLASSIFIERS:
            state = torchvision.classifier_state(name, state)
    own = backbone.state_dict()
    check_reading(_reading_of(weights), reading, weights.source)
    if weights.kind in ("detector", "classifier") or any(k.startswith(HEAD_PREFIX) for k in state):
        others = [key for key in state if key.startswith(HEAD_PREFIX)]
        lines += _pixel_lines(weights, state)
        state = {
            key.removeprefix(BACKBONE_PREFIX): value
            for key, value in state.items()
            if key.startswith(BACKBONE_PREFIX)
        }
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
    model: nn.Module, spec: str, reading: Reading | None = None
) -> list[str]:
    """Load the whole classifier `spec` into `model`; returns log lines.

    `reading` is the model's own, and must be that of the weights where it is known.

    Where the number of classes differs, the layers whose size depends on it keep their start
    values and are listed. Raises UserError that lists missing, unexpected and mis-shaped keys.
    """
    weights = read_weights(spec)
    check_reading(_reading_of(weights), reading, weights.source)
    own, state = model.state_dict(), weights.state
    names_there = weights.class_names
    if weights.kind == "torchvision":
        name = spec.removeprefix(torchvision.PREFIX).partition(".")[0]
        state = torchvision.classifier_state(name, state)
        names_there = torchvision.imagenet_wnids()
    elif weights.kind != "classifier":
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


def load_detector(model: nn.Module, spec: str) -> list[str]:
    """Load the whole detector `spec` into `model`; returns log lines.

    Where the number of classes differs, the layers whose size depends on it keep their start
    values and are listed. Raises UserError that lists missing, unexpected and mis-shaped keys.
    """
    if spec.startswith(torchvision.PREFIX):
        raise UserError(f"{spec} is a classifier: it belongs to model.backbone.weights")
    weights = read_weights(spec)
    if weights.kind != "detector":
        raise UserError(
            f"{weights.source} holds a backbone and no detector: it belongs to "
            f"model.backbone.weights"
        )
    lines = [f"detector weights: {weights.source}"]
    own, state = model.state_dict(), weights.state
    own_names = list(getattr(model, "class_names", []))
    predictors = _class_layers(own, state, len(own_names), len(weights.class_names))
    if predictors:
        lines.append(
            f"{len(weights.class_names)} classes there, {len(own_names)} here: these layers start "
            f"anew: {', '.join(predictors)}"
        )
        state = {key: own[key] if key in predictors else state[key] for key in state}
    elif weights.class_names and own_names and weights.class_names != own_names:
        lines.append(
            f"class names differ: {_shorten(weights.class_names)} there, "
            f"{_shorten(own_names)} here, taken by position"
        )
    _check_norms(own, state, weights.source)
    _load(model, own, state, weights.source)
    return lines


def load_exactly(model: nn.Module, weights: LoadedWeights) -> None:
    """Load `weights` into the `model` that its own config built; UserError lists any difference."""
    _load(model, model.state_dict(), weights.state, weights.source)


def _class_layers(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], num_own: int, num_there: int
) -> list[str]:
    """Keys whose first dimension is K (masks), K + 1 (logits) or 4K (deltas) on either side."""
    if num_own == num_there or not num_there:
        return []
    pairs = {(num_there, num_own), (num_there + 1, num_own + 1), (4 * num_there, 4 * num_own)}
    return [
        key
        for key, value in state.items()
        if key in own
        and own[key].ndim == value.ndim > 0
        and own[key].shape[1:] == value.shape[1:]
        and (len(value), len(own[key])) in pairs
        and len(value) != len(own[key])
    ]


def _reading_of(weights: LoadedWeights) -> Reading | None:
    if weights.config is not None:
        return Reading.of(weights.config.get("model") or {})
    if weights.kind == "torchvision" and weights.source.startswith(torchvision.PREFIX):
        name = weights.source.removeprefix(torchvision.PREFIX).partition(".")[0]
        _, options = torchvision.CLASSIFIERS.get(name, ("", {}))
        return Reading(transform_input=bool(options.get("transform_input")))
    return None


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
    problems = [
        f"{len(keys)} {what}: {_shorten(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
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
    if weights.kind == "torchvision":
        mean, std = torchvision.pixel_values(weights.source)
    elif all(key in state for key in PIXELS):
        mean, std = (state[key].double().mean((1, 2)).tolist() for key in PIXELS)
    else:
        return []
    return [
        f"trained at a pixel mean of {_numbers(mean)} and deviation of {_numbers(std)}, which "
        "model.pixel_mean and model.pixel_std give here"
    ]


def _numbers(values: list[float]) -> str:
    return f"[{', '.join(f'{value:.2f}' for value in values)}]"


def _shorten(items: list[str]) -> str:
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return ", ".join(items[:MAX_LISTED]) + more
