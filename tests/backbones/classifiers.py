"""Whole classifiers of a backbone and its head, for the tests of the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from resdet.backbones import build_backbone
from resdet.backbones.heads import PoolHead
from resdet.models.classifier import Classifier


def build(
    name: str, options: Mapping[str, Any] | None = None, num_classes: int = 1000
) -> Classifier:
    """With random weights, ImageNet's mean and deviation, and the network's own head."""
    backbone = build_backbone(name, dict(options or {}))
    return Classifier(
        backbone,
        head_of(backbone, num_classes),
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        channel_order="rgb",
        channels_last=False,
        test_resize=256,
        test_size=224,
        class_names=[str(label) for label in range(num_classes)],
    )


def head_of(backbone: nn.Module, num_classes: int) -> nn.Module:
    if hasattr(backbone, "make_head"):
        return backbone.make_head(num_classes, None)
    return PoolHead(backbone.channels["c5"], num_classes)


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model
