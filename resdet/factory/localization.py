"""Localizers from configs: one row in BUILDERS per `model.type`."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from resdet.backbones import Backbone
from resdet.config.loading import override_config
from resdet.config.localization import LocalizationConfig
from resdet.data.localization.transforms import LocalizationViews
from resdet.errors import UserError
from resdet.factory.backbone import detection_backbone, make_backbone
from resdet.factory.freezing import freeze_named
from resdet.factory.network import build_stored, check_kind, stored_config
from resdet.interop.loaded import LoadedWeights
from resdet.models.class_rpn import ClassRPN
from resdet.models.localizer import FEATURE, Localizer
from resdet.models.region_classifier import AnyLocalizer, RegionClassifier


def build_localizer(
    config: LocalizationConfig, *, class_names: Sequence[str], category_ids: Sequence[int]
) -> AnyLocalizer:
    """A localizer with random weights for these classes; loads and downloads nothing.

    Raises UserError where `model.num_classes` contradicts the classes.
    """
    section, count = config.model, len(class_names)
    if section.num_classes not in (None, count):
        raise UserError(
            f"model.num_classes: {section.num_classes}, but the data has {count} classes "
            f"({', '.join(list(class_names)[:5])}{', …' if count > 5 else ''}); "
            "leave it null to take them from the data"
        )
    model = BUILDERS[section.type](config, class_names, category_ids)
    return freeze_named(model, section.freeze)


def _class_rpn(
    config: LocalizationConfig, class_names: Sequence[str], category_ids: Sequence[int]
) -> Localizer:
    section, test = config.model, config.test
    backbone, features = detection_backbone(section.backbone)
    rpn = ClassRPN(
        features.channels[FEATURE],
        len(class_names),
        features.strides[FEATURE],
        **section.rpn.model_dump(),
    )
    return Localizer(
        backbone,
        rpn,
        views=make_views(config),
        **test.model_dump(exclude={"views", "scales", "flip", "num_proposals"}),
        pixel_mean=section.pixel_mean,
        pixel_std=section.pixel_std,
        channel_order=section.channel_order,
        channels_last=config.train.channels_last,
        class_names=class_names,
        category_ids=category_ids,
        config=config,
    )


def _region_classifier(
    config: LocalizationConfig, class_names: Sequence[str], category_ids: Sequence[int]
) -> RegionClassifier:
    section = config.model
    backbone = cast(Backbone, make_backbone(section.backbone))
    name = list(backbone.channels)[-1]
    sampling = {"foreground_iou", "positive_fraction", "rois_per_image", "num_proposals"}
    return RegionClassifier(
        cast(nn.Module, backbone),
        backbone.channels[name],
        feature=name,
        side=config.data.size,
        flip=config.test.flip,
        **section.rcnn.model_dump(exclude=sampling),
        pixel_mean=section.pixel_mean,
        pixel_std=section.pixel_std,
        channel_order=section.channel_order,
        channels_last=config.train.channels_last,
        class_names=class_names,
        category_ids=category_ids,
        config=config,
    )


BUILDERS: dict[str, Callable[[LocalizationConfig, Sequence[str], Sequence[int]], Any]] = {
    "rpn": _class_rpn,
    "rcnn": _region_classifier,
}
"""By `model.type`: a config, class names and category ids to a network with random weights."""


def make_views(config: LocalizationConfig) -> LocalizationViews:
    """How the config's test images are cut."""
    test, data = config.test, config.data
    return LocalizationViews(
        dense=test.views == "dense",
        resize=data.test_resize,
        size=data.test_size,
        scales=test.scales,
        flip=test.flip,
    )


def build_trained_localizer(weights: LoadedWeights, overrides: Sequence[str] = ()) -> AnyLocalizer:
    """The localizer that a checkpoint holds, on the CPU, in evaluation mode.

    `overrides` change its own config, such as test.views=dense. Raises UserError if the file is
    not a checkpoint of a localization run, or if the overrides change the network.
    """
    check_kind(weights, "localizer")
    config = stored_config(weights, LocalizationConfig)
    if overrides:
        config = override_config(config, overrides, weights.source)
    return build_stored(weights, config, _build)


def _build(config: LocalizationConfig, weights: LoadedWeights) -> AnyLocalizer:
    return build_localizer(
        config, class_names=weights.class_names, category_ids=weights.category_ids
    )
