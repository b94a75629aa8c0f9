"""Normalisation layers by name."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from resdet.errors import UserError

NormName = Literal["bn", "frozen_bn", "sync_bn", "gn"]
NormOrNone = Literal["none", "bn", "frozen_bn", "sync_bn", "gn"]
NORMS = ("none", "bn", "frozen_bn", "sync_bn", "gn")
GROUPS = 32


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and fixed affine parameters (He et al. 2016, appendix A).

    Its buffers are named as in BatchNorm2d, so that trained batch norms load into it.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        # one pass over memory, where a product and a sum are two
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, scale.to(x.dtype)[:, None, None])

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def make_norm(name: str, channels: int, eps: float = 1e-5) -> nn.Module:
    """The norm `name` of `NORMS` over `channels`; ValueError for another name."""
    if name == "gn":
        # Narrow layers take fewer groups, of the same divisibility (Wu & He 2018 use 32 groups).
        groups = next(g for g in (GROUPS, 16, 8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels, eps)
    layers: dict[str, Callable[[int, float], nn.Module]] = {
        "none": lambda _, __: nn.Identity(),
        "bn": nn.BatchNorm2d,
        "frozen_bn": FrozenBatchNorm2d,
        "sync_bn": nn.SyncBatchNorm,
    }
    if name not in layers:
        raise ValueError(f"norm {name!r} is not one of {', '.join(NORMS)}")
    return layers[name](channels, eps)


def require_norm(norm: str, network: str) -> None:
    """Raise UserError if `norm` is "none": `network` does not train without norms."""
    if norm == "none":
        raise UserError(
            f"model.backbone.norm: {network} does not train without norms; choose from "
            f"{', '.join(name for name in NORMS if name != 'none')}"
        )


def freeze(module: nn.Module) -> None:
    """Freeze all parameters and replace batch norms inside by frozen ones."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm):
                setattr(parent, name, _frozen_copy(child))


def freeze_children(parent: nn.Module, names: Iterable[str]) -> None:
    """`freeze` the named children, also a child that is itself a batch norm."""
    for name in names:
        holder = nn.ModuleDict({name: getattr(parent, name)})
        freeze(holder)
        setattr(parent, name, holder[name])


def _frozen_copy(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    state = norm.state_dict()
    frozen.load_state_dict({key: state[key] for key in frozen.state_dict()})
    return frozen
