"""VGG-16 and VGG-19 (Simonyan & Zisserman 2015, configurations D and E), in torchvision's names."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones import register_variant
from resdet.backbones.norm import NormOrNone, freeze_children, make_norm
from resdet.backbones.stages import init_convolutions, recomputed

WIDTHS = (64, 128, 256, 512, 512)
# The side of pool5 for 224×224 images, which the first fully connected layer takes.
WINDOW = 7
HIDDEN = 4096
DROPOUT = 0.5
SLOPE = 0.25
"""Of PReLUs at the start (He et al. 2015, 2)."""

ActivationName = Literal["relu", "prelu"]


def make_activation(name: str, channels: int) -> nn.Module:
    """ReLU, or PReLU with a slope for each channel (He et al. 2015, 2); ValueError for others."""
    if name == "prelu":
        return nn.PReLU(channels, init=SLOPE)
    if name == "relu":
        return nn.ReLU(inplace=True)
    raise ValueError(f"activation {name!r} is neither relu nor prelu")


class VGG(nn.Module):
    """Five groups of 3×3 convolutions, each followed by 2×2 max pooling; c2 … c5 at strides 4 … 32.

    c2, c3, c4 are conv3_x, conv4_x and conv5_x before their pooling, c5 is pool5. Initialised as in
    He et al. (2015): normal, fan-in, which keeps the scale of activations without norms; with PReLU
    narrower by √(1 + slope²) (their eq. 15).
    """

    def __init__(
        self,
        convs: tuple[int, ...],
        *,
        norm: NormOrNone = "none",
        activation: ActivationName = "relu",
        activation_checkpointing: bool = False,
    ) -> None:
        """`convs` is the number of convolutions in each of the five groups; `activation` is that
        of all layers, the fully connected ones of its head included."""
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        layers: list[nn.Module] = []
        # Where each map ends in `features`: conv1_x, conv2_x, conv3_x (c2), …, pool5 (c5).
        self._ends: list[int] = []
        c_in = 3
        for width, count in zip(WIDTHS, convs, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(c_in, width, 3, padding=1))
                if norm != "none":
                    layers.append(make_norm(norm, width))
                layers.append(make_activation(activation, width))
                c_in = width
            self._ends.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self._ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.channels = {"c2": 256, "c3": 512, "c4": 512, "c5": 512}
        self.strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
        init_convolutions(self, "fan_in")
        self.activation = activation
        for layer in self.features if activation == "prelu" else []:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, SLOPE)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c2…c5."""
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        x, maps, start = images, [], 0
        for end in self._ends:
            group = list(self.features)[start:end]
            if recompute:
                x = recomputed(nn.Sequential(*group), x)
            else:
                for module in group:
                    x = module(x)
            maps.append(x)
            start = end
        return dict(zip(self.channels, maps[2:], strict=True))

    def make_head(self, num_classes: int, dropout: float | None) -> VGGHead:
        """The three fully connected layers; `dropout` null is the paper's .5."""
        chance = DROPOUT if dropout is None else dropout
        return VGGHead(num_classes, chance, self.activation)

    def freeze_stages(self, freeze_at: int) -> None:
        """Freeze conv1_x and conv2_x (`freeze_at` ≥ 1), conv3_x (≥ 2), conv4_x (≥ 3) and conv5_x
        (≥ 4), their batch norms included; pool5 (5) has no parameters."""
        if freeze_at >= 1:
            freeze_children(self.features, map(str, range(self._ends[min(freeze_at, 5)])))


class VGGHead(nn.Module):
    """Two fully connected layers of 4096, dropout after each, and the last layer."""

    def __init__(self, num_classes: int, dropout: float, activation: str = "relu") -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(WIDTHS[-1] * WINDOW * WINDOW, HIDDEN),
            make_activation(activation, HIDDEN),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, HIDDEN),
            make_activation(activation, HIDDEN),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_classes),
        )
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K); a map of another size than 7×7 is averaged to it."""
        x = F.adaptive_avg_pool2d(features["c5"], WINDOW)
        return self.classifier(x.flatten(1))

    def dense(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, h, w) per 7×7 window of the map: the first layer as a 7×7 convolution, the
        others as 1×1 (Simonyan & Zisserman 2015, 3.2)."""
        x = features["c5"]
        x = F.adaptive_avg_pool2d(x, (max(x.shape[2], WINDOW), max(x.shape[3], WINDOW)))
        side = WINDOW
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                x = F.conv2d(x, layer.weight.unflatten(1, (-1, side, side)), layer.bias)
                side = 1
            else:
                x = layer(x)
        return x


# configurations D (13 convolutions) and E (16)
register_variant("vgg16", VGG, {"convs": (2, 2, 3, 3, 3)})
register_variant("vgg19", VGG, {"convs": (2, 2, 4, 4, 4)})
