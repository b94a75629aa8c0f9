"""Learning rate as a function of the step, and optimizers by name."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from resdet.config.detection import OptimConfig
from resdet.engine.lamb import Lamb

NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)


@dataclass
class Adaptation:
    """What the learning rate has learned from the run so far; plain values, kept in checkpoints."""

    is_held: bool = False
    """The rate is still held low, as the training error is too high."""
    drops: int = 0
    """plateau: how often the rate was multiplied by gamma."""
    best: float | None = None
    """plateau: the best validation metric since the last drop, or before."""
    worse: int = 0
    """plateau: validations since then."""


@dataclass(frozen=True)
class Schedule:
    """Warm-up into multi-step, cosine or plateau decay (Goyal et al. 2017; Loshchilov 2017).

    The warm-up multiplies the decayed rate, as Detectron2 does it.
    """

    lr: float
    """Peak rate, scaled to the batch already."""
    kind: str
    """multistep, cosine or plateau."""
    total_steps: int
    milestones: tuple[int, ...]
    """multistep: steps where the rate is multiplied by gamma."""
    gamma: float
    warmup_steps: int
    warmup_factor: float
    """Start of the warm-up, relative to lr."""
    min_lr: float = 0.0
    """Lowest rate of cosine and plateau."""
    patience: int = 1
    """plateau: validations without a better metric before the rate drops."""
    hold_until_error: float | None = None
    """Hold lr × warmup_factor until the training error in percent falls below this, in place of
    the linear warm-up (He et al. 2016, 4.2, ResNet-110)."""

    def begin(self) -> Adaptation:
        """The state at step 0."""
        return Adaptation(is_held=self.hold_until_error is not None)

    def lr_at(self, step: int, adapted: Adaptation | None = None) -> float:
        """The rate of update number `step`, counted from 0; `adapted` None is as at the start."""
        adapted = adapted or self.begin()
        if adapted.is_held:
            return self.lr * self.warmup_factor
        if self.kind == "cosine":
            done = min(step / self.total_steps, 1.0)
            rate = self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + math.cos(math.pi * done))
        elif self.kind == "plateau":
            rate = max(self.lr * self.gamma**adapted.drops, self.min_lr)
        else:
            rate = self.lr * self.gamma ** bisect_right(self.milestones, step)
        if self.hold_until_error is not None or step >= self.warmup_steps:
            return rate
        done = step / self.warmup_steps
        return rate * (self.warmup_factor * (1.0 - done) + done)

    def see_error(self, adapted: Adaptation, error_percent: float) -> bool:
        """Note the training error; True where this ends the low rate at the start."""
        if not adapted.is_held or self.hold_until_error is None:
            return False
        adapted.is_held = error_percent >= self.hold_until_error
        return not adapted.is_held

    def see_metric(self, adapted: Adaptation, metric: float) -> bool:
        """Note a validation's metric, higher is better; True where the rate drops."""
        if self.kind != "plateau":
            return False
        if adapted.best is None or metric > adapted.best:
            adapted.best, adapted.worse = metric, 0
            return False
        adapted.worse += 1
        rate = self.lr * self.gamma**adapted.drops
        is_lowest = rate <= self.min_lr or math.isclose(rate, self.min_lr)
        if adapted.worse < self.patience or is_lowest:
            return False
        adapted.drops, adapted.worse = adapted.drops + 1, 0
        return True


def scale_lr(lr: float, batch_size: int, reference_batch: int) -> float:
    """Linear scaling: twice the images per update, twice the rate (Goyal et al. 2017, 2.1)."""
    return lr * batch_size / reference_batch


def scale_milestones(
    milestones: Sequence[int], batch_size: int, reference_batch: int
) -> tuple[int, ...]:
    """Steps of `reference_batch` images as steps of `batch_size` images."""
    return tuple(max(1, round(step * reference_batch / batch_size)) for step in milestones)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    norm_weight_decay: float,
    bias_weight_decay: float | None = None,
) -> list[dict]:
    """Trained parameters by their decay: weights, norms, other layers' biases, slopes.

    Biases decay like weights where `bias_weight_decay` is None, as in Detectron2. Slopes of PReLUs
    never decay, which would pull them to ReLU (He et al. 2015, 2). The order is that of the
    modules, so that optimizer states fit from run to run.
    """
    decayed: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    slopes: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, NORM_LAYERS):
                norms.append(parameter)
            elif isinstance(module, nn.PReLU):
                slopes.append(parameter)
            elif bias_weight_decay is not None and name == "bias":
                biases.append(parameter)
            else:
                decayed.append(parameter)
    assert decayed or norms or biases or slopes, "the model has no parameter that trains"
    groups: list[dict] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": norm_weight_decay},
        {"params": biases, "weight_decay": bias_weight_decay},
        {"params": slopes, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(section: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """sgd or adamw in torch's fused form (one kernel for all, the same numbers), or lamb."""
    groups = parameter_groups(
        model,
        weight_decay=section.weight_decay,
        norm_weight_decay=section.norm_weight_decay,
        bias_weight_decay=section.bias_weight_decay,
    )
    lr, betas = section.lr, (section.betas[0], section.betas[1])
    if section.name == "lamb":
        return Lamb(groups, lr=lr, betas=betas)
    if section.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    momentum, nesterov = section.momentum, section.nesterov
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Every parameter that the optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
