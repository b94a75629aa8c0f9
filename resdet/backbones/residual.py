"""Parts of residual blocks: shortcuts by option (A pads, B projects if sizes differ, C always), and
stochastic depth, which skips branches at random in training (Huang et al. 2016)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resdet.backbones.norm import make_norm
from resdet.errors import UserError

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
