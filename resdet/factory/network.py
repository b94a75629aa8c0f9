"""The network that `model.weights` names, for configs that leave it open."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.loading import AnyConfig, config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.factory.classification import resolve_classifier
from resdet.interop.described import describe_network
from resdet.interop.fitting import refuse_classifier
from resdet.interop.weights import read_weights

logger = logging.getLogger("resdet")

OWN_KEYS = ("num_classes", "weights", "class_map")
"""Of section `model`: what belongs to a run and its data, and not to a network."""


def resolve_config(config: AnyConfig) -> AnyConfig:
    """The config of either task with the network that its weights name, see `resolve_detector`."""
    return (
        resolve_classifier(config)
        if isinstance(config, ClassificationConfig)
        else resolve_detector(config)
    )


def resolve_detector(config: DetectionConfig) -> DetectionConfig:
    """The config with the detector that `model.weights` holds, where `model.backbone.name` is null.

    The whole section `model` of the weights' own config is taken, and how images are resized at
    test time (`data.test_resize.method`); the keys that this config sets, to whatever value, come
    on top: dicts merge, lists replace, and null clears. A config that went through
    `override_config` sets every key, so this has to come before.

    Raises UserError where nothing names a network.
    """
    if config.model.backbone.name is not None:
        return config
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
            f"model.weights: {weights.source} does not say which network it is; give "
            "model.backbone.name as well"
        )
    asked = config.model.model_dump(mode="json", exclude_unset=True)
    asked.get("backbone", {}).pop("name", None)
    model = {key: value for key, value in theirs["model"].items() if key not in OWN_KEYS}
    # the whole detector's weights are loaded, not those that its backbone once began with
    model["backbone"] = {**(model.get("backbone") or {}), "weights": None}
    values = config_to_dict(config)
    values["model"] = _merged(model, asked)
    method = ((theirs.get("data") or {}).get("test_resize") or {}).get("method")
    if method is not None and "method" not in config.data.test_resize.model_fields_set:
        values["data"]["test_resize"]["method"] = method
    found = config_from_dict(values, f"model.weights={spec}")
    assert isinstance(found, DetectionConfig), "a detection config stays one"
    logger.info("network of %s: %s", spec, describe_network(found))
    return found


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`: dicts merge, everything else replaces."""
    values = dict(under)
    for key, value in over.items():
        old = values.get(key)
        nested = isinstance(value, Mapping) and isinstance(old, Mapping)
        values[key] = _merged(old, value) if nested else value  # type: ignore[arg-type]
    return values
