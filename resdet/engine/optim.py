"""Learning rate as a function of the step, and optimizers by name."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up into multi-step or cosine decay (Goyal et al. 2017; Loshchilov 2017).

    The warm-up multiplies the decayed rate, as Detectron2 does it.
    """

    lr: float
    """Peak rate, scaled to the batch already."""
    kind: str
    """multistep or cosine."""
    total_steps: int
    milestones: tuple[int, ...]
    """multistep: steps where the rate is multiplied by gamma."""
    gamma: float
    warmup_steps: int
    warmup_factor: float
    """Start of the warm-up, relative to lr."""

    def lr_at(self, step: int) -> float:
        """The rate of update number `step`, counted from 0."""
        if self.kind == "cosine":
            decay = 0.5 * (1.0 + math.cos(math.pi * min(step / self.total_steps, 1.0)))
        else:
            decay = self.gamma ** bisect_right(self.milestones, step)
        if step >= self.warmup_steps:
            return self.lr * decay
        done = step / self.warmup_steps
        return self.lr * decay * (self.warmup_factor * (1.0 - done) + done)


def scale_lr(lr: float, batch_size: int, reference_batch: int) -> float:
    """Linear scaling: twice the images an update, twice the rate (Goyal et al. 2017, 2.1)."""
    return lr * batch_size / reference_batch


def scale_milestones(
    milestones: Sequence[int], batch_size: int, reference_batch: int
) -> tuple[int, ...]:
    """Steps of `reference_batch` images as steps of `batch_size` images."""
    return tuple(max(1, round(step * reference_batch / batch_size)) for step in milestones)


def parameter_groups(
    model: nn.Module, *, weight_decay: float, norm_weight_decay: float
) -> list[dict]:
    """Trained parameters in two groups; biases outside norm layers decay, as in Detectron2.

    The order is that of the modules, so that optimizer states fit from run to run.
    """
    decayed: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                (norms if isinstance(module, NORM_LAYERS) else decayed).append(parameter)
    assert decayed or norms, "the model has no parameter that trains"
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": norm_weight_decay},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    name: str, groups: list[dict], *, lr: float, momentum: float, betas: Sequence[float]
) -> torch.optim.Optimizer:
    """sgd or adamw in torch's fused form: one kernel for all parameters, the same numbers."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    assert name == "adamw", name
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Every parameter that the optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
