"""Learning rate as a function of the step, and optimizers by name."""

import copy
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from resdet.backbones import Backbone
from resdet.config.detection import OptimConfig
from resdet.engine.lamb import Lamb
from resdet.errors import UserError

NUM_STAGES = 5
"""The stem and res2 to res5, as `freeze_stages` counts; a backbone may have fewer."""

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
    layer_decay: float | None = None,
) -> list[dict]:
    """Trained parameters by their decay: weights, norms, other layers' biases, slopes.

    Biases decay like weights where `bias_weight_decay` is None, as in Detectron2. Slopes of PReLUs
    never decay, which would pull them to ReLU (He et al. 2015, 2). With `layer_decay` each stage of
    the backbone has groups of its own, whose `rate` multiplies the learning rate. The order is that
    of the modules, so that optimizer states fit from run to run.
    """
    depths = depths_below_heads(model) if layer_decay is not None else {}
    groups: dict[tuple[int, int], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, NORM_LAYERS):
                kind = 1
            elif isinstance(module, nn.PReLU):
                kind = 3
            else:
                kind = 2 if bias_weight_decay is not None and name == "bias" else 0
            groups.setdefault((depths.get(parameter, 0), kind), []).append(parameter)
    assert groups, "the model has no parameter that trains"
    decays = (weight_decay, norm_weight_decay, bias_weight_decay, 0.0)
    return [
        {"params": groups[depth, kind], "weight_decay": decays[kind]}
        | ({"rate": layer_decay**depth} if layer_decay is not None else {})
        for depth, kind in sorted(groups)
    ]


def depths_below_heads(model: nn.Module) -> dict[nn.Parameter, int]:
    """Stages from each trained parameter of `model.backbone` to the heads: 1 for the last one, and
    one more for each before it, as its `freeze_stages` counts them.

    Layer-wise decay by stages, as for other convolutional networks (Liu et al. 2022, A.2).
    """
    backbone = model.backbone
    assert isinstance(backbone, nn.Module)
    stage_of: dict[str, int] = {}
    for stage in range(1, NUM_STAGES + 1):
        # a stage that model.freeze fixes is one all the same
        copied = copy.deepcopy(backbone).requires_grad_(True)
        cast(Backbone, copied).freeze_stages(stage)
        left = {name for name, value in copied.named_parameters() if value.requires_grad}
        for name, _ in backbone.named_parameters():
            if name not in left:
                stage_of.setdefault(name, stage)
    last = max(stage_of.values(), default=0)
    return {
        parameter: last + 1 - stage_of[name]
        for name, parameter in backbone.named_parameters()
        if name in stage_of
    }


def make_optimizer(section: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """sgd or adamw in torch's fused form (one kernel for all, the same numbers), or lamb.

    UserError for a rate per stage of a backbone without stages.
    """
    if section.layer_decay is not None and not hasattr(model.backbone, "freeze_stages"):
        raise UserError(
            "optim.layer_decay: the backbone has no freeze_stages(freeze_at), which tells its "
            "stages apart; set it to null"
        )
    groups = parameter_groups(
        model,
        weight_decay=section.weight_decay,
        norm_weight_decay=section.norm_weight_decay,
        bias_weight_decay=section.bias_weight_decay,
        layer_decay=section.layer_decay,
    )
    lr, betas = section.lr, (section.betas[0], section.betas[1])
    if section.name == "lamb":
        return Lamb(groups, lr=lr, betas=betas)
    if section.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    momentum, nesterov = section.momentum, section.nesterov
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next update, lower for groups with a `rate` of their own."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Every parameter that the optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
