"""Shortcuts of residual blocks by option: A pads, B projects where sizes differ, C always."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones.norm import make_norm

ShortcutName = Literal["A", "B", "C"]
SHORTCUTS = ("A", "B", "C")


class ZeroPadShortcut(nn.Module):
    """Option A: every stride-th pixel, and zeros for the additional channels; no parameters."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.extra = c_out - c_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride)."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, new_channels={self.extra}"


def make_shortcut(
    option: str, c_in: int, c_out: int, stride: int, norm: str, *, norm_after: bool = True
) -> nn.Module | None:
    """A block's shortcut (He et al. 2016, 4.1, options A, B, C); None is identity.

    A projection is a 1×1 convolution, which the network initialises like its others, and with
    `norm_after` a norm. Raises ValueError for another option.
    """
    if option not in SHORTCUTS:
        raise ValueError(f"shortcut {option!r} is not one of {', '.join(SHORTCUTS)}")
    changes = stride != 1 or c_in != c_out
    if option == "C" or (option == "B" and changes):
        projection = nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False)
        return nn.Sequential(projection, make_norm(norm, c_out)) if norm_after else projection
    return ZeroPadShortcut(c_in, c_out, stride) if changes else None
