"""The network that `model.weights` names, for configs that leave it open."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.loading import AnyConfig, config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.interop.described import describe_network
from resdet.interop.fitting import refuse_classifier
from resdet.interop.loaded import LoadedWeights
from resdet.interop.weights import read_weights

logger = logging.getLogger("resdet")

OWN_KEYS = ("num_classes", "weights", "class_map")
"""Of section `model`: what belongs to a run and its data, and not to a network."""


C = TypeVar("C", bound=AnyConfig)


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A config that names its network, and what was read to find that out."""

    config: C
    weights: LoadedWeights | None = None
    """The content of `model.weights`, where the network came from there: read once."""


def stored_config(weights: LoadedWeights, schema: type[C]) -> C:
    """The config that came with a model; UserError where it is of another task."""
    assert weights.config is not None, "asked for before"
    config = config_from_dict(weights.config, weights.source)
    if not isinstance(config, schema):
        raise UserError(
            f"{weights.source}: holds a {weights.kind} and a config for {config.task}; give "
            "another checkpoint"
        )
    return config


def resolve_config(config: AnyConfig) -> Resolved[Any]:
    """The config of either task with the network that its weights name, see `resolve_detector`."""
    return (
        resolve_classifier(config)
        if isinstance(config, ClassificationConfig)
        else resolve_detector(config)
    )


def resolve_detector(config: DetectionConfig) -> Resolved[DetectionConfig]:
    """The config with the detector that `model.weights` holds, where `model.backbone.name` is null.

    The whole section `model` of the weights' own config is taken, and how images are resized at
    test time (`data.test_resize.method`); the keys that this config sets, to whatever value, come
    on top: dicts merge, lists replace, and null clears.

    Raises UserError where nothing names a network.
    """
    if config.model.backbone.name is not None:
        return Resolved(config)
    spec = config.model.weights
    if spec is None:
        raise UserError(
            "model.backbone.name: null takes the network of model.weights, and that is null too; "
            "give model.weights=RUN, a published detector such as "
            "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x, or a name of "
            "resdet.list_backbones()"
        )
    refuse_classifier(spec)
    weights = read_weights(spec)
    if weights.kind != "detector":
        raise UserError(
            f"model.weights: {weights.source} holds a {weights.kind} and no detector; it belongs "
            "to model.backbone.weights, beside model.backbone.name"
        )
    theirs = weights.config or {}
    if not isinstance(theirs.get("model"), Mapping):
        raise UserError(
            f"model.weights: {weights.source} does not name its network; give "
            "model.backbone.name as well"
        )
    asked = config.model.model_dump(mode="json", exclude_unset=True)
    asked.get("backbone", {}).pop("name", None)
    model = {key: value for key, value in theirs["model"].items() if key not in OWN_KEYS}
    # the whole detector's weights are loaded, not those that its backbone once started from
    model["backbone"] = {**(model.get("backbone") or {}), "weights": None}
    values = config_to_dict(config)
    values["model"] = _merged(model, asked)
    method = ((theirs.get("data") or {}).get("test_resize") or {}).get("method")
    if method is not None and "method" not in config.data.test_resize.model_fields_set:
        values["data"]["test_resize"]["method"] = method
    resolved = config_from_dict(values, f"model.weights={spec}")
    assert isinstance(resolved, DetectionConfig), "a detection config stays one"
    logger.info("network of %s: %s", spec, describe_network(resolved))
    return Resolved(resolved, weights)


def resolve_classifier(config: ClassificationConfig) -> Resolved[ClassificationConfig]:
    """The config with the network that `model.weights` names, where it leaves that open.

    From a run come the backbone's options, dropout and pixel values too; what the config sets
    besides comes on top of them.

    Raises UserError where nothing names a network.
    """
    if config.model.backbone.name is not None:
        return Resolved(config)
    spec = config.model.weights
    if spec is None:
        raise UserError(
            "model.backbone.name: null takes the network of model.weights, and that is null too; "
            "give model.weights=RUN or a name of resdet.list_backbones()"
        )
    weights = read_weights(spec)
    if weights.kind != "classifier" or weights.config is None:
        raise UserError(
            f"model.weights: {weights.source} does not name its network; give "
            "model.backbone.name as well"
        )
    model = config_to_dict(stored_config(weights, ClassificationConfig))["model"]
    for key in ("weights", "num_classes"):
        model.pop(key)
    model["backbone"] = {**model["backbone"], "weights": None}
    measured = weights.state.get("pixel_mean")
    if isinstance(model["pixel_mean"], str) and measured is not None and measured.ndim == 3:
        # the measured mean comes with the weights
        model["pixel_mean"] = [round(value, 4) for value in measured.double().mean((1, 2)).tolist()]
    values = config_to_dict(config)
    # what differs from the defaults was asked for, and comes on top of the checkpoint's
    asked = config.model.model_dump(mode="json", exclude_defaults=True)
    own = {key: value for key, value in asked.pop("backbone", {}).items() if key != "name"}
    backbone = {**model["backbone"], **own}
    backbone["options"] = {**model["backbone"]["options"], **own.get("options", {})}
    values["model"] = {**values["model"], **model, **asked, "backbone": backbone}
    resolved = config_from_dict(values, f"model.weights={spec}")
    assert isinstance(resolved, ClassificationConfig)
    logger.info("network of %s: %s", spec, resolved.model.backbone.name)
    return Resolved(resolved, weights)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`: dicts merge, everything else replaces."""
    values = dict(under)
    for key, value in over.items():
        old = values.get(key)
        nested = isinstance(value, Mapping) and isinstance(old, Mapping)
        values[key] = _merged(old, value) if nested else value  # type: ignore[arg-type]
    return values
