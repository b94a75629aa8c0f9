"""The network that `model.weights` names, for configs that leave it open."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.loading import AnyConfig, config_from_dict, config_to_dict
from resdet.config.localization import LocalizationConfig
from resdet.errors import UserError, command_line
from resdet.factory.imports import naming_imports
from resdet.interop.architecture import architecture_of, described, remedy
from resdet.interop.convert import describe_network
from resdet.interop.fitting import load_exactly, refuse_classifier
from resdet.interop.loaded import LoadedWeights, value_at
from resdet.interop.weights import read_weights
from resdet.models.predict import Predictor

logger = logging.getLogger("resdet")

OWN_KEYS = ("num_classes", "weights", "class_map", "freeze")
"""Of section `model`: what belongs to a run and its data, and not to a network."""
OWN_OF_HEAD = ("class_weights", "background_weight")
"""The same of section `model.roi.box_head`."""
EXAMPLES = {
    "detector": "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x",
    "classifier": "torchvision:resnet50.IMAGENET1K_V2",
    "localizer": None,
}
"""Published models per kind; nobody publishes localizers."""
KINDS: dict[type[AnyConfig], str] = {
    DetectionConfig: "detector",
    ClassificationConfig: "classifier",
    LocalizationConfig: "localizer",
}
EVALUATED_BY = {
    "detector": "eval-coco",
    "classifier": "eval-cls",
    "localizer": "eval-imagenet --task loc",
}
"""Commands by kind."""
C = TypeVar("C", bound=AnyConfig)
M = TypeVar("M", bound=Predictor[Any])


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


def check_kind(weights: LoadedWeights, kind: str) -> None:
    """UserError unless the weights are a run's checkpoint of a detector, classifier or localizer,
    as `kind` says."""
    if weights.kind != kind and weights.kind in EVALUATED_BY:
        raise UserError(
            f"{weights.source} is a {weights.kind}, not a {kind}; evaluate it with "
            f"{evaluated_by(weights.kind)}"
        )
    if weights.kind == "backbone" and weights.state and architecture_of(weights.state) is None:
        raise UserError(
            f"{weights.source} holds {described(weights)}; give a run folder, its best.pt, or a "
            "file of Detectron2, torchvision or timm"
        )
    if weights.kind == "backbone":
        raise UserError(
            f"{weights.source} holds {described(weights)}, not a {kind} of resdet; "
            + remedy(weights, "set it as model.backbone.weights of a config to train")
        )
    if weights.config is None or not weights.class_names:
        source = ", or for a file of another toolkit its source, such as torchvision:resnet50"
        raise UserError(
            f"{weights.source} holds weights without a config and class names: it is not a "
            "checkpoint of a resdet run; give the run folder or its best.pt"
            + (source if kind == "classifier" else "")
        )


def evaluated_by(kind: str) -> str:
    """How the user evaluates a detector, classifier or localizer, for messages."""
    command, *options = EVALUATED_BY[kind].split()
    return " ".join([command_line(command), *options])


def build_stored(weights: LoadedWeights, config: C, build: Callable[[C, LoadedWeights], M]) -> M:
    """The network that `build` makes of `config`, with all of the weights: on the CPU, in
    evaluation mode. UserError where they do not fit."""
    with naming_imports(config):
        model = build(config, weights)
    load_exactly(model, weights)
    model.is_imported = weights.is_imported
    if weights.seen is not None:
        model.seen = weights.seen
    return model.eval()


def resolve_config(config: C) -> Resolved[C]:
    """The config with the network that `model.weights` holds, where `model.backbone.name` is null.

    The whole section `model` of the weights' own config is taken, with the names (no more) of its
    `imports`, and for a detector how images are resized at test time (`data.test_resize.method`);
    the keys that this config sets, to whatever value, come on top: dicts merge, lists replace, and
    null clears.

    Raises UserError where nothing names a network.
    """
    if config.model.backbone.name is not None:
        return Resolved(config)
    kind = next(kind for schema, kind in KINDS.items() if isinstance(config, schema))
    spec = config.model.weights
    if spec is None:
        example = EXAMPLES[kind]
        published = "" if example is None else f", a published {kind} such as {example}"
        raise UserError(
            "model.backbone.name: null takes the network of model.weights, and that is null too; "
            f"give model.weights=RUN{published}, or a name of resdet.list_backbones()"
        )
    if kind == "detector":
        refuse_classifier(spec)
    weights = read_weights(spec)
    if weights.kind != kind:
        raise UserError(
            f"model.weights: {weights.source} holds {described(weights)}, not a {kind} of resdet; "
            + remedy(weights, "it belongs to model.backbone.weights, beside model.backbone.name")
        )
    theirs = weights.config or {}
    if not isinstance(theirs.get("model"), Mapping):
        raise UserError(
            f"model.weights: {weights.source} does not name its network; give "
            "model.backbone.name as well"
        )
    model = _network_of(theirs["model"])
    mean = weights.state.get("pixel_mean")
    if isinstance(model.get("pixel_mean"), str) and mean is not None and mean.ndim == 3:
        # a measured mean comes with the weights
        model["pixel_mean"] = [round(value, 4) for value in mean.double().mean((1, 2)).tolist()]
    asked = config.model.model_dump(mode="json", exclude_unset=True)
    asked.get("backbone", {}).pop("name", None)
    values = config_to_dict(config)
    values["model"] = _merged(model, asked)
    imports = theirs.get("imports")
    if isinstance(imports, list):
        values["imports"] += [name for name in imports if name not in config.imports]
    if isinstance(config, DetectionConfig):
        method = value_at(theirs, "data.test_resize.method")
        if method is not None and "method" not in config.data.test_resize.model_fields_set:
            values["data"]["test_resize"]["method"] = method
    resolved = config_from_dict(values, f"model.weights={spec}")
    assert isinstance(resolved, type(config)), "a config keeps its task"
    logger.info("network of %s: %s", spec, _describe(resolved))
    return Resolved(resolved, weights)


def _describe(config: AnyConfig) -> str:
    if isinstance(config, DetectionConfig):
        return describe_network(config)
    return str(config.model.backbone.name)


def _network_of(section: dict[str, Any]) -> dict[str, Any]:
    """A section `model` without what belongs to its run and data."""
    model = {key: value for key, value in section.items() if key not in OWN_KEYS}
    roi = model.get("roi")
    if isinstance(roi, dict) and isinstance(head := roi.get("box_head"), dict):
        kept = {key: value for key, value in head.items() if key not in OWN_OF_HEAD}
        model["roi"] = {**roi, "box_head": kept}
    # the whole network's weights are loaded, not those that its backbone once started from
    model["backbone"] = {**(model.get("backbone") or {}), "weights": None}
    return model


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`: dicts merge, everything else replaces."""
    values = dict(under)
    for key, value in over.items():
        old = values.get(key)
        nested = isinstance(value, Mapping) and isinstance(old, Mapping)
        values[key] = _merged(old, value) if nested else value  # type: ignore[arg-type]
    return values
