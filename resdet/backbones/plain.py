"""Plain networks: a ResNet's layers without its shortcuts (He et al. 2016, 3.3 and figure 3)."""

from __future__ import annotations

from resdet.backbones import register_backbone
from resdet.backbones.resnet import BasicBlock, Bottleneck, NormName, ResNet


@register_backbone
def plain18(
    *, norm: NormName = "bn", res5_dilation: int = 1, activation_checkpointing: bool = False
) -> ResNet:
    """ResNet-18's layers; as many parameters as with shortcuts of option A."""
    return ResNet(
        BasicBlock,
        (2, 2, 2, 2),
        norm=norm,
        shortcut=None,
        res5_dilation=res5_dilation,
        activation_checkpointing=activation_checkpointing,
    )


@register_backbone
def plain34(
    *, norm: NormName = "bn", res5_dilation: int = 1, activation_checkpointing: bool = False
) -> ResNet:
    """ResNet-34's layers; as many parameters as with shortcuts of option A."""
    return ResNet(
        BasicBlock,
        (3, 4, 6, 3),
        norm=norm,
        shortcut=None,
        res5_dilation=res5_dilation,
        activation_checkpointing=activation_checkpointing,
    )


@register_backbone
def plain50(
    *,
    norm: NormName = "bn",
    stride_in_1x1: bool = False,
    res5_dilation: int = 1,
    activation_checkpointing: bool = False,
) -> ResNet:
    """ResNet-50's bottleneck layers in one stack; not in the paper."""
    return ResNet(
        Bottleneck,
        (3, 4, 6, 3),
        norm=norm,
        shortcut=None,
        stride_in_1x1=stride_in_1x1,
        res5_dilation=res5_dilation,
        activation_checkpointing=activation_checkpointing,
    )
