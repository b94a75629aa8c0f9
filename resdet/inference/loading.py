"""Trained models from disk or by a published name."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resdet.errors import UserError
from resdet.factory import build_trained, build_trained_classifier, build_trained_localizer
from resdet.factory.imports import import_modules
from resdet.factory.network import evaluated_by
from resdet.files.exported import is_exported
from resdet.hardware import choose_device
from resdet.inference.combined import CombinedDetector, combine
from resdet.inference.exported import AnyDetector, ExportedDetector, load_exported, without_config
from resdet.inference.flips import warn_of_test_flip
from resdet.interop.weights import read_weights
from resdet.models.classifier import Classifier
from resdet.models.predict import precision_of
from resdet.models.rcnn import RCNN
from resdet.models.region_classifier import AnyLocalizer

log = logging.getLogger("resdet")

Model = RCNN | CombinedDetector | ExportedDetector | Classifier | AnyLocalizer


def load(
    path: str | Path | Sequence[str | Path],
    source: str | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    *,
    test: Mapping[str, Any] | None = None,
    imports: Sequence[str] | None = None,
) -> Model:
    """A trained detector, classifier or localizer in evaluation mode, with its config and class
    names.

    `path` is a run folder (best.pt, else last.pt), a checkpoint, a published name such as
    torchvision:resnet50.IMAGENET1K_V2, an exported model (.onnx, .xml or .pt2, with the files that
    were written beside it), or a file of another toolkit. For such a file, `source`
    names the toolkit, as ORIGIN or ORIGIN:NAME (detectron2, torchvision, timm, cifar), if its
    tensors do not identify it. Averaged (EMA) weights are used if the checkpoint has them. `device`
    None is the GPU if there is one. `imports` are modules of your own that the model needs, such as
    the one with its backbone: a checkpoint never imports code by itself.

    A list of detectors is an ensemble: each classifies the proposals of all, and their scores and
    boxes are averaged; it uses the thresholds and category ids of the first. `test` sets keys of
    the config's section `test`, for every detector: {"flip": True, "scales": [640, 800, 960]}, or
    for a localizer its own. Ensembles and detectors with such a key come as a `CombinedDetector`,
    which predicts alike.

    `precision` is auto, fp32, bf16 or fp16, and applies to every `predict` that does not choose
    another; None is train.precision of a run, which is auto by default. auto is bf16 if the
    processor supports it, and fp32 for imported weights.
    Raises UserError for a file that is not one of these, for a wrong `source`, and for detectors
    that do not fit together.
    """
    import_modules(imports)
    paths = _paths(path)
    if test is not None and not isinstance(test, Mapping):
        raise UserError(f"test is {test!r:.60}; give a dict of its keys, such as {{'flip': True}}")
    overrides = [
        f"test.{key}={json.dumps(value, default=partial(_plain, key))}"
        for key, value in (test or {}).items()
    ]
    model = load_models(paths, source, overrides)
    model.place(choose_device(None if device is None else str(device), 0))
    model.precision = precision
    chosen = precision_of(model)
    name = " + ".join(map(str, paths))
    log.info("%s: precision %s (%s)", name, chosen.name, chosen.reason)
    return model


def _paths(given: object) -> list[str | Path]:
    """The models that `load` was given, as a list; UserError for anything else."""
    is_list = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    paths: list[Any] = list(given) if is_list else [given]  # type: ignore[call-overload]
    for path in paths:
        if not isinstance(path, str | Path) or not str(path).strip():
            raise UserError(
                f"{path!r:.60} is not a model; give a run folder, a checkpoint or a published "
                "name, or a list of them"
            )
    return paths


USED_KEYS = (
    *("model", "test", "imports", "train.precision", "train.channels_last"),
    *("data.test_resize", "data.test_size", "data.tile"),
)
"""Keys and sections of a config that change a trained model's predictions."""


def _check_overrides(overrides: Sequence[str]) -> None:
    """UserError for an override that belongs to training or evaluation."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not any(key == used or key.startswith(f"{used}.") for used in USED_KEYS):
            raise UserError(
                f"override {override}: predictions do not depend on {key}; keys that they depend "
                f"on start with {', '.join(USED_KEYS)}"
            )


def _plain(key: str, value: object) -> object:
    """A value of numpy or torch as plain numbers; UserError for what no config holds."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    raise UserError(
        f"test.{key}: {value!r:.60} is not a value that a config has; give true or false, a "
        "number, a text or a list"
    )


def load_models(
    paths: Sequence[str | Path], source: str | None = None, overrides: Sequence[str] = ()
) -> Model:
    """As `load`, on the CPU; `overrides` change the config of a detector or localizer."""
    if not paths:
        raise UserError("no model is given; give a run folder, a checkpoint or a published name")
    if any(map(is_exported, paths)):
        exported = load_exported(_only(paths, source), overrides)
        _check_overrides(overrides)
        return exported
    detectors = []
    for path in paths:
        weights = read_weights(str(path), source)
        if weights.kind in ("classifier", "localizer"):
            if len(paths) > 1:
                raise UserError(
                    f"{path}: is a {weights.kind}, and an ensemble is made of detectors; evaluate "
                    f"several with {evaluated_by(weights.kind)} --ensemble"
                )
            if weights.kind == "localizer":
                localizer = build_trained_localizer(weights, overrides)
                _check_overrides(overrides)
                warn_of_test_flip(localizer.config, localizer.class_names)
                return localizer
            if overrides:
                raise UserError(
                    f"{path}: is a classifier, and {overrides[0].partition('=')[0]} changes the "
                    "config of detectors and localizers; leave it out"
                )
            return build_trained_classifier(weights)
        detectors.append(build_trained(weights, overrides))
        _check_overrides(overrides)
    warn_of_test_flip(detectors[0].config, detectors[0].class_names)
    return combine(detectors, [str(path) for path in paths])


def load_members(
    paths: Sequence[str | Path], overrides: Sequence[str] = ()
) -> tuple[list[AnyDetector], list[str]]:
    """The detectors of runs and checkpoints, or one exported, on the CPU, and how messages call
    them. `overrides` may change anything that does not contradict their networks."""
    if any(map(is_exported, paths)):
        model = load_exported(_only(paths), overrides)
        if isinstance(model, Classifier):
            raise UserError(
                f"{paths[0]}: is an exported classifier, not a detector; evaluate it with "
                f"{evaluated_by('classifier')}"
            )
        if model.config is None:
            raise without_config(model.path)
        return [model], [str(model.path)]
    loaded = [read_weights(str(path)) for path in paths]
    return [build_trained(weights, overrides) for weights in loaded], [
        weights.source for weights in loaded
    ]


def join_members(models: Sequence[AnyDetector], names: Sequence[str]) -> AnyDetector:
    """The detector to test with, of those of `load_members`."""
    networks = [model for model in models if isinstance(model, RCNN)]
    if not networks:
        return models[0]
    warn_of_test_flip(networks[0].config, networks[0].class_names)
    return combine(networks, names)


def _only(paths: Sequence[str | Path], source: str | None = None) -> str | Path:
    """The exported model among `paths`; UserError for what only runs and checkpoints can do."""
    path = next(path for path in paths if is_exported(path))
    if len(paths) > 1:
        raise UserError(
            f"{path}: is an exported model, which predicts alone; give the runs or checkpoints for "
            "an ensemble"
        )
    if source is not None:
        raise UserError(f"{path} is an exported model of resdet: leave out source={source!r}")
    return path
