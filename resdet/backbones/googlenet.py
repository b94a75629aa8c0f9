"""GoogLeNet (Szegedy et al. 2015, table 1), the paper's and torchvision's, by its names."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones import register_variant
from resdet.backbones.heads import PoolHead
from resdet.backbones.norm import NormOrNone, freeze, freeze_children, make_norm
from resdet.backbones.stages import init_convolutions, run_block

AuxPool = Literal["adaptive", "paper"]
# torchvision's, from TensorFlow's slim.
NORM_EPS = 1e-3
DROPOUT = 0.2
AUX_DROPOUT = 0.7
# Output channels of the 1×1, input and output of the 3×3, of the 5×5, output of the pooled 1×1.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
AUX_CHANNELS = {"aux1": 512, "aux2": 528}


class ConvNormReLU(nn.Module):
    """A convolution that keeps the size at stride 1, its norm (or bias), and ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, norm: str, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=norm == "none"
        )
        self.bn = make_norm(norm, c_out, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches with different receptive fields (Szegedy et al. 2015, figure 2b)."""

    def __init__(
        self, c_in: int, widths: tuple[int, ...], *, norm: str, branch5_kernel: int
    ) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = widths
        self.branch1 = ConvNormReLU(c_in, one, 1, norm=norm)
        self.branch2 = nn.Sequential(
            ConvNormReLU(c_in, reduce3, 1, norm=norm), ConvNormReLU(reduce3, three, 3, norm=norm)
        )
        self.branch3 = nn.Sequential(
            ConvNormReLU(c_in, reduce5, 1, norm=norm),
            ConvNormReLU(reduce5, five, branch5_kernel, norm=norm),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvNormReLU(c_in, pooled, 1, norm=norm)
        )
        self.c_out = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """Stem and nine inception modules; c2 (conv3), c3 (3b), c4 (4e), c5 (5b) at strides 4 … 32.

    The paper's network has norm none, branch5_kernel 5 and aux_pool paper; torchvision's weights
    need norm bn, branch5_kernel 3 and transform_input. In training, and only after `make_head` has
    made auxiliary classifiers, the maps of 4a and 4d are returned too, as aux1 and aux2.
    Initialised as in He et al. (2015): normal, fan-in, because the numbers of input and output
    channels differ by a factor of up to 40.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(
        self,
        *,
        norm: NormOrNone = "bn",
        branch5_kernel: Literal[3, 5] = 5,
        transform_input: bool = False,
        aux: bool = True,
        aux_pool: AuxPool = "adaptive",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if branch5_kernel not in (3, 5):
            raise ValueError(f"branch5_kernel {branch5_kernel} is not 3 (torchvision) or 5")
        if aux_pool not in get_args(AuxPool):
            raise ValueError(f"aux_pool {aux_pool!r} is not one of {', '.join(get_args(AuxPool))}")
        self.norm, self.aux, self.aux_pool = norm, aux, aux_pool
        self.gives_auxiliary = False
        self.activation_checkpointing = activation_checkpointing
        # From pixels normalised by ImageNet's mean and deviation to .5 and .5 (torchvision).
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.transform_input = transform_input
        self.register_buffer("input_scale", (std / 0.5)[:, None, None], persistent=False)
        self.register_buffer("input_shift", ((mean - 0.5) / 0.5)[:, None, None], persistent=False)
        self.conv1 = ConvNormReLU(3, 64, 7, norm=norm, stride=2)
        self.conv2 = ConvNormReLU(64, 64, 1, norm=norm)
        self.conv3 = ConvNormReLU(64, 192, 3, norm=norm)
        c_in = 192
        for name, widths in INCEPTION.items():
            module = Inception(c_in, widths, norm=norm, branch5_kernel=branch5_kernel)
            self.add_module(f"inception{name}", module)
            c_in = module.c_out
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool2 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        # Without batch norm the paper normalises twice in the stem (figure 3), with the constants
        # of Krizhevsky et al. (2012).
        self.response_norm = (
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75) if norm == "none" else nn.Identity()
        )
        self.channels = {"c2": 192, "c3": 480, "c4": 832, "c5": 1024}
        self.strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
        init_convolutions(self, "fan_in")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → c2…c5, and aux1, aux2 in training with aux heads."""
        x = images
        if self.transform_input:
            x = x * self.input_scale.to(x.dtype) + self.input_shift.to(x.dtype)
        x = self.response_norm(self.pool3(self.conv1(x)))
        x = self._run("conv2 conv3", x)
        features = {"c2": x}
        x = self._run("inception3a inception3b", self.pool3(self.response_norm(x)))
        features["c3"] = x
        x = auxiliary1 = self._run("inception4a", self.pool3(x))
        x = auxiliary2 = self._run("inception4b inception4c inception4d", x)
        x = self._run("inception4e", x)
        features["c4"] = x
        features["c5"] = self._run("inception5a inception5b", self.pool2(x))
        if self.gives_auxiliary and self.training:
            features.update(aux1=auxiliary1, aux2=auxiliary2)
        return features

    def _run(self, names: str, x: Tensor) -> Tensor:
        for name in names.split():
            x = run_block(self.get_submodule(name), x, self.activation_checkpointing)
        return x

    def make_head(self, num_classes: int, dropout: float | None) -> GoogLeNetHead:
        """The last layer and, with `aux`, the auxiliary classifiers, whose inputs the network
        returns from now on; `dropout` null is torchvision's .2 (the paper's is .4)."""
        self.gives_auxiliary = self.aux
        return GoogLeNetHead(
            num_classes,
            dropout=DROPOUT if dropout is None else dropout,
            norm=self.norm,
            aux_pool=self.aux_pool if self.aux else None,
        )

    def freeze_stages(self, freeze_at: int) -> None:
        """Freeze conv1 (`freeze_at` ≥ 1), conv2 and conv3 (≥ 2), 3a and 3b (≥ 3), 4a … 4e (≥ 4), 5a
        and 5b (≥ 5), their batch norms included."""
        if freeze_at >= 1:
            freeze(self.conv1)
        if freeze_at >= 2:
            freeze_children(self, ("conv2", "conv3"))
        for name in INCEPTION:
            if freeze_at >= int(name[0]):
                freeze(self.get_submodule(f"inception{name}"))


class GoogLeNetHead(nn.Module):
    """Global average pooling and the last layer; auxiliary classifiers beside them."""

    def __init__(
        self, num_classes: int, *, dropout: float, norm: str, aux_pool: AuxPool | None
    ) -> None:
        """Without `aux_pool` there are no auxiliary classifiers."""
        super().__init__()
        self.main = PoolHead(1024, num_classes, feature="c5", window=7, dropout=dropout)
        self.aux1: AuxiliaryHead | None = None
        self.aux2: AuxiliaryHead | None = None
        if aux_pool is not None:
            self.aux1, self.aux2 = (
                AuxiliaryHead(channels, num_classes, norm=norm, pool=aux_pool)
                for channels in AUX_CHANNELS.values()
            )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K)."""
        return self.main(features)

    def dense(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, h, w) per window of c5."""
        return self.main.dense(features)

    def auxiliary(self, features: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Logits (B, K) from 4a and from 4d, given the maps of training; () without `aux`."""
        if self.aux1 is None or self.aux2 is None:
            return ()
        return self.aux1(features["aux1"]), self.aux2(features["aux2"])


class AuxiliaryHead(nn.Module):
    """A small classifier on an inner map (Szegedy et al. 2015, 5)."""

    def __init__(self, channels: int, num_classes: int, *, norm: str, pool: AuxPool) -> None:
        """`pool` "paper" is 5×5 at stride 3, "adaptive" torchvision's 4×4 overlapping windows;
        both give 4×4 of a 14×14 map."""
        super().__init__()
        self.pool = pool
        self.conv = ConvNormReLU(channels, 128, 1, norm=norm)
        self.fc1 = nn.Linear(2048, 1024)
        self.dropout = nn.Dropout(AUX_DROPOUT)
        self.fc2 = nn.Linear(1024, num_classes)
        init_convolutions(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) → logits (B, K)."""
        # Images smaller than 224 pixels have no room for four of the paper's windows.
        if self.pool == "paper" and min(x.shape[2:]) >= 14:
            x = F.avg_pool2d(x, 5, stride=3)
        x = self.conv(F.adaptive_avg_pool2d(x, 4))
        return self.fc2(self.dropout(F.relu(self.fc1(x.flatten(1)), inplace=True)))


register_variant("googlenet", GoogLeNet, {})
