"""Parts of residual blocks: shortcuts by option (A pads, B projects if sizes differ, C always), and
stochastic depth, which skips branches at random in training (Huang et al. 2016)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones.norm import make_norm
from resdet.errors import UserError

ShortcutName = Literal["A", "B", "C"]
PadName = Literal["after", "both"]
SHORTCUTS = ("A", "B", "C")


class ZeroPadShortcut(nn.Module):
    """Option A: every stride-th pixel, and zeros for the additional channels; no parameters."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.extra = c_out - c_in
        self.before = 0
        """Additional channels before the old ones, see `pad_shortcuts`."""
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) → (B, c_out, H / stride, W / stride)."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.extra - self.before))

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


def pad_shortcuts(network: nn.Module, pad: str) -> None:
    """Where the zeros of option A are: after the old channels, or half of them on both sides.

    The paper does not specify it; most public CIFAR networks have them on both sides. Raises
    UserError for "both" and a network without option A, and ValueError for another option.
    """
    if pad not in ("after", "both"):
        raise ValueError(f"pad {pad!r} is neither after nor both")
    shortcuts = [module for module in network.modules() if isinstance(module, ZeroPadShortcut)]
    if pad == "both" and not shortcuts:
        raise UserError(
            "model.backbone.pad: both is for shortcuts of option A, which this network does not "
            "have; remove it, or set model.backbone.shortcut=A"
        )
    for shortcut in shortcuts:
        shortcut.before = shortcut.extra // 2 if pad == "both" else 0


def skip_chance(index: int, count: int, last: float) -> float:
    """The chance, 0..1, that block `index` of `count` (0 … count - 1) skips its branch.

    Linear decay (Huang et al. 2016, eq. 4): block l of L, from 1, is skipped with l / L · `last`,
    so that the last block is skipped with `last`. Raises UserError unless 0 ≤ `last` < 1.
    """
    if not 0 <= last < 1:
        raise UserError(
            f"model.backbone.stochastic_depth: {last} is not in [0, 1); it is the chance that the "
            "last block is skipped in a training step, such as 0.5"
        )
    return (index + 1) / count * last


def drop_branch(branch: Tensor, chance: float, training: bool) -> Tensor:
    """A residual branch (B, …), set to 0 in training with probability `chance` per sample.

    The others are scaled by 1 / (1 - chance), so that evaluation takes the branch unchanged; the
    paper drops the branch for a whole batch and scales it in evaluation instead. The expected
    output is the same. Draws from torch's global generator of the branch's device.
    """
    if not training or chance == 0:
        return branch
    shape = (len(branch),) + (1,) * (branch.ndim - 1)
    kept = torch.rand(shape, device=branch.device) >= chance
    return branch * (kept / (1 - chance)).to(branch.dtype)


def keep_branches(stage: nn.Sequential) -> None:
    """Turn stochastic depth off in a frozen stage, so that its maps are the same at every step."""
    for block in stage:
        block.skip = 0.0  # type: ignore[assignment]
