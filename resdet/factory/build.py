"""A model from a config file of any task."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from resdet.backbones.resnet import ResNet
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import override_config
from resdet.config.localization import LocalizationConfig
from resdet.factory.classes import classification_classes, detection_classes
from resdet.factory.classification import build_classifier
from resdet.factory.detection import build_model
from resdet.factory.imports import check_arguments, load_named_config
from resdet.factory.localization import build_localizer
from resdet.factory.network import Resolved, resolve_config
from resdet.interop.fitting import (
    load_backbone,
    load_classifier_weights,
    load_detector,
    load_localizer,
)
from resdet.interop.loaded import Reading
from resdet.interop.vgg_layers import check_layers, vgg_layers
from resdet.interop.weights import is_published, read_weights
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN
from resdet.models.region_classifier import AnyLocalizer

Model = RCNN | Classifier | AnyLocalizer


def build(
    config: str | Path, weights: str | None = None, overrides: Sequence[str] | None = None
) -> Model:
    """A detector, a classifier or a localizer from a config file, on the CPU, in evaluation mode.

    `weights` None loads and downloads nothing; "config" loads those that the config names; any
    other value is used as `model.weights`. Class names come from `data.classes`, else from the
    training data. Without the data they are those of COCO, ImageNet or CIFAR-10 if the config
    names one of these, else `model.num_classes` numbered ones.
    Raises UserError for what the user can fix.
    """
    overrides = check_arguments(config, overrides)
    named = load_named_config(config, overrides)
    if weights not in (None, "config"):
        named = override_config(named, [f"model.weights={weights}"], "build(weights=…)")
    start = resolve_config(named)
    model: Model
    if isinstance(start.config, ClassificationConfig):
        names = classification_classes(start.config)
        model = build_classifier(start.config, class_names=names)
    elif isinstance(start.config, LocalizationConfig):
        names, ids = detection_classes(start.config)
        model = build_localizer(start.config, class_names=names, category_ids=ids)
    else:
        names, ids = detection_classes(start.config)
        model = build_model(start.config, class_names=names, category_ids=ids)
    if weights is not None:
        load_start_weights(model, start)
        model.is_imported = is_published(start.config.model.weights or "")
    return model.eval()


def load_start_weights(model: Model, start: Resolved[Any]) -> list[str]:
    """Load `model.weights`, or else `model.backbone.weights`; returns log lines."""
    section = start.config.model
    plain = section.model_dump(mode="json")
    if section.weights is not None:
        weights = start.weights or section.weights
        if isinstance(model, Classifier):
            return load_classifier_weights(model, weights, Reading.of(plain))
        if isinstance(model, AnyLocalizer):
            return load_localizer(model, weights, Reading.of(plain))
        return load_detector(model, weights, plain)
    if section.backbone.weights is None:
        return []
    if isinstance(model, RCNN) and start.config.model.roi.box_head.type == "vgg":
        return _load_vgg(model, section.backbone.weights, Reading.of(plain))
    res5 = model.roi_heads.res5 if isinstance(model, RCNN) else None
    joined: AbstractContextManager[None] = nullcontext()
    if isinstance(model.backbone, ResNet) and isinstance(res5, nn.Sequential):
        joined = model.backbone.joined(res5)
    with joined:
        return load_backbone(model.backbone, section.backbone.weights, Reading.of(plain))


def _load_vgg(model: RCNN, spec: str, reading: Reading) -> list[str]:
    """The backbone of a VGG, and its classifier's first two layers for every box stage."""
    weights = read_weights(spec)
    layers, names = vgg_layers(weights)
    heads = model.roi_heads.box_heads
    for head in heads:
        check_layers(head.state_dict(), layers, names, weights.source)
    lines = load_backbone(model.backbone, weights, reading, elsewhere=names)
    for head in heads:
        head.load_state_dict(layers, strict=False)
    return [*lines, f"fc6 and fc7 of the box head: {', '.join(names)}"]
