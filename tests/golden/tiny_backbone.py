"""A residual network of about 10,000 parameters, so that checkpoints stay small.

Importing this module registers it as `golden_tiny`. Stored runs name it in their config.yaml, so
import it before loading one. Module names and the order of parameters are those of ResNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

import resdet
from resdet.backbones.resnet import ResNet

WIDTHS = (8, 8, 16, 16)
LEVELS = ("c2", "c3", "c4", "c5")


def make_norm(name: str, channels: int) -> nn.Module:
    return nn.GroupNorm(4, channels) if name == "gn" else nn.BatchNorm2d(channels)


class Block(nn.Module):
    """One 3×3 convolution and a projection."""

    def __init__(self, c_in: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, width)
        self.downsample = nn.Sequential(
            nn.Conv2d(c_in, width, 1, stride=stride, bias=False), make_norm(norm, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.bn1(self.conv1(x)) + self.downsample(x))


class GoldenTiny(ResNet):
    """Stem and four stages at strides 4, 8, 16, 32.

    A ResNet only for the isinstance check of the C4 head; it uses none of ResNet's own code.
    """

    def __init__(self, norm: str) -> None:
        nn.Module.__init__(self)
        self.activation_checkpointing = False
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = make_norm(norm, 8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = dict(zip(LEVELS, WIDTHS, strict=True))
        self.strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
        c_in = 8
        for number, width in enumerate(WIDTHS, start=1):
            stride = 1 if number == 1 else 2
            setattr(self, f"layer{number}", nn.Sequential(Block(c_in, width, stride, norm)))
            c_in = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for name, stage in zip(LEVELS, self.stages, strict=False):
            x = stage(x)
            features[name] = x
        return features

    @property
    def stages(self) -> list[nn.Sequential]:
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        return [stage for stage in stages if stage is not None]

    def split_res5(self) -> nn.Sequential:
        res5, self.layer4 = self.layer4, None
        return res5

    @contextmanager
    def joined(self, res5: nn.Sequential) -> Iterator[None]:
        self.layer4 = res5
        try:
            yield
        finally:
            self.layer4 = None

    def freeze_stages(self, freeze_at: int) -> None:
        assert freeze_at == 0, "the golden runs freeze nothing"


def golden_tiny(*, norm: str = "gn") -> GoldenTiny:
    """`norm` is gn or bn."""
    return GoldenTiny(norm)


# The module may be imported under two names, by the tests and by a script beside it.
if "golden_tiny" not in resdet.list_backbones():
    resdet.register_backbone(golden_tiny)
