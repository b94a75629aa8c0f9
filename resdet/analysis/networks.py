"""The network of a registry name or a config, counted without weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resdet.analysis.counts import NetworkCount, count_network
from resdet.backbones import build_backbone, list_backbones
from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.find import find_config, holds_run, own_path
from resdet.config.loading import (
    AnyConfig,
    ConfigError,
    config_from_dict,
    load_any_config,
    override_config,
)
from resdet.config.localization import LocalizationConfig
from resdet.errors import UserError, did_you_mean
from resdet.factory.backbone import make_backbone
from resdet.factory.classification import build_classifier
from resdet.factory.imports import load_named_config, naming_imports
from resdet.factory.network import resolve_config
from resdet.interop.weights import read_weights

SMALL_STRIDE = 8
"""A network whose last map has at most this stride is made for CIFAR's 32×32 pixels."""
SMALL = {"size": 32, "num_classes": 10}
LARGE = {"size": 224, "num_classes": 1000}
FORMAT_CLASSES = {"cifar10": 10, "cifar100": 100}
PADDED_TO = 32
"""A detector pads its images to a multiple of this many pixels."""


@dataclass
class Network:
    """A network and its count."""

    name: str
    num_classes: int | None
    """Of its last layer; None for a detector's backbone."""
    count: NetworkCount


def count_named(
    name: str, overrides: Sequence[str] = (), image_size: tuple[int, int] | None = None
) -> Network:
    """Count a registry name, a config file, or the network of a run folder or checkpoint, with
    `key=value` overrides, for one image.

    A registry name has a head of 1000 classes and 224×224 pixels, CIFAR's networks one of 10 and
    32×32; a classification config its own classes (1000 where they come from the data) and
    `data.test_size`. Of a detection config the backbone is counted, for an image of 4:3 whose short
    side is `data.test_resize.short_edge`; of a localization config too, for a centre crop of
    `data.test_size`. `image_size` (height, width) takes the place of these.
    Raises UserError for a name that is neither, and for a size that the network does not accept.
    """
    if name in list_backbones():
        own = override_config(_config_of(name, {}), overrides, name)
        return _count_classifier(name, own, image_size)
    if holds_run(name):
        shown, config = name, _config_of_run(name, overrides)
    else:
        shown, config = Path(name).stem, _named_config(name, overrides)
    with naming_imports(config):
        if isinstance(config, ClassificationConfig):
            return _count_classifier(shown, config, image_size)
        return _count_backbone(shown, config, image_size)


def _named_config(name: str, overrides: Sequence[str]) -> AnyConfig:
    try:
        find_config(name)
    except ConfigError as error:
        hint = did_you_mean(name, list_backbones(), "see resdet.list_backbones() for other names")
        raise UserError(f"{error}; as a backbone, {hint}") from None
    return load_named_config(name, overrides)


def _config_of_run(run: str, overrides: Sequence[str]) -> AnyConfig:
    """The config of a run's checkpoint with as many classes as that has; before there is one, its
    config.yaml."""
    folder = own_path(run)
    if folder.is_dir() and not any((folder / name).is_file() for name in ("best.pt", "last.pt")):
        return load_any_config(folder / "config.yaml", overrides)
    weights = read_weights(run)
    if weights.config is None:
        raise UserError(
            f"{weights.source}: holds weights without a config, which names the network; give a "
            "run, a config or the name of a backbone"
        )
    known = [f"model.num_classes={len(weights.class_names)}"] if weights.class_names else []
    config = config_from_dict(weights.config, weights.source)
    return override_config(config, [*known, *overrides], weights.source)


def count_with_head(name: str, options: dict[str, Any]) -> Network:
    """Count a registry name with keyword arguments, with the head and size as in `count_named`."""
    return _count_classifier(name, _config_of(name, options), None)


def _config_of(name: str, options: dict[str, Any]) -> ClassificationConfig:
    """The config of a network alone; the schema requires a length, but nothing is trained."""
    with torch.device("meta"):
        backbone_module: Any = build_backbone(name, options)
    kind = SMALL if max(backbone_module.strides.values()) <= SMALL_STRIDE else LARGE
    backbone = {"name": name, "options": options}
    return ClassificationConfig.model_validate(
        {
            "model": {"backbone": backbone, "num_classes": kind["num_classes"]},
            "data": {"test_size": kind["size"]},
            "train": {"epochs": 1},
        }
    )


def _count_classifier(
    name: str, config: ClassificationConfig, image_size: tuple[int, int] | None
) -> Network:
    config = resolve_config(config).config
    num_classes = (
        config.model.num_classes
        or len(config.data.classes or ())
        or FORMAT_CLASSES.get(config.data.format, LARGE["num_classes"])
    )
    with torch.device("meta"):
        model = build_classifier(config, class_names=[f"class {k}" for k in range(num_classes)])
    side = config.data.test_size
    return Network(name, num_classes, _count(name, model, image_size or (side, side)))


def _count_backbone(
    name: str,
    config: DetectionConfig | LocalizationConfig,
    image_size: tuple[int, int] | None,
) -> Network:
    config = resolve_config(config).config
    with torch.device("meta"):
        backbone = make_backbone(config.model.backbone)
    if isinstance(config, LocalizationConfig):
        size = image_size or (config.data.test_size, config.data.test_size)
    else:
        short = config.data.test_resize.short_edge
        long = min(config.data.test_resize.max_size, short * 4 // 3)
        size = image_size or (_padded(short), _padded(long))
    return Network(f"{name}, backbone", None, _count(name, backbone, size))


def _padded(side: int) -> int:
    return -(-side // PADDED_TO) * PADDED_TO


def _count(name: str, model: nn.Module, image_size: tuple[int, int]) -> NetworkCount:
    try:
        return count_network(model, image_size)
    except RuntimeError as error:
        height, width = image_size
        raise UserError(
            f"{name} does not accept images of {height}×{width} pixels ({error}); choose another "
            "--image-size"
        ) from error
