"""ResNet-18 … 152 (He et al. 2016, table 1), in torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from resdet.backbones import register_backbone
from resdet.backbones.norm import freeze, freeze_children, make_norm, require_norm
from resdet.backbones.recompute import run_block
from resdet.backbones.shortcut import ShortcutName, make_shortcut
from resdet.backbones.stochastic_depth import drop_branch, keep_branches, skip_chance

NormName = Literal["bn", "frozen_bn", "sync_bn", "gn"]
Depths = tuple[int, int, int, int]
STAGES = ("c2", "c3", "c4", "c5")


@dataclass(frozen=True)
class BlockShape:
    """What a block's place in its network asks of it."""

    c_in: int
    width: int
    """Channels inside; `width` times the block's expansion come out."""
    stride: int
    dilation: int
    skip: float
    """Chance that the branch is skipped in training (stochastic depth)."""


def block_shapes(
    depths: Depths, expansion: int, res5_dilation: int, stochastic_depth: float
) -> list[list[BlockShape]]:
    """The blocks of res2 … res5, of widths 64 … 512."""
    c_in, stages, count = 64, [], 0
    for number, depth in enumerate(depths):
        width = 64 * 2**number
        dilation = res5_dilation if number == 3 else 1
        stage = []
        for index in range(depth):
            stride = 2 if index == 0 and number > 0 and dilation == 1 else 1
            skip = skip_chance(count, sum(depths), stochastic_depth)
            stage.append(BlockShape(c_in, width, stride, dilation, skip))
            c_in, count = width * expansion, count + 1
        stages.append(stage)
    return stages


def map_sizes(
    shapes: Sequence[Sequence[BlockShape]], expansion: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Channels and strides of c2 … c5."""
    channels, strides, stride = {}, {}, 4
    for name, stage in zip(STAGES, shapes, strict=True):
        stride *= stage[0].stride
        channels[name], strides[name] = stage[-1].width * expansion, stride
    return channels, strides


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
        self, shape: BlockShape, norm: str, shortcut: ShortcutName | None, stride_in_1x1: bool
    ) -> None:
        """Without `shortcut` the block is a plain network's: the branch alone."""
        super().__init__()
        assert not stride_in_1x1, "a basic block has no 1×1 convolution; resnet18/34 refuse this"
        width = shape.width
        self.conv1 = conv(shape.c_in, width, 3, shape.stride, shape.dilation)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1, shape.dilation)
        self.bn2 = make_norm(norm, width)
        self.relu = nn.ReLU(inplace=True)
        self.residual = shortcut is not None
        self.downsample = _downsample(shortcut, shape, width, norm)
        self.skip = shape.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if not self.residual:
            return self.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(drop_branch(out, self.skip, self.training) + shortcut)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (He et al. 2016, figure 5 right)."""

    expansion = 4

    def __init__(
        self, shape: BlockShape, norm: str, shortcut: ShortcutName | None, stride_in_1x1: bool
    ) -> None:
        """Without `shortcut` the block is a plain network's: the branch alone."""
        super().__init__()
        width, stride = shape.width, shape.stride
        c_out = width * self.expansion
        self.conv1 = conv(shape.c_in, width, 1, stride if stride_in_1x1 else 1)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1 if stride_in_1x1 else stride, shape.dilation)
        self.bn2 = make_norm(norm, width)
        self.conv3 = conv(width, c_out, 1)
        self.bn3 = make_norm(norm, c_out)
        self.relu = nn.ReLU(inplace=True)
        self.residual = shortcut is not None
        self.downsample = _downsample(shortcut, shape, c_out, norm)
        self.skip = shape.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, 4 · width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if not self.residual:
            return self.relu(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(drop_branch(out, self.skip, self.training) + shortcut)

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3


def _downsample(
    shortcut: ShortcutName | None, shape: BlockShape, c_out: int, norm: str
) -> nn.Module | None:
    if shortcut is None:
        return None
    return make_shortcut(shortcut, shape.c_in, c_out, shape.stride, norm)


class ResNet(nn.Module):
    """Stem and four stages; feature maps c2…c5 at strides 4, 8, 16, 32.

    Initialised as He et al. (2015): normal, fan-out. With `zero_gamma` the last norm of each
    block starts at 0, so that the block starts as identity (Goyal et al. 2017, 5.1).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Depths,
        *,
        norm: str,
        shortcut: ShortcutName | None,
        stochastic_depth: float = 0.0,
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        zero_gamma: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        """`shortcut` None is the plain network of the same layers (He et al. 2016, 3.3).

        `stochastic_depth` is the chance that the last block is skipped in a training step, 0 ≤ p
        < 1; that of the blocks before it grows linearly. UserError for norm "none".
        """
        super().__init__()
        require_norm(norm, "a plain network" if shortcut is None else "a ResNet")
        self.activation_checkpointing = activation_checkpointing
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, 64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        shapes = block_shapes(depths, block.expansion, res5_dilation, stochastic_depth)
        self.channels, self.strides = map_sizes(shapes, block.expansion)
        self.layer4: nn.Sequential | None
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(block(shape, norm, shortcut, stride_in_1x1) for shape in stage))
            for stage in shapes
        )
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
        # without res5 where a detector's head has taken it
        for name, stage in zip(STAGES, self.stages, strict=False):
            for block in stage:
                x = run_block(block, x, self.activation_checkpointing)
            features[name] = x
        return features

    @property
    def stages(self) -> list[nn.Sequential]:
        """res2 … res5; res2 … res4 after `split_res5`."""
        stages = [self.layer1, self.layer2, self.layer3]
        return stages if self.layer4 is None else [*stages, self.layer4]

    def split_res5(self) -> nn.Sequential:
        """Take res5 out, for a head to run it on regions (He et al. 2016, appendix A: C4)."""
        assert self.layer4 is not None, "res5 is taken already"
        res5, self.layer4 = self.layer4, None
        return res5

    @contextmanager
    def joined(self, res5: nn.Sequential) -> Iterator[None]:
        """The whole network again for the time of the context, as its weights are named."""
        self.layer4 = res5
        try:
            yield
        finally:
            self.layer4 = None

    def freeze_stages(self, freeze_at: int) -> None:
        """Fix the stem (`freeze_at` ≥ 1) and res2 … res5 (≥ 2 … 5), their batch norms included."""
        if freeze_at >= 1:
            freeze_children(self, ("conv1", "bn1"))
        for stage in self.stages[: max(0, freeze_at - 1)]:
            freeze(stage)
            keep_branches(stage)


def _register_basic(name: str, depths: Depths) -> None:
    def build(
        *,
        norm: NormName = "bn",
        shortcut: ShortcutName = "B",
        stochastic_depth: float = 0.0,
        res5_dilation: int = 1,
        zero_gamma: bool = False,
        activation_checkpointing: bool = False,
    ) -> ResNet:
        return ResNet(
            BasicBlock,
            depths,
            norm=norm,
            shortcut=shortcut,
            stochastic_depth=stochastic_depth,
            res5_dilation=res5_dilation,
            zero_gamma=zero_gamma,
            activation_checkpointing=activation_checkpointing,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name}: basic blocks {depths}."
    register_backbone(build)


def _register_bottleneck(name: str, depths: Depths) -> None:
    def build(
        *,
        norm: NormName = "bn",
        shortcut: ShortcutName = "B",
        stochastic_depth: float = 0.0,
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        zero_gamma: bool = False,
        activation_checkpointing: bool = False,
    ) -> ResNet:
        return ResNet(
            Bottleneck,
            depths,
            norm=norm,
            shortcut=shortcut,
            stochastic_depth=stochastic_depth,
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
