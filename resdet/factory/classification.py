"""Classifiers from configs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resdet.backbones.heads import PoolHead
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import (
    config_from_dict,
    config_to_dict,
    diff_configs,
    override_config,
)
from resdet.errors import UserError
from resdet.factory.backbone import make_backbone
from resdet.factory.classification_data import build_classification_train_data
from resdet.interop.fitting import load_backbone, load_classifier_weights, load_exactly
from resdet.interop.loaded import LoadedWeights
from resdet.interop.reading import Reading
from resdet.interop.weights import is_published, read_weights
from resdet.models.classifier import Classifier

logger = logging.getLogger("resdet")

TRAINED_SIDE = 224
"""The side of ImageNet's training images, whose map is the window of dense evaluation."""


def build_classifier(
    config: ClassificationConfig, *, class_names: Sequence[str], pixel_mean: Tensor | None = None
) -> Classifier:
    """A classifier with random weights for these classes; loads and downloads nothing.

    `pixel_mean` is the measured mean, (3,) or (3, S, S), where the config asks for one; without it
    the mean is 0 until weights are loaded. Raises UserError where `model.num_classes` contradicts
    the classes.
    """
    section = config.model
    if section.num_classes not in (None, len(class_names)):
        raise UserError(
            f"model.num_classes: {section.num_classes}, but the data has {len(class_names)} "
            f"classes ({', '.join(list(class_names)[:5])}"
            f"{', …' if len(class_names) > 5 else ''}); leave it null to take them from the data"
        )
    backbone = make_backbone(section.backbone)
    mean: Any = section.pixel_mean
    if isinstance(mean, str):
        side = config.data.size if mean == "per_pixel" else 1
        mean = torch.zeros(3, side, side) if pixel_mean is None else pixel_mean
    return Classifier(
        backbone,
        make_head(backbone, len(class_names), section.dropout),
        pixel_mean=mean,
        pixel_std=section.pixel_std,
        channel_order=section.channel_order,
        channels_last=config.train.channels_last,
        test_resize=config.data.test_resize,
        test_size=config.data.test_size,
        interpolation=config.data.interpolation,
        class_names=class_names,
        config=config,
    )


def make_head(backbone: nn.Module, num_classes: int, dropout: float | None) -> nn.Module:
    """The backbone's own head, else pooling and one linear layer on its last map."""
    own = getattr(backbone, "make_head", None)
    if own is not None:
        return own(num_classes, dropout)
    channels: dict[str, int] = backbone.channels  # type: ignore[assignment]
    strides: dict[str, int] = backbone.strides  # type: ignore[assignment]
    last = list(channels)[-1]
    return PoolHead(
        channels[last],
        num_classes,
        feature=last,
        window=TRAINED_SIDE // strides[last],
        dropout=dropout or 0.0,
    )


def load_start_classifier(model: Classifier, config: ClassificationConfig) -> list[str]:
    """Load `model.weights`, or else `model.backbone.weights`; returns a line for the log each."""
    reading = Reading.of(config.model.model_dump(mode="json"))
    section = config.model.backbone
    if config.model.weights is not None:
        return load_classifier_weights(model, config.model.weights, reading)
    if section.weights is not None:
        assert section.weights is not None
        return load_backbone(model.backbone, section.weights, reading)
    return []


def resolve_classifier(config: ClassificationConfig) -> ClassificationConfig:
    """The config with the network that `model.weights` names, where it leaves that open.

    From a run come the backbone's options, dropout and pixel values too; what the config sets
    besides comes on top of them.

    Raises UserError where nothing names a network.
    """
    if config.model.backbone.name is not None:
        return config
    spec = config.model.weights
    if spec is None:
        raise UserError(
            "model.backbone.name: null takes the network of model.weights, and that is null too; "
            "give model.weights=RUN or a name of resdet.list_backbones()"
        )
    weights = read_weights(spec)
    if weights.kind != "classifier" or weights.config is None:
        raise UserError(
            f"model.weights: {weights.source} does not say which network it is; give "
            "model.backbone.name as well"
        )
    model = config_to_dict(_own_config(weights))["model"]
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
    found = config_from_dict(values, f"model.weights={spec}")
    assert isinstance(found, ClassificationConfig)
    logger.info("network of %s: %s", spec, found.model.backbone.name)
    return found


def build_from_config(config: ClassificationConfig, weights: str | None) -> Classifier:
    """See `resdet.build`."""
    if weights not in (None, "config"):
        config = override_config(config, [f"model.weights={weights}"], "build(weights=…)")
    config = resolve_classifier(config)
    model = build_classifier(config, class_names=_class_names(config))
    if weights is not None:
        load_start_classifier(model, config)
        model.is_imported = is_published(config.model.weights or "")
    return model.eval()


def _class_names(config: ClassificationConfig) -> list[str]:
    """Class names without opening an image."""
    data, count = config.data, config.model.num_classes
    if data.classes is not None:
        return data.classes
    if count is None:
        given = data.train.root or data.root
        if given is not None and Path(given).is_dir():
            return list(build_classification_train_data(config).class_names)
        raise UserError(
            "model.num_classes: null means from the data, but there is no data.train.root; give "
            "model.num_classes, data.classes or the folder"
        )
    return [f"class {number}" for number in range(1, count + 1)]


def build_trained_classifier(weights: LoadedWeights, overrides: Sequence[str] = ()) -> Classifier:
    """The classifier that a checkpoint holds, on the CPU, in evaluation mode.

    `overrides` go on top of its own config. Raises UserError where the file is no checkpoint of a
    run, or the overrides make another network of it.
    """
    if weights.kind == "detector":
        raise UserError(f"{weights.source} is a detector; evaluate it by tools/eval_coco.py")
    if weights.kind != "classifier" or weights.config is None or not weights.class_names:
        raise UserError(
            f"{weights.source} is no checkpoint of a classification run; give the run folder or "
            "its best.pt, or of a file from elsewhere its source, as in torchvision:resnet50"
        )
    config = _own_config(weights)
    if overrides:
        changed = override_config(config, overrides, weights.source)
        keys = [key for key, _, _ in diff_configs(config, changed)]
        if pixels := [key for key in keys if key.startswith("model.pixel_")]:
            raise UserError(f"{pixels[0]}: it comes with the weights of {weights.source}")
        config = changed
    mean = weights.state.get("pixel_mean")
    model = build_classifier(config, class_names=weights.class_names, pixel_mean=mean)
    load_exactly(model, weights)
    model.is_imported = weights.is_imported
    return model.eval()


def _own_config(weights: LoadedWeights) -> ClassificationConfig:
    """The config that came with a classifier; UserError where it is none of a classifier."""
    assert weights.config is not None, "asked for before"
    config = config_from_dict(weights.config, weights.source)
    if not isinstance(config, ClassificationConfig):
        raise UserError(f"{weights.source}: its config is of a detector, and its weights are not")
    return config


def load_classifier(spec: str, overrides: Sequence[str] = ()) -> Classifier:
    """The classifier of a run folder, a checkpoint or a published name, on the CPU."""
    return build_trained_classifier(read_weights(spec), overrides)
