"""What is between backbone and heads: a feature pyramid (Lin et al. 2017, 3), or one map."""

import torch.nn.functional as F
from torch import Tensor, nn

from resdet.backbones.norm import make_norm
from resdet.models.layers import xavier_uniform


class FPN(nn.Module):
    """c2…c5 → p2…p6: 1×1 laterals, nearest upsampling and sum, 3×3 outputs, p6 = every other p5."""

    def __init__(
        self,
        channels: dict[str, int],
        strides: dict[str, int],
        *,
        out_channels: int,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.inputs = list(channels)
        self.out_channels = out_channels
        self.lateral = nn.ModuleDict()
        self.output = nn.ModuleDict()
        self.strides: dict[str, int] = {}
        for name, c_in in channels.items():
            level = "p" + name[1:]
            self.strides[level] = strides[name]
            self.lateral[name] = self._conv(c_in, out_channels, 1, norm)
            self.output[level] = self._conv(out_channels, out_channels, 3, norm)
        self.last = f"p{int(self.inputs[-1][1:]) + 1}"
        self.strides[self.last] = 2 * strides[self.inputs[-1]]

    @property
    def roi_strides(self) -> list[int]:
        """Of the levels that regions are pooled from: all but the last (Lin et al. 2017, 4.2)."""
        return list(self.strides.values())[:-1]

    @staticmethod
    def _conv(c_in: int, c_out: int, kernel: int, norm: str) -> nn.Sequential:
        conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=norm == "none")
        xavier_uniform(conv)
        if norm == "none":
            return nn.Sequential(conv)
        return nn.Sequential(conv, make_norm(norm, c_out))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{c2…c5: (B, C, H, W)} → {p2…p6: (B, out_channels, H, W)}, finest first."""
        pyramid: dict[str, Tensor] = {}
        top_down: Tensor | None = None
        for name in reversed(self.inputs):
            lateral = self.lateral[name](features[name])
            if top_down is not None:
                # A dilated res5 has the size of res4 already.
                if lateral.shape[-1] != top_down.shape[-1]:
                    top_down = F.interpolate(top_down, scale_factor=2.0, mode="nearest")
                lateral = lateral + top_down
            top_down = lateral
            level = "p" + name[1:]
            pyramid[level] = self.output[level](lateral)
        levels = {level: pyramid[level] for level in reversed(pyramid)}
        coarsest = next(reversed(levels.values()))
        levels[self.last] = F.max_pool2d(coarsest, kernel_size=1, stride=2)
        return levels


class OneMap(nn.Module):
    """No pyramid: one map of the backbone for proposals and regions alike (C4, DC5)."""

    def __init__(self, channels: dict[str, int], strides: dict[str, int], *, name: str) -> None:
        """`name` is c4 or c5."""
        super().__init__()
        self.name = name
        self.out_channels = channels[name]
        self.strides = {name: strides[name]}

    @property
    def roi_strides(self) -> list[int]:
        """Of the one map."""
        return list(self.strides.values())

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{c2…: (B, C, H, W)} → the one map by its name."""
        return {self.name: features[self.name]}
