"""What an update takes of the memory, estimated from the forward pass of an image or two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from resdet.engine.setup import Training

MIB = 2**20


def estimate_memory(training: Training, num_images: int) -> dict[str, float]:
    """MiB by what they hold, for `num_images` of the largest size in one forward pass.

    Activations are what autograd keeps of one image's forward pass, scaled by the area and the
    number of images; work space of convolutions and the framework itself come on top.
    """
    model, config = training.model, training.config
    weights = _mib(list(model.state_dict().values()))
    trained = _mib([p for p in model.parameters() if p.requires_grad])
    moments = 2 if config.optim.name != "sgd" else 1 if config.optim.momentum else 0
    batch, area = training.task.small_batch()
    batch = batch.to(training.processes.device)
    model.train()
    saved: list[int] = []
    # for two images nothing is worth compiling
    eager = torch.compiler.set_stance("force_eager")
    with eager, _counting_saved(model, saved), training.precision.autocast():
        losses, _ = training.task.losses(model, batch, seed=config.train.seed, step=0)
        torch.stack(list(losses.values())).sum()
    scale = num_images / len(batch.paths) * max(1.0, training.task.largest_area() / area)
    return {
        "weights": weights,
        "gradients": trained,
        "optimizer": moments * trained,
        "averaged weights": weights if training.ema else 0.0,
        "activations": sum(saved) / MIB * scale,
    }


def _mib(tensors: Sequence[Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MIB


def _counting_saved(model: nn.Module, sizes: list[int]) -> saved_tensors_hooks:
    """Inside, the bytes of each storage that autograd keeps go to `sizes`; weights are left out."""
    seen = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    held: list[Tensor] = []  # while counting, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held.append(tensor.detach())
            sizes.append(storage.nbytes())
        return tensor

    return saved_tensors_hooks(pack, lambda tensor: tensor)
