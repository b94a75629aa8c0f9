"""Pre-activation ResNets: norm and ReLU before each convolution (He et al. 2016b, Identity
Mappings in Deep Residual Networks, figure 4e)."""

from __future__ import annotations

from torch import Tensor, nn

from resdet.backbones import register_backbone
from resdet.backbones.norm import freeze, freeze_children, make_norm, require_norm
from resdet.backbones.recompute import run_block
from resdet.backbones.resnet import (
    STAGES,
    BlockShape,
    Depths,
    NormName,
    block_shapes,
    conv,
    map_sizes,
)
from resdet.backbones.shortcut import ShortcutName, ZeroPadShortcut, make_shortcut
from resdet.backbones.stochastic_depth import drop_branch, keep_branches


class PreActBlock(nn.Module):
    """Norm, ReLU, convolution, two or three times, and a shortcut that nothing follows.

    Where the shortcut projects it starts from the first activation, as the branch does (the
    appendix of He et al. 2016b); else it is the input itself, untouched.
    """

    def __init__(
        self, shape: BlockShape, *, bottleneck: bool, norm: str, shortcut: str, first: bool
    ) -> None:
        """The `first` block after the stem takes its activation as it is: the stem has just
        normalised and rectified."""
        super().__init__()
        width, stride = shape.width, shape.stride
        c_out = 4 * width if bottleneck else width
        self.bn1 = nn.Identity() if first else make_norm(norm, shape.c_in)
        self.relu = nn.ReLU()
        if bottleneck:
            self.conv1 = conv(shape.c_in, width, 1)
            self.bn2 = make_norm(norm, width)
            self.conv2 = conv(width, width, 3, stride, shape.dilation)
            self.bn3 = make_norm(norm, width)
            self.conv3 = conv(width, c_out, 1)
        else:
            self.conv1 = conv(shape.c_in, width, 3, stride, shape.dilation)
            self.bn2 = make_norm(norm, width)
            self.conv2 = conv(width, width, 3, 1, shape.dilation)
        self.bottleneck = bottleneck
        self.downsample = make_shortcut(shortcut, shape.c_in, c_out, stride, norm, norm_after=False)
        self.skip = shape.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride), not rectified."""
        active = self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        if self.bottleneck:
            out = self.conv3(self.relu(self.bn3(out)))
        if self.downsample is None:
            shortcut = x
        elif isinstance(self.downsample, ZeroPadShortcut):
            shortcut = self.downsample(x)
        else:
            shortcut = self.downsample(active)
        return drop_branch(out, self.skip, self.training) + shortcut


class PreActResNet(nn.Module):
    """Stem and four stages; feature maps c2…c5 at strides 4, 8, 16, 32.

    c2…c4 are the sums as the next stage gets them, neither normalised nor rectified, so that each
    map depends on its own stages only and freezing them fixes it; a detector's lateral 1×1
    convolutions follow. c5 has the network's last norm and ReLU. Initialised as ResNet is.
    """

    def __init__(
        self,
        depths: Depths,
        *,
        bottleneck: bool,
        norm: str,
        shortcut: ShortcutName,
        stochastic_depth: float,
        res5_dilation: int,
        activation_checkpointing: bool,
    ) -> None:
        """UserError for norm "none"; see ResNet for the options."""
        super().__init__()
        require_norm(norm, "a pre-activation ResNet")
        expansion = 4 if bottleneck else 1
        self.activation_checkpointing = activation_checkpointing
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, 64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        shapes = block_shapes(depths, expansion, res5_dilation, stochastic_depth)
        self.channels, self.strides = map_sizes(shapes, expansion)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                *(
                    PreActBlock(
                        shape,
                        bottleneck=bottleneck,
                        norm=norm,
                        shortcut=shortcut,
                        first=shape is shapes[0][0],
                    )
                    for shape in stage
                )
            )
            for stage in shapes
        )
        self.last_bn = make_norm(norm, self.channels["c5"])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c2…c5."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for name, stage in zip(STAGES, self.stages, strict=True):
            for block in stage:
                x = run_block(block, x, self.activation_checkpointing)
            features[name] = x
        features["c5"] = self.relu(self.last_bn(x))
        return features

    @property
    def stages(self) -> list[nn.Sequential]:
        """res2 … res5."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def freeze_stages(self, freeze_at: int) -> None:
        """Fix the stem (`freeze_at` ≥ 1) and res2 … res5 (≥ 2 … 5), their batch norms included;
        the last norm belongs to res5."""
        if freeze_at >= 1:
            freeze_children(self, ("conv1", "bn1"))
        for stage in self.stages[: max(0, freeze_at - 1)]:
            freeze(stage)
            keep_branches(stage)
        if freeze_at >= 5:
            freeze_children(self, ("last_bn",))


def _register(name: str, depths: Depths, bottleneck: bool) -> None:
    def build(
        *,
        norm: NormName = "bn",
        shortcut: ShortcutName = "B",
        stochastic_depth: float = 0.0,
        res5_dilation: int = 1,
        activation_checkpointing: bool = False,
    ) -> PreActResNet:
        return PreActResNet(
            depths,
            bottleneck=bottleneck,
            norm=norm,
            shortcut=shortcut,
            stochastic_depth=stochastic_depth,
            res5_dilation=res5_dilation,
            activation_checkpointing=activation_checkpointing,
        )

    build.__name__ = build.__qualname__ = name
    kind = "bottleneck" if bottleneck else "basic"
    build.__doc__ = f"{name}: pre-activation {kind} blocks {depths}."
    register_backbone(build)


_register("preact_resnet18", (2, 2, 2, 2), bottleneck=False)
_register("preact_resnet34", (3, 4, 6, 3), bottleneck=False)
_register("preact_resnet50", (3, 4, 6, 3), bottleneck=True)
_register("preact_resnet101", (3, 4, 23, 3), bottleneck=True)
_register("preact_resnet152", (3, 8, 36, 3), bottleneck=True)
