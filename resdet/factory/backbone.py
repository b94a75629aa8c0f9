"""Backbones from the config's section, for detectors and classifiers."""

from typing import cast

from torch import nn

from resdet.backbones import Backbone, build_backbone
from resdet.backbones.norm import FrozenBatchNorm2d
from resdet.config.loading import AnyConfig
from resdet.config.model import BackboneConfig
from resdet.errors import UserError

OPTIONS = (
    "norm",
    "activation",
    "shortcut",
    "pad",
    "stride_in_1x1",
    "res5_dilation",
    "zero_gamma",
    "stochastic_depth",
    "activation_checkpointing",
)
"""Keys of the section that are keyword arguments of a backbone."""
NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
LEVELS = ("c2", "c3", "c4", "c5")
"""The maps that a detector's pyramid needs."""


def make_backbone(section: BackboneConfig) -> nn.Module:
    """The backbone with random weights, its first stages frozen where the config says so.

    Options left null take the backbone's own defaults.
    """
    assert section.name is not None, "resolve_config names it before a model is built"
    options = {name: getattr(section, name) for name in OPTIONS}
    given = {name: value for name, value in options.items() if value is not None}
    twice = [name for name in given if name in section.options]
    if twice:
        raise UserError(
            f"model.backbone.options: {', '.join(twice)} is given in model.backbone.{twice[0]} as "
            "well; give it there only"
        )
    backbone = build_backbone(section.name, {**given, **section.options})
    if section.norm_eps is not None:
        for module in backbone.modules():
            if isinstance(module, NORMS):
                module.eps = section.norm_eps
    if section.freeze_at:
        if not hasattr(backbone, "freeze_stages"):
            raise UserError(
                f"model.backbone.freeze_at: {section.name} has no freeze_stages(freeze_at)"
            )
        cast(Backbone, backbone).freeze_stages(section.freeze_at)
    return backbone


def check_frozen(config: AnyConfig, backbone: nn.Module) -> None:
    """UserError for what is frozen with random weights: batch norm then diverges at once."""
    section = config.model.backbone
    if config.model.weights is not None or section.weights is not None:
        return
    is_frozen = any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())
    if is_frozen or section.freeze_at:
        raise UserError(
            "model.backbone: frozen batch norm (norm frozen_bn, freeze_at or model.freeze) with "
            "random weights diverges at once; set model.backbone.weights or model.weights, or use "
            "norm bn or gn, freeze_at 0 and no model.freeze"
        )


def detection_backbone(section: BackboneConfig) -> tuple[nn.Module, Backbone]:
    """The backbone as the module it is and as what a detector asks of it.

    Raises UserError for a backbone that gives no feature maps by name, or not those of a pyramid.
    """
    backbone = make_backbone(section)
    contract = ("channels", "strides", "freeze_stages")
    missing = [name for name in contract if not hasattr(backbone, name)]
    if missing:
        raise UserError(
            f"model.backbone.name: {section.name} has no {', '.join(missing)}, which a detector "
            "needs of a backbone; resdet/backbones/__init__.py says what they are"
        )
    typed = cast(Backbone, backbone)
    absent = [level for level in LEVELS if level not in typed.strides]
    if absent:
        raise UserError(
            f"model.backbone.name: {section.name} has maps {', '.join(typed.strides)} at strides "
            f"{', '.join(map(str, typed.strides.values()))} and is for small images alone; a "
            f"detector needs {', '.join(LEVELS)}, which for example resnet50 has"
        )
    return backbone, typed
