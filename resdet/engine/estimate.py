"""What an update takes of the memory, estimated from the forward pass of an image or two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from resdet.config.loading import AnyConfig
from resdet.hardware import Precision
from resdet.memory import available_memory

if TYPE_CHECKING:
    from resdet.engine.setup import Training

MIB = 2**20

MEMORY_SHARE = 0.8
"""Of the free memory that a batch may take."""

ACTIVATIONS = "activations"


def estimate_memory(training: Training, num_images: int) -> dict[str, float]:
    """MiB by what they hold, for `num_images` of the largest size in one forward pass.

    Activations are what autograd keeps of one image's forward pass, scaled by the area and the
    number of images; work space of convolutions and the framework itself come on top.
    """
    task, config = training.task, training.config
    batch, area = task.small_batch()
    batch = batch.to(training.processes.device)
    scale = num_images / len(batch.paths) * max(1.0, task.largest_area() / area)
    return memory_of(
        training.model,
        config,
        lambda: task.losses(training.model, batch, seed=config.train.seed, step=0)[0],
        scale=scale,
        precision=training.precision,
        is_averaged=training.ema is not None,
    )


def memory_of(
    model: nn.Module,
    config: AnyConfig,
    losses: Callable[[], dict[str, Tensor]],
    *,
    scale: float,
    precision: Precision,
    is_averaged: bool,
) -> dict[str, float]:
    """MiB of training a model by what they hold; `losses` computes those of some images, whose
    activations are scaled by `scale`. `is_averaged` counts averaged weights."""
    weights = _mib(list(model.state_dict().values()))
    trained = _mib([p for p in model.parameters() if p.requires_grad])
    moments = 2 if config.optim.name != "sgd" else 1 if config.optim.momentum else 0
    model.train()
    saved: list[int] = []
    # for two images nothing is worth compiling
    eager = torch.compiler.set_stance("force_eager")
    with eager, _counting_saved(model, saved), precision.autocast():
        torch.stack(list(losses().values())).sum()
    return {
        "weights": weights,
        "gradients": trained,
        "optimizer": moments * trained,
        "averaged weights": weights if is_averaged else 0.0,
        ACTIVATIONS: sum(saved) / MIB * scale,
    }


def free_memory(device: torch.device) -> float | None:
    """Bytes of a device that are free; None where the system does not report it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def largest_batch(estimate: Mapping[str, float], num_images: int, free: float) -> int:
    """The largest power of two of images that fit into `MEMORY_SHARE` of `free` bytes, by the
    estimate for `num_images`; 0 if none does."""
    per_image = estimate[ACTIVATIONS] / num_images
    fixed = sum(size for name, size in estimate.items() if name != ACTIVATIONS)
    fit = (MEMORY_SHARE * free / MIB - fixed) / max(per_image, 1e-6)
    return 2 ** int(math.log2(fit)) if fit >= 1 else 0


def describe_batch(images: int, free: float) -> str:
    """What the log says of `largest_batch`."""
    what = f"{MEMORY_SHARE:.0%} of the {free / MIB:,.0f} MiB that are free"
    if not images:
        return f"suggestion: smaller images, as one does not fit into {what}"
    return (
        f"suggestion: up to {images} images per process and forward pass fit into {what}; "
        "train.batch_size=auto measures which number is fastest"
    )


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
