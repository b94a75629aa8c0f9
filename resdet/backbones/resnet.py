"""ResNet-18 … 152 (He et al. 2016, table 1), in torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resdet.backbones import register_backbone
from resdet.backbones.norm import freeze, make_norm

NormName = Literal["bn", "frozen_bn", "sync_bn", "gn"]
STAGES = ("c2", "c3", "c4", "c5")


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        c_in, c_out, kernel, stride=stride, padding=padding, dilation=dilation, bias=False
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(
        self, c_in: int, width: int, stride: int, dilation: int, norm: str, stride_in_1x1: bool
    ) -> None:
        super().__init__()
        assert not stride_in_1x1, "a basic block has no 1×1 convolution; resnet18/34 refuse this"
        self.conv1 = conv(c_in, width, 3, stride, dilation)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1, dilation)
        self.bn2 = make_norm(norm, width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(c_in, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + shortcut)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (He et al. 2016, figure 5 right)."""

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int, dilation: int, norm: str, stride_in_1x1: bool
    ) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = conv(c_in, width, 1, stride if stride_in_1x1 else 1)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1 if stride_in_1x1 else stride, dilation)
        self.bn2 = make_norm(norm, width)
        self.conv3 = conv(width, c_out, 1)
        self.bn3 = make_norm(norm, c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(c_in, c_out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, 4 · width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + shortcut)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3


def projection(c_in: int, c_out: int, stride: int, norm: str) -> nn.Sequential | None:
    """Option B shortcut: a 1×1 projection where the size or width changes, else identity."""
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(conv(c_in, c_out, 1, stride), make_norm(norm, c_out))


class ResNet(nn.Module):
    """Stem and four stages; feature maps c2…c5 at strides 4, 8, 16, 32.

    Initialised as He et al. (2015): normal, fan-out. With `zero_gamma` the last norm of each
    block starts at 0, so that the block starts as identity (Goyal et al. 2017, 5.1).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        norm: str,
        stride_in_1x1: bool,
        res5_dilation: int,
        zero_gamma: bool,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, 64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        c_in, total_stride, stages = 64, 4, []
        for number, (name, depth) in enumerate(zip(STAGES, depths, strict=True)):
            width = 64 * 2**number
            dilation = res5_dilation if name == "c5" else 1
            stride = 1 if number == 0 or dilation > 1 else 2
            blocks = []
            for index in range(depth):
                blocks.append(
                    block(c_in, width, stride if index == 0 else 1, dilation, norm, stride_in_1x1)
                )
                c_in = width * block.expansion
            stages.append(nn.Sequential(*blocks))
            total_stride *= stride
            self.channels[name], self.strides[name] = c_in, total_stride
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self._init_weights(zero_gamma)

    def _init_weights(self, zero_gamma: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if zero_gamma and isinstance(module, BasicBlock | Bottleneck):
                # A frozen norm at 0 could never learn its way out.
                scale = module.last_norm.weight
                if isinstance(scale, nn.Parameter):
                    nn.init.zeros_(scale)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c2…c5."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for name, stage in zip(STAGES, self.stages, strict=True):
            for module in stage:
                if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                    x = _recomputed(module, x)
                else:
                    x = module(x)
            features[name] = x
        return features

    @property
    def stages(self) -> list[nn.Sequential]:
        """res2 … res5."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def freeze_stages(self, freeze_at: int) -> None:
        """Fix the stem (`freeze_at` ≥ 1) and res2 … res5 (≥ 2 … 5), their batch norms included."""
        if freeze_at >= 1:
            freeze(self.conv1)
            stem = nn.ModuleDict({"bn1": self.bn1})
            freeze(stem)
            self.bn1 = stem["bn1"]
        for stage in self.stages[: max(0, freeze_at - 1)]:
            freeze(stage)


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), computed again in the backward pass instead of kept."""
    contexts = partial(_forward_and_again, block)
    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def _forward_and_again(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _fixed_statistics(block)


@contextmanager
def _fixed_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms use the batch, but do not count it in their running statistics a second time."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, _count(norm).clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            _count(norm).copy_(count)


def _count(norm: nn.Module) -> Tensor:
    return norm.get_buffer("num_batches_tracked")


def _register_basic(name: str, depths: tuple[int, int, int, int]) -> None:
    def build(
        *,
        norm: NormName = "bn",
        res5_dilation: int = 1,
        zero_gamma: bool = False,
        activation_checkpointing: bool = False,
    ) -> ResNet:
        return ResNet(
            BasicBlock,
            depths,
            norm=norm,
            stride_in_1x1=False,
            res5_dilation=res5_dilation,
            zero_gamma=zero_gamma,
            activation_checkpointing=activation_checkpointing,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}: basic blocks {depths}."
    register_backbone(build)


def _register_bottleneck(name: str, depths: tuple[int, int, int, int]) -> None:
    def build(
        *,
        norm: NormName = "bn",
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        zero_gamma: bool = False,
        activation_checkpointing: bool = False,
    ) -> ResNet:
        return ResNet(
            Bottleneck,
            depths,
            norm=norm,
            stride_in_1x1=stride_in_1x1,
            res5_dilation=res5_dilation,
            zero_gamma=zero_gamma,
            activation_checkpointing=activation_checkpointing,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}: bottleneck blocks {depths}; stride_in_1x1 is the paper's v1."
    register_backbone(build)


_register_basic("resnet18", (2, 2, 2, 2))
_register_basic("resnet34", (3, 4, 6, 3))
_register_bottleneck("resnet50", (3, 4, 6, 3))
_register_bottleneck("resnet101", (3, 4, 23, 3))
_register_bottleneck("resnet152", (3, 8, 36, 3))
