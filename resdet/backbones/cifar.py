"""Networks of 6n + 2 layers for 32×32 images (He et al. 2016, 4.2): plain, residual, pre-activated.

Feature maps c1, c2, c3 of 16, 32 and 64 channels at strides 1, 2, 4: no pyramid for a detector.
"""

from torch import Tensor, nn

from resdet.backbones import register_variant
from resdet.backbones.heads import PoolHead
from resdet.backbones.norm import NormName, make_norm, require_norm
from resdet.backbones.residual import (
    PadName,
    ShortcutName,
    drop_branch,
    make_shortcut,
    pad_shortcuts,
    skip_chance,
)
from resdet.backbones.resnet import BasicBlock, BlockShape, conv
from resdet.backbones.stages import freeze_first, init_convolutions, run_stages, zero_scale
from resdet.errors import UserError

STAGES = ("c1", "c2", "c3")
WIDTHS = (16, 32, 64)
# The side of c3 for 32×32 images.
WINDOW = 8
DEPTHS = (20, 32, 44, 56, 110, 1202)


class PreActBlock(nn.Module):
    """Norm and ReLU before each 3×3 convolution, an untouched shortcut (He et al. 2016b)."""

    def __init__(self, shape: BlockShape, norm: str, shortcut: str) -> None:
        super().__init__()
        c_in, width, stride = shape.c_in, shape.width, shape.stride
        self.bn1 = make_norm(norm, c_in)
        self.conv1 = conv(c_in, width, 3, stride, init=True)
        self.bn2 = make_norm(norm, width)
        self.conv2 = conv(width, width, 3, init=True)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_shortcut(shortcut, c_in, width, stride, norm)
        if self.downsample is not None:
            init_convolutions(self.downsample)
        self.skip = shape.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride)."""
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        out = drop_branch(out, self.skip, self.training)
        return out + (x if self.downsample is None else self.downsample(x))


class CifarNet(nn.Module):
    """A stem of one 3×3 convolution and three stages of n blocks; with the last layer 6n + 2.

    Each convolution is initialised as it is made: He normal, fan-out (He et al. 2015).
    """

    def __init__(
        self,
        *,
        depth: int = 20,
        norm: NormName = "bn",
        shortcut: ShortcutName | None = "A",
        pad: PadName = "after",
        zero_gamma: bool = False,
        stochastic_depth: float = 0.0,
        activation_checkpointing: bool = False,
        preactivation: bool = False,
    ) -> None:
        """`shortcut` None is the plain network; see `pad_shortcuts` for `pad`, and ResNet for the
        other options.

        Raises UserError for norm "none" and for a depth that is not 6n + 2.
        """
        super().__init__()
        require_norm(norm, "a CIFAR network of 6n + 2 layers")
        if depth < 8 or (depth - 2) % 6:
            raise UserError(
                f"model.backbone.options.depth: {depth} is not 6n + 2; the nearest are "
                f"{max(8, (depth - 2) // 6 * 6 + 2)} and {max(8, (depth + 3) // 6 * 6 + 2)}"
            )
        self.activation_checkpointing = activation_checkpointing
        self.conv1 = conv(3, WIDTHS[0], 3, init=True)
        self.preactivation = preactivation
        if not preactivation:
            self.bn1 = make_norm(norm, WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        per_stage = (depth - 2) // 6
        c_in, stages = WIDTHS[0], []
        for number, width in enumerate(WIDTHS):
            blocks: list[nn.Module] = []
            for index in range(per_stage):
                stride = 2 if number and index == 0 else 1
                position = number * per_stage + index
                skip = skip_chance(position, 3 * per_stage, stochastic_depth)
                shape = BlockShape(c_in, width, stride, 1, skip)
                if preactivation:
                    blocks.append(PreActBlock(shape, norm, str(shortcut)))
                else:
                    blocks.append(BasicBlock(shape, norm, shortcut, init_at_once=True))
                c_in = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        pad_shortcuts(self, pad)
        if preactivation:
            self.last_bn = make_norm(norm, c_in)
        for block in self.modules():
            if zero_gamma and isinstance(block, BasicBlock):
                zero_scale(block.last_norm)
        self.channels = dict(zip(STAGES, WIDTHS, strict=True))
        self.strides = dict(zip(STAGES, (1, 2, 4), strict=True))

    @property
    def stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c1, c2, c3."""
        x = self.conv1(images)
        if not self.preactivation:
            x = self.relu(self.bn1(x))
        features = run_stages(STAGES, self.stages, x, self.activation_checkpointing)
        if self.preactivation:
            features["c3"] = self.relu(self.last_bn(features["c3"]))
        return features

    def make_head(self, num_classes: int, dropout: float | None) -> PoolHead:
        """Global average pooling and one linear layer, He normal like the convolutions.

        With PyTorch's default, √6 smaller, gradients are as much smaller and 56 layers stay at
        chance level for hundreds of steps.
        """
        head = PoolHead(
            WIDTHS[-1], num_classes, feature="c3", window=WINDOW, dropout=dropout or 0.0
        )
        nn.init.kaiming_normal_(head.fc.weight, nonlinearity="relu")
        return head

    def freeze_stages(self, freeze_at: int) -> None:
        """Freeze the stem (`freeze_at` ≥ 1) and the three stages (≥ 2 … 4), norms included."""
        stem, last = (("conv1",), ("last_bn",)) if self.preactivation else (("conv1", "bn1"), ())
        freeze_first(self, freeze_at, stem=stem, stages=self.stages, last=last)


_PLAIN = {
    "shortcut": None,
    "pad": "after",
    "zero_gamma": False,
    "stochastic_depth": 0.0,
    "preactivation": False,
}
_RESIDUAL = {"preactivation": False}
_PREACTIVATED = {"zero_gamma": False, "preactivation": True}

register_variant("cifar_plain", CifarNet, _PLAIN)
register_variant("cifar_resnet", CifarNet, _RESIDUAL)
register_variant("cifar_preact_resnet", CifarNet, _PREACTIVATED)
for _depth in DEPTHS:
    if _depth != DEPTHS[-1]:
        register_variant(f"cifar_plain{_depth}", CifarNet, {**_PLAIN, "depth": _depth})
    register_variant(f"cifar_resnet{_depth}", CifarNet, {**_RESIDUAL, "depth": _depth})
    register_variant(f"cifar_preact_resnet{_depth}", CifarNet, {**_PREACTIVATED, "depth": _depth})
