"""Networks of 6n + 2 layers for 32×32 images (He et al. 2016, 4.2): plain, residual, pre-activated.

Feature maps c1, c2, c3 of 16, 32 and 64 channels at strides 1, 2, 4: no pyramid for a detector.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from resdet.backbones import register_backbone
from resdet.backbones.heads import PoolHead
from resdet.backbones.norm import freeze, freeze_children, make_norm, require_norm
from resdet.backbones.recompute import run_block
from resdet.backbones.shortcut import ShortcutName, make_shortcut
from resdet.backbones.stochastic_depth import drop_branch, keep_branches, skip_chance
from resdet.errors import UserError

NormName = Literal["bn", "frozen_bn", "sync_bn", "gn"]
STAGES = ("c1", "c2", "c3")
WIDTHS = (16, 32, 64)
# The side of c3 for 32×32 images.
WINDOW = 8
DEPTHS = (20, 32, 44, 56, 110, 1202)


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """Without bias; He normal, fan-out (He et al. 2015)."""
    conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def shortcut(option: str, c_in: int, c_out: int, stride: int, norm: str) -> nn.Module | None:
    """`make_shortcut`, its projection initialised as the other convolutions are."""
    made = make_shortcut(option, c_in, c_out, stride, norm)
    for module in made.modules() if made is not None else ():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return made


class CifarBlock(nn.Module):
    """Two 3×3 convolutions; around them a shortcut, or in a plain network none."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        *,
        norm: str,
        residual: bool,
        option: str,
        skip: float,
    ) -> None:
        """`skip` is the chance that the branch is skipped in training (stochastic depth)."""
        super().__init__()
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn1 = make_norm(norm, c_out)
        self.conv2 = conv3x3(c_out, c_out)
        self.bn2 = make_norm(norm, c_out)
        self.relu = nn.ReLU(inplace=True)
        self.residual = residual
        self.downsample = shortcut(option, c_in, c_out, stride, norm) if residual else None
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if not self.residual:
            return self.relu(out)
        out = drop_branch(out, self.skip, self.training)
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class PreActBlock(nn.Module):
    """Norm and ReLU before each 3×3 convolution, an untouched shortcut (He et al. 2016b)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        *,
        norm: str,
        residual: bool,
        option: str,
        skip: float,
    ) -> None:
        super().__init__()
        assert residual, "a pre-activation network without shortcuts is not in any paper"
        self.bn1 = make_norm(norm, c_in)
        self.conv1 = conv3x3(c_in, c_out, stride)
        self.bn2 = make_norm(norm, c_out)
        self.conv2 = conv3x3(c_out, c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(option, c_in, c_out, stride, norm)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride)."""
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        out = drop_branch(out, self.skip, self.training)
        return out + (x if self.downsample is None else self.downsample(x))


