"""Classifiers from configs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from resdet.backbones.heads import PoolHead
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import diff_configs, override_config
from resdet.errors import UserError
from resdet.factory.backbone import make_backbone
from resdet.factory.freezing import freeze_named
from resdet.factory.network import build_stored, check_kind, stored_config
from resdet.interop.loaded import LoadedWeights, are_numbered
from resdet.interop.weights import read_weights
from resdet.models.classifier import Classifier

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
    model = Classifier(
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
    return freeze_named(model, section.freeze)


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


def build_trained_classifier(weights: LoadedWeights, overrides: Sequence[str] = ()) -> Classifier:
    """The classifier that a checkpoint holds, on the CPU, in evaluation mode.

    `overrides` change its own config; data.classes names the classes of a file of another toolkit
    that has no names. Raises UserError if the file is not a checkpoint of a run, or if the
    overrides change the network.
    """
    check_kind(weights, "classifier")
    config = stored_config(weights, ClassificationConfig)
    if overrides:
        changed = override_config(config, overrides, weights.source)
        keys = [key for key, _, _ in diff_configs(config, changed)]
        if pixels := [key for key in keys if key.startswith("model.pixel_")]:
            raise UserError(f"{pixels[0]}: it comes with the weights of {weights.source}")
        config = changed
        if weights.is_imported and are_numbered(weights.class_names) and config.data.classes:
            weights = replace(weights, class_names=_named(weights, config.data.classes))
    return build_stored(weights, config, _build)


def _named(weights: LoadedWeights, names: Sequence[str]) -> list[str]:
    """The user's names of the classes; UserError for another number of them."""
    count = len(weights.class_names)
    if len(names) != count:
        raise UserError(
            f"{weights.source}: data.classes names {len(names)} classes, and the file has {count} "
            "without names; name each of them, in the order of its labels"
        )
    return list(names)


def _build(config: ClassificationConfig, weights: LoadedWeights) -> Classifier:
    mean = weights.state.get("pixel_mean")
    return build_classifier(config, class_names=weights.class_names, pixel_mean=mean)


def load_classifier(
    spec: str, overrides: Sequence[str] = (), *, option: str | None = None
) -> Classifier:
    """The classifier of a run folder, a checkpoint or a published name, on the CPU.

    `option` is that of a command which takes classifiers beside or in place of other networks.
    """
    weights = read_weights(spec)
    if option is not None and weights.kind in ("detector", "localizer"):
        raise UserError(f"{option} {spec}: is a {weights.kind}; give the run of a classifier there")
    return build_trained_classifier(weights, overrides)
