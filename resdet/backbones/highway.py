"""Highway networks for 32×32 images (Srivastava et al. 2015b, Training Very Deep Networks).

The 19-layer network is the one that the authors published with their code: three stages of 32, 80
and 128 channels, each a 3×3 convolution and gated layers, maximum pooling between them, a 1×1
convolution to 100 channels and global average pooling (2.26 M parameters; the paper says 2.3 M).
Of the 32-layer network the paper says that its receptive fields alternate between 3×3 and 1×1, and
~1.25 M parameters; the widths here, 32, 64 and 96, are chosen to come near that (1.26 M).
Feature maps c1, c2, c3 at strides 1, 2, 4: no pyramid for a detector.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones import register_variant
from resdet.backbones.heads import PoolHead
from resdet.backbones.norm import NormOrNone, freeze_children, make_norm
from resdet.backbones.stages import freeze_first, init_convolutions, run_block
from resdet.errors import UserError

STAGES = ("c1", "c2", "c3")
LAST = 100
# The side of c3 for 32×32 images.
WINDOW = 8
DROPOUT = 0.2
# Layers that are not gated: one convolution per stage, the 1×1 convolution, the last layer.
UNGATED = 5


class HighwayLayer(nn.Module):
    """y = T(x) · H(x) + (1 - T(x)) · x, with H a convolution and ReLU, T one and a sigmoid."""

    def __init__(self, channels: int, kernel: int, *, norm: str, gate_bias: float) -> None:
        """A negative `gate_bias` starts the layer near identity (section 2.2)."""
        super().__init__()
        self.transform = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.bn = make_norm(norm, channels)
        self.gate = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        for convolution, bias in ((self.transform, 0.0), (self.gate, gate_bias)):
            assert convolution.bias is not None
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.constant_(convolution.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return x + self.gate(x).sigmoid() * (F.relu(self.bn(self.transform(x))) - x)


class PlainLayer(nn.Module):
    """A convolution and ReLU, which change the width between stages."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
        self.bn = make_norm(norm, c_out)
        init_convolutions(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class Highway(nn.Module):
    """Three stages of a plain layer and gated ones; with the 1×1 and the last layer `depth`."""

    def __init__(
        self,
        *,
        depth: int = 19,
        alternate: bool = False,
        gate_bias: float = -2.0,
        dropout: float = DROPOUT,
        norm: NormOrNone = "none",
        activation_checkpointing: bool = False,
    ) -> None:
        """
        Args:
            depth: weighted layers, 8 or more.
            alternate: narrower, and gated layers 1, 3, 5 … of each stage are 1×1.
            gate_bias: initial bias of the gates, see `HighwayLayer`.
            dropout: of the images and after the two poolings.
        Raises:
            UserError: `depth` leaves a stage without a gated layer.
        """
        super().__init__()
        if depth < UNGATED + len(STAGES):
            raise UserError(
                f"model.backbone.options.depth: {depth} is too few for a gated layer in each of "
                f"the three stages; give {UNGATED + len(STAGES)} or more"
            )
        self.activation_checkpointing = activation_checkpointing
        self.dropout = nn.Dropout(dropout)
        widths = (32, 64, 96) if alternate else (32, 80, 128)
        c_in, stages = 3, []
        for number, width in enumerate(widths):
            # 14 gated layers are 4, 5, 5, as in the authors' network.
            count = (depth - UNGATED + number) // len(STAGES)
            layers: list[nn.Module] = [PlainLayer(c_in, width, 3, norm=norm)]
            for index in range(count):
                kernel = 1 if alternate and index % 2 == 0 else 3
                layers.append(HighwayLayer(width, kernel, norm=norm, gate_bias=gate_bias))
            stages.append(nn.Sequential(*layers))
            c_in = width
        self.stage1, self.stage2, self.stage3 = stages
        self.last = PlainLayer(c_in, LAST, 1, norm=norm)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.channels = dict(zip(STAGES, (*widths[:2], LAST), strict=True))
        self.strides = dict(zip(STAGES, (1, 2, 4), strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c1, c2, c3."""
        x = images
        features = {}
        for name, stage in zip(STAGES, (self.stage1, self.stage2, self.stage3), strict=True):
            x = self.dropout(x if name == "c1" else self.pool(x))
            for layer in stage:
                x = run_block(layer, x, self.activation_checkpointing)
            features[name] = x
        features["c3"] = self.last(x)
        return features

    def make_head(self, num_classes: int, dropout: float | None) -> PoolHead:
        """Global average pooling, dropout (null is .2), one linear layer."""
        return PoolHead(
            LAST,
            num_classes,
            feature="c3",
            window=WINDOW,
            dropout=DROPOUT if dropout is None else dropout,
        )

    def freeze_stages(self, freeze_at: int) -> None:
        """Freeze the first convolution (`freeze_at` ≥ 1) and the three stages (≥ 2 … 4), norms
        included; the 1×1 convolution belongs to the third."""
        if freeze_at >= 1:
            freeze_children(self.stage1, ("0",))
        stages = (self.stage1, self.stage2, self.stage3)
        freeze_first(self, freeze_at, stem=(), stages=stages, last=("last",))


register_variant("highway", Highway, {})
# Highway B and C of the paper: 2.26 M and 1.26 M parameters
register_variant("highway19", Highway, {"depth": 19, "alternate": False})
register_variant("highway32", Highway, {"depth": 32, "alternate": True})
