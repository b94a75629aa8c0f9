"""ResNet-18 … 152 (He et al. 2016, table 1), in torchvision's parameter names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from resdet.backbones import register_variant
from resdet.backbones.norm import NormName, make_norm, require_norm
from resdet.backbones.residual import ShortcutName, drop_branch, make_shortcut, skip_chance
from resdet.backbones.stages import freeze_first, init_convolutions, run_stages, zero_scale

Depths = tuple[int, int, int, int]
STAGES = ("c2", "c3", "c4", "c5")


@dataclass(frozen=True)
class BlockShape:
    """What depends on a block's position in its network."""

    c_in: int
    width: int
    """Channels inside; `width` times the block's expansion leave it."""
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


def conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1, *, init: bool = False
) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1; with `init` He normal."""
    padding = dilation * (kernel // 2)
    made = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False)
    return init_convolutions(made) if init else made


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(
        self,
        shape: BlockShape,
        norm: str,
        shortcut: ShortcutName | None,
        stride_in_1x1: bool = False,
        init_at_once: bool = False,
    ) -> None:
        """Without `shortcut` it is a plain network's block: the branch alone.

        `init_at_once` gives each convolution its initial weights (He normal) as it is made, else
        the network does so later: the random numbers come in another order.
        """
        super().__init__()
        assert not stride_in_1x1, "a basic block has no 1×1 convolution; resnet18/34 refuse this"
        width = shape.width
        self.conv1 = conv(shape.c_in, width, 3, shape.stride, shape.dilation, init=init_at_once)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, 1, shape.dilation, init=init_at_once)
        self.bn2 = make_norm(norm, width)
        self.relu = nn.ReLU(inplace=True)
        self.residual = shortcut is not None
        self.downsample = _downsample(shortcut, shape, width, norm)
        if init_at_once and self.downsample is not None:
            init_convolutions(self.downsample)
        self.skip = shape.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, width, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        return _finish(self, x, self.bn2(self.conv2(out)))

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 and a shortcut (He et al. 2016, figure 5 right)."""

    expansion = 4

    def __init__(
        self, shape: BlockShape, norm: str, shortcut: ShortcutName | None, stride_in_1x1: bool
    ) -> None:
        """Without `shortcut` it is a plain network's block: the branch alone."""
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
        return _finish(self, x, self.bn3(self.conv3(out)))

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3


def _finish(block: BasicBlock | Bottleneck, x: Tensor, branch: Tensor) -> Tensor:
    """The addition and the last ReLU; in a plain network the ReLU alone."""
    if not block.residual:
        return block.relu(branch)
    shortcut = x if block.downsample is None else block.downsample(x)
    return block.relu(drop_branch(branch, block.skip, block.training) + shortcut)


def _downsample(
    shortcut: ShortcutName | None, shape: BlockShape, c_out: int, norm: str
) -> nn.Module | None:
    if shortcut is None:
        return None
    return make_shortcut(shortcut, shape.c_in, c_out, shape.stride, norm)


class ResNet(nn.Module):
    """Stem and four stages; feature maps c2…c5 at strides 4, 8, 16, 32.

    Initialised as in He et al. (2015): normal, fan-out.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Depths,
        *,
        norm: NormName = "bn",
        shortcut: ShortcutName | None = "B",
        stochastic_depth: float = 0.0,
        stride_in_1x1: bool = False,
        res5_dilation: int = 1,
        zero_gamma: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        """
        Args:
            shortcut: None is the plain network of the same layers (He et al. 2016, 3.3).
            stochastic_depth: chance, in [0, 1), that the last block is skipped in a training step;
                the chance of earlier blocks grows linearly towards it.
            stride_in_1x1: the stride of a bottleneck is in its first convolution, as in the paper.
            zero_gamma: each block starts as its shortcut, see `zero_scale`.
        Raises:
            UserError: for norm "none".
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
        init_convolutions(self)
        for module in self.modules():
            if zero_gamma and isinstance(module, BasicBlock | Bottleneck):
                zero_scale(module.last_norm)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c2…c5."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return run_stages(STAGES, self.stages, x, self.activation_checkpointing)

    @property
    def stages(self) -> list[nn.Sequential]:
        """res2 … res5; res2 … res4 after `split_res5`."""
        stages = [self.layer1, self.layer2, self.layer3]
        return stages if self.layer4 is None else [*stages, self.layer4]

    def split_res5(self) -> nn.Sequential:
        """Remove res5, so that a head can run it on regions (He et al. 2016, appendix A: C4)."""
        assert self.layer4 is not None, "res5 was removed already"
        res5, self.layer4 = self.layer4, None
        return res5

    @contextmanager
    def joined(self, res5: nn.Sequential) -> Iterator[None]:
        """Within the context the whole network, with the names of its weights file."""
        self.layer4 = res5
        try:
            yield
        finally:
            self.layer4 = None

    def freeze_stages(self, freeze_at: int) -> None:
        """Freeze the stem (`freeze_at` ≥ 1) and res2 … res5 (≥ 2 … 5), batch norms included."""
        freeze_first(self, freeze_at, stem=("conv1", "bn1"), stages=self.stages)


DEPTHS: dict[str, Depths] = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
}
"""Blocks of res2 … res5 by the number of weighted layers; from 50 on they are bottlenecks."""

_BASIC = {"block": BasicBlock, "stride_in_1x1": False}
_VARIANTS: dict[str, dict[str, object]] = {
    name: {"depths": depths, **(_BASIC if int(name) < 50 else {"block": Bottleneck})}
    for name, depths in DEPTHS.items()
}
for _name, _fixed in _VARIANTS.items():
    register_variant(f"resnet{_name}", ResNet, _fixed)

# Plain networks: the layers without shortcuts (He et al. 2016, 3.3 and figure 3), with as many
# parameters as option A; plain-50, a stack of bottleneck layers, is not in the paper.
_BRANCHLESS = {"shortcut": None, "stochastic_depth": 0.0, "zero_gamma": False}
for _name in ("18", "34", "50"):
    register_variant(f"plain{_name}", ResNet, {**_VARIANTS[_name], **_BRANCHLESS})
