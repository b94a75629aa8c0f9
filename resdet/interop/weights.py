"""Weights by one spec: a file, a run folder, or a published name like torchvision:NAME.WEIGHTS.

No code in a file is run: pickles are read as tensors, arrays, numbers, strings and containers.
"""

import importlib
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from resdet.config.find import holds_run, own_path
from resdet.errors import UserError, did_you_mean
from resdet.files import checkpoint
from resdet.files.exported import is_exported, needs_run
from resdet.files.scale import Seen
from resdet.files.tensor_files import read_tensor_file
from resdet.interop.architecture import with_last_layer
from resdet.interop.files import flat_state, named_tensors, read_state
from resdet.interop.loaded import LoadedWeights
from resdet.interop.wrappers import PIXELS, is_whole

logger = logging.getLogger("resdet")

# Toolkits, and the modules that know their networks; imported where they are needed.
ORIGINS = {
    "detectron2": ("detectron2.weights",),
    "torchvision": ("torchvision.detectors", "torchvision.classifiers"),
    "timm": ("timm",),
    "cifar": ("cifar",),
}
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
WeightKind = Literal["detector", "classifier", "localizer", "backbone"]


class Origin(Protocol):
    """What a module of `ORIGINS` provides."""

    PREFIX: str

    def check_name(self, name: str) -> object:
        """UserError with similar names if `name` is not published; downloads nothing."""

    def fetch(self, name: str) -> Path:
        """The local file of the published `name`, downloaded if it is not there yet."""

    def recognises(self, state: Mapping[str, Any]) -> bool:
        """Whether these are the tensor names of one of its networks."""

    def imported(self, values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
        """The weights under resdet's names with their config; UserError for other tensors."""


def read_weights(spec: str, source: str | None = None) -> LoadedWeights:
    """The weights named by `spec`: a file, a run folder (best.pt, else last.pt), or a published
    ORIGIN:NAME, which is downloaded once.

    `source`, for a file, is the toolkit that wrote it, and may name the network, as in
    torchvision:resnet50; without it the tensors' names identify both.
    Raises UserError for a spec that names nothing and for a file that cannot be read as weights.
    """
    if is_published(spec):
        if source is not None:
            raise UserError(f"source={source!r} is for files, but {spec} is a published name")
        origin, name = _origin(spec)
        path = origin.fetch(name)
        return origin.imported(flat_state(read_tensor_file(path), path), name, spec)
    path = checkpoint_path(spec)
    if path.name == "last.pt" and path.parent == own_path(spec):
        logger.info(f"{spec}: no validation gave a best.pt, so last.pt is used")
    values = read_tensor_file(path)
    if checkpoint.is_checkpoint(values):
        if source is not None:
            raise UserError(f"{path} is a checkpoint of resdet: leave out source={source!r}")
        return _from_checkpoint(values, path)
    network = read_state(values, path)
    state = with_last_layer(network.state, network.beside, str(path))
    if source is not None:
        return _import_as(source, state, path)
    for modules in ORIGINS.values():
        for module in map(_import, modules):
            if module.recognises(state):
                return module.imported(state, None, str(path))
    kind: WeightKind = "backbone"
    if is_whole(state):
        kind = "classifier" if PIXELS in state else "detector"
    return LoadedWeights(state, kind, None, str(path), prefix=network.prefix)


def is_published(spec: str) -> bool:
    """Whether `spec` is ORIGIN:NAME and no file or folder."""
    origin, colon, _ = spec.partition(":")
    return bool(colon) and origin in ORIGINS


def check_spec(spec: str) -> None:
    """UserError if `spec` names no published weights, file or run folder; reads and downloads
    nothing."""
    if is_published(spec):
        origin, name = _origin(spec)
        origin.check_name(name)
    else:
        checkpoint_path(spec)


def checkpoint_path(spec: str | Path) -> Path:
    """The file meant by a run folder (best.pt, else last.pt) or by a file; UserError otherwise."""
    path = own_path(spec)
    try:
        if path.is_file():
            if is_exported(path):
                raise UserError(needs_run(path))
            if path.suffix in CONFIG_SUFFIXES:
                run = f"the run folder {path.parent}" if holds_run(path.parent) else "a run folder"
                raise UserError(
                    f"{path} is a config or annotations and has no weights; give {run} or another "
                    "checkpoint"
                )
            return path
        if path.is_dir():
            for name in ("best.pt", "last.pt"):
                if (path / name).is_file():
                    return path / name
            raise UserError(
                f"{path} has neither best.pt nor last.pt: it is not a run folder, or has no "
                "checkpoint yet"
            )
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}") from error
    origin, colon, name = str(spec).partition(":")
    if colon and origin.isidentifier() and name:
        _refuse_origin(str(spec), origin)
    raise UserError(
        f"{spec}: no such file or folder; give a checkpoint, a run folder, or for a backbone "
        "a name like torchvision:resnet50.IMAGENET1K_V1"
    )


def _import(module: str) -> Origin:
    return importlib.import_module(f"resdet.interop.{module}")  # type: ignore[return-value]


def _origin(spec: str) -> tuple[Origin, str]:
    """The module for the published `spec`, and the name after its prefix."""
    origin, _, name = spec.partition(":")
    if origin == "torchvision":
        detectors: Any = _import("torchvision.detectors")
        # a mistyped detector gets similar names of detectors
        if "rcnn" in name or detectors.names_detector(name):
            return detectors, name
    return _import(ORIGINS[origin][-1]), name


def _import_as(source: str, state: dict[str, Tensor], path: Path) -> LoadedWeights:
    """The tensors of the file `path` as weights of `source`."""
    origin, _, name = source.partition(":")
    if origin not in ORIGINS:
        _refuse_origin(f"source={source!r}", origin)
    if name:
        return _origin(source)[0].imported(state, name, str(path))
    modules = [_import(module) for module in ORIGINS[origin]]
    # the last one reports what its toolkit's files hold
    module = next((module for module in modules if module.recognises(state)), modules[-1])
    return module.imported(state, None, str(path))


def _refuse_origin(given: str, origin: str) -> None:
    hint = did_you_mean(origin, ORIGINS, f"it reads {', '.join(ORIGINS)}", most=1)
    raise UserError(f"{given}: resdet does not read weights of {origin!r}; {hint}")


def _from_checkpoint(values: dict[str, Any], path: Path) -> LoadedWeights:
    """The content of a checkpoint; averaged weights take the place of the last ones."""
    checkpoint.check(values, path)
    state = named_tensors(values["model"], path)
    if values.get("ema"):
        state |= named_tensors(values["ema"], path)
    return LoadedWeights(
        state,
        values["kind"],
        values.get("config"),
        str(path),
        list(values.get("class_names") or []),
        list(values.get("category_ids") or []),
        is_imported=bool(values.get("is_imported", False)),
        seen=_seen(values.get("seen")),
    )


def _seen(values: Any) -> Seen | None:
    """The checkpoint's entry; None without a usable one."""
    try:
        seen = Seen(*map(float, values))
    except (TypeError, ValueError):
        return None
    return seen if math.isfinite(seen.scale) and seen.scale > 0 and seen.side >= 0 else None
