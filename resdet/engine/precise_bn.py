"""Batch norm statistics of a trained network, computed again over many images."""

from collections.abc import Iterable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from resdet.engine.distributed import Processes, gather
from resdet.errors import UserError

_BatchNorm = nn.modules.batchnorm._BatchNorm


class _Moments:
    """Sums over images of one layer's batch means, their squares, and its batch variances."""

    def __init__(self, norm: _BatchNorm) -> None:
        mean, _, tracked = _statistics(norm)
        self.sums = torch.zeros(4, len(mean), dtype=torch.float64, device=mean.device)
        self.tracked = tracked.clone()

    def add(self, norm: _BatchNorm, images: int) -> None:
        """Take in the statistics that a batch left in the layer, if it came through it."""
        mean, variance, tracked = _statistics(norm)
        mean, variance = mean.double(), variance.double()
        moments = torch.stack([torch.ones_like(mean), mean, mean.square(), variance])
        self.sums += moments * (images * (tracked != self.tracked))
        self.tracked.copy_(tracked)

    def write(self, norm: _BatchNorm) -> None:
        """Put mean and variance of all the images into the layer, if any came through it."""
        mean, variance, _ = _statistics(norm)
        count, means, squares, variances = self.sums
        reached = count > 0
        count = count.clamp(min=1.0)
        new_mean = means / count
        new_variance = variances / count + squares / count - new_mean.square()
        mean.copy_(torch.where(reached, new_mean, mean.double()))
        variance.copy_(torch.where(reached, new_variance, variance.double()))


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean (C,), running variance (C,) and the number of batches seen ()."""
    buffers = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    assert all(buffer is not None for buffer in buffers)
    return cast(tuple[Tensor, Tensor, Tensor], buffers)


@torch.no_grad()
def recompute_statistics(model: nn.Module, batches: Iterable[Tensor], processes: Processes) -> int:
    """Give every batch norm the mean and variance of all the images; returns how many they are.

    He et al. 2016 computed the statistics again after training; the estimate is that of Wu &
    Johnson 2021, 3.1: means are averaged over the batches, and the variance is the mean of the
    batches' variances and the variance of their means. `batches` are normalised images
    (B, 3, H, W) on the model's device, B at least 2, with the weights held still; over several
    processes each brings its own, and all end with the same statistics (sync_bn needs as many
    batches in each).

    Everything but batch norm works as in a test: no dropout, no stochastic depth. Layers that the
    images do not reach, frozen batch norm, modes, momenta and counters stay as they are, and
    statistics too where there are no images or the batches raise.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [[buffer.clone() for buffer in _statistics(norm)] for norm in norms]
    moments = [_Moments(norm) for norm in norms]
    images = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # the running statistics are then those of the last batch
        for batch in batches:
            images += len(batch)
            model(batch)
            for norm, moment in zip(norms, moments, strict=True):
                moment.add(norm, len(batch))
    finally:
        for norm, buffers, momentum in zip(norms, before, momenta, strict=True):
            norm.momentum = momentum
            for buffer, old in zip(_statistics(norm), buffers, strict=True):
                buffer.copy_(old)
        for module, training in modes:
            module.training = training
    if processes.world_size > 1:
        for moment in moments:
            dist.all_reduce(moment.sums)
        images = sum(gather(images, processes))
    for norm, moment in zip(norms, moments, strict=True):
        moment.write(norm)
    return images


ONE_VALUE = "Expected more than 1 value per channel"
"""How torch's error begins where batch norm has nothing to take statistics of."""


def check_statistics(model: nn.Module, side: int) -> None:
    """UserError where one image of side × side pixels has a map of one pixel at a batch norm: its
    variance does not exist, and training would end in the first step."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    image = torch.empty((1, 3, side, side), device="meta")
    try:
        with torch.no_grad():
            functional_call(model, shapes, image)
    except NotImplementedError:  # an operation of the user's that computes with values
        return
    except ValueError as error:
        if not str(error).startswith(ONE_VALUE):
            raise
        raise UserError(one_value_per_channel(f"one image of {side}×{side} pixels")) from error


def one_value_per_channel(what: str) -> str:
    """The message where batch norm gets one value per channel of `what`."""
    return (
        f"train.batch_size: {what} per process and micro-batch leaves batch norm one value per "
        "channel; use two or more, a larger data.size, or model.backbone.norm=gn or frozen_bn"
    )