class CifarNet(nn.Module):
    """A stem of one 3×3 convolution and three stages of n blocks; with the last layer 6n + 2."""

    def __init__(
        self,
        depth: int,
        *,
        norm: str,
        residual: bool = True,
        preactivation: bool = False,
        option: str = "A",
        zero_gamma: bool = False,
        stochastic_depth: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> None:
        """With `zero_gamma` the last norm of each residual block starts at 0, so that the block
        starts as its shortcut (Goyal et al. 2017, 5.1)."""
        super().__init__()
        require_norm(norm, "a CIFAR network of 6n + 2 layers")
        if depth < 8 or (depth - 2) % 6:
            raise UserError(
                f"model.backbone.options.depth: {depth} is not 6n + 2; near ones are "
                f"{max(8, (depth - 2) // 6 * 6 + 2)} and {max(8, (depth + 3) // 6 * 6 + 2)}"
            )
        self.activation_checkpointing = activation_checkpointing
        self.conv1 = conv3x3(3, WIDTHS[0])
        self.preactivation = preactivation
        if not preactivation:
            self.bn1 = make_norm(norm, WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        per_stage = (depth - 2) // 6
        make = PreActBlock if preactivation else CifarBlock
        c_in, stages = WIDTHS[0], []
        for number, width in enumerate(WIDTHS):
            blocks = []
            for index in range(per_stage):
                blocks.append(
                    make(
                        c_in,
                        width,
                        2 if number and index == 0 else 1,
                        norm=norm,
                        residual=residual,
                        option=option,
                        skip=skip_chance(
                            number * per_stage + index, 3 * per_stage, stochastic_depth
                        ),
                    )
                )
                c_in = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        if preactivation:
            self.last_bn = make_norm(norm, c_in)
        for block in self.modules():
            if zero_gamma and isinstance(block, CifarBlock):
                # a frozen norm at 0 could never learn its way out
                scale = block.bn2.weight
                if isinstance(scale, nn.Parameter):
                    nn.init.zeros_(scale)
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
        features = {}
        for name, stage in zip(STAGES, self.stages, strict=True):
            for block in stage:
                x = run_block(block, x, self.activation_checkpointing)
            features[name] = x
        if self.preactivation:
            features["c3"] = self.relu(self.last_bn(x))
        return features

    def make_head(self, num_classes: int, dropout: float | None) -> PoolHead:
        """Global average pooling and one linear layer, He normal as the convolutions.

        PyTorch's own initialisation, √6 smaller, passes that much smaller gradients on: 56 layers
        then stay at chance for hundreds of steps.
        """
        head = PoolHead(
            WIDTHS[-1], num_classes, feature="c3", window=WINDOW, dropout=dropout or 0.0
        )
        nn.init.kaiming_normal_(head.fc.weight, nonlinearity="relu")
        return head

    def freeze_stages(self, freeze_at: int) -> None:
        """Fix the stem (`freeze_at` ≥ 1) and the three stages (≥ 2 … 4), norms included."""
        if freeze_at >= 1:
            freeze_children(self, ["conv1"] if self.preactivation else ["conv1", "bn1"])
        for stage in self.stages[: max(0, freeze_at - 1)]:
            freeze(stage)
            keep_branches(stage)
        if self.preactivation and freeze_at > len(STAGES):
            freeze_children(self, ["last_bn"])


@register_backbone
def cifar_plain(
    *, depth: int = 20, norm: NormName = "bn", activation_checkpointing: bool = False
) -> CifarNet:
    """6n + 2 layers without shortcuts."""
    return CifarNet(
        depth, norm=norm, residual=False, activation_checkpointing=activation_checkpointing
    )


@register_backbone
def cifar_resnet(
    *,
    depth: int = 20,
    norm: NormName = "bn",
    shortcut: ShortcutName = "A",
    zero_gamma: bool = False,
    stochastic_depth: float = 0.0,
    activation_checkpointing: bool = False,
) -> CifarNet:
    """6n + 2 layers with shortcuts around every two."""
    return CifarNet(
        depth,
        norm=norm,
        option=shortcut,
        zero_gamma=zero_gamma,
        stochastic_depth=stochastic_depth,
        activation_checkpointing=activation_checkpointing,
    )


@register_backbone
def cifar_preact_resnet(
    *,
    depth: int = 20,
    norm: NormName = "bn",
    shortcut: ShortcutName = "A",
    stochastic_depth: float = 0.0,
    activation_checkpointing: bool = False,
) -> CifarNet:
    """6n + 2 layers with norm and ReLU before each convolution."""
    return CifarNet(
        depth,
        norm=norm,
        preactivation=True,
        option=shortcut,
        stochastic_depth=stochastic_depth,
        activation_checkpointing=activation_checkpointing,
    )


def _register_plain(depth: int) -> None:
    def build(*, norm: NormName = "bn", activation_checkpointing: bool = False) -> CifarNet:
        return cifar_plain(
            depth=depth, norm=norm, activation_checkpointing=activation_checkpointing
        )

    build.__name__ = build.__qualname__ = f"cifar_plain{depth}"
    build.__doc__ = f"{depth} layers without shortcuts."
    register_backbone(build)


def _register_residual(depth: int) -> None:
    def build(
        *,
        norm: NormName = "bn",
        shortcut: ShortcutName = "A",
        zero_gamma: bool = False,
        stochastic_depth: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> CifarNet:
        return cifar_resnet(
            depth=depth,
            norm=norm,
            shortcut=shortcut,
            zero_gamma=zero_gamma,
            stochastic_depth=stochastic_depth,
            activation_checkpointing=activation_checkpointing,
        )

    build.__name__ = build.__qualname__ = f"cifar_resnet{depth}"
    build.__doc__ = f"{depth} layers with shortcuts around every two."
    register_backbone(build)


def _register_preactivation(depth: int) -> None:
    def build(
        *,
        norm: NormName = "bn",
        shortcut: ShortcutName = "A",
        stochastic_depth: float = 0.0,
        activation_checkpointing: bool = False,
    ) -> CifarNet:
        return cifar_preact_resnet(
            depth=depth,
            norm=norm,
            shortcut=shortcut,
            stochastic_depth=stochastic_depth,
            activation_checkpointing=activation_checkpointing,
        )

    build.__name__ = build.__qualname__ = f"cifar_preact_resnet{depth}"
    build.__doc__ = f"{depth} layers with norm and ReLU before each convolution."
    register_backbone(build)


for _depth in DEPTHS:
    if _depth != DEPTHS[-1]:
        _register_plain(_depth)
    _register_residual(_depth)
    _register_preactivation(_depth)
