"""Pre-activation ResNets: norm and ReLU before each convolution (He et al. 2016b, Identity
Mappings in Deep Residual Networks, figure 4e)."""

from functools import partial

from torch import Tensor, nn

from resdet.backbones import register_variant
from resdet.backbones.norm import NormName, make_norm, require_norm
from resdet.backbones.residual import ShortcutName, ZeroPadShortcut, drop_branch, make_shortcut
from resdet.backbones.resnet import (
    DEPTHS,
    STAGES,
    BlockShape,
    Depths,
    block_shapes,
    conv,
    map_sizes,
)
from resdet.backbones.stages import freeze_first, init_convolutions, run_stages


class PreActBlock(nn.Module):
    """Norm, ReLU, convolution, two or three times, and a shortcut that nothing follows.

    A projection takes the first activation, as the branch does (He et al. 2016b, appendix); any
    other shortcut takes the input itself.
    """

    def __init__(
        self, shape: BlockShape, *, bottleneck: bool, norm: str, shortcut: str, first: bool
    ) -> None:
        """The `first` block has no norm before it: its input comes normalised from the stem."""
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

    c2…c4 are the sums that the next stage takes, before its norm and ReLU, so that each map
    depends only on its own stages and is fixed when these are frozen. c5 has the network's last
    norm and ReLU. Initialised as ResNet.
    """

    def __init__(
        self,
        depths: Depths,
        *,
        bottleneck: bool,
        norm: NormName = "bn",
        shortcut: ShortcutName = "B",
        stochastic_depth: float = 0.0,
        res5_dilation: int = 1,
        activation_checkpointing: bool = False,
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
        block = partial(PreActBlock, bottleneck=bottleneck, norm=norm, shortcut=shortcut)
        self.channels, self.strides = map_sizes(shapes, expansion)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*(block(shape, first=shape is shapes[0][0]) for shape in stage))
            for stage in shapes
        )
        self.last_bn = make_norm(norm, self.channels["c5"])
        init_convolutions(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c2…c5."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = run_stages(STAGES, self.stages, x, self.activation_checkpointing)
        features["c5"] = self.relu(self.last_bn(features["c5"]))
        return features

    @property
    def stages(self) -> list[nn.Sequential]:
        """res2 … res5."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def freeze_stages(self, freeze_at: int) -> None:
        """Freeze the stem (`freeze_at` ≥ 1) and res2 … res5 (≥ 2 … 5), batch norms included; the
        last norm belongs to res5."""
        stem, last = ("conv1", "bn1"), ("last_bn",)
        freeze_first(self, freeze_at, stem=stem, stages=self.stages, last=last)


for _name, _depths in DEPTHS.items():
    _fixed = {"depths": _depths, "bottleneck": int(_name) >= 50}
    register_variant(f"preact_resnet{_name}", PreActResNet, _fixed)
