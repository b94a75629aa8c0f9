"""Several processes, as torchrun starts them: one process group, and a few exchanges over it."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resdet.errors import UserError
from resdet.hardware import choose_device


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of the run."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """The one process that prints and writes files."""
        return self.rank == 0


def start(device: str | None) -> Processes:
    """Join the process group that torchrun describes; a single process needs none.

    GPUs exchange tensors over NCCL, and everything on the host goes over gloo.
    """
    world_size = _env("WORLD_SIZE", 1)
    rank = _env("RANK", 0)
    chosen = choose_device(device, _env("LOCAL_RANK", 0))
    if chosen.type == "cuda":
        # the process is the run's own, unlike that of whoever loads a model
        torch.cuda.set_device(chosen)
    if world_size > 1:
        if chosen.type == "cuda" and device is not None and torch.device(device).index is not None:
            raise UserError(f"--device {device} would put {world_size} processes on one GPU")
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    return Processes(rank, world_size, _env("LOCAL_WORLD_SIZE", 1), chosen)


def stop(processes: Processes) -> None:
    if processes.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def _env(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise UserError(f"environment variable {name}={text!r} is not a number; torchrun sets it")
    return int(text)


def images_per_part(batch_size: int, world_size: int, accumulate: int) -> int:
    """Images of one forward pass; UserError where the batch does not split evenly."""
    parts = world_size * accumulate
    if batch_size % parts:
        raise UserError(
            f"train.batch_size {batch_size} does not split into {world_size} process(es) × "
            f"train.accumulate {accumulate} = {parts} equal parts; use a multiple of {parts}"
        )
    return batch_size // parts


def check_norms(model: nn.Module, processes: Processes) -> None:
    """UserError for SyncBatchNorm over several processes without GPUs, where torch has none."""
    if processes.world_size == 1 or processes.device.type == "cuda":
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise UserError(
                f"norm sync_bn (first in {name}) works on GPUs only, and these are "
                f"{processes.world_size} processes on the CPU; use norm gn or frozen_bn, "
                "or one process"
            )


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """The model whose backward pass averages gradients over the processes."""
    if processes.world_size == 1:
        return model
    ids = [processes.device.index] if processes.device.type == "cuda" else None
    # Buffers follow process 0, whose batch norm statistics are the ones that are saved.
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def share_buffers(model: nn.Module, processes: Processes) -> None:
    """Every process takes the main one's buffers: batch norm statistics differ until then."""
    if processes.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def any_process(flag: bool, processes: Processes) -> bool:
    """Whether the flag is set in any process; a host-side exchange that waits for no GPU."""
    if processes.world_size == 1:
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def mean(values: Tensor, processes: Processes) -> Tensor:
    """Mean of a host tensor over the processes, in every one of them."""
    if processes.world_size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / processes.world_size


def gather(value: Any, processes: Processes) -> list[Any]:
    """The values of all processes in rank order, in every process."""
    if processes.world_size == 1:
        return [value]
    values: list[Any] = [None] * processes.world_size
    dist.all_gather_object(values, value)
    return values


def gather_to_main(value: Any, processes: Processes) -> list[Any]:
    """The values of all processes in rank order on the main one, an empty list elsewhere."""
    if processes.world_size == 1:
        return [value]
    values: list[Any] | None = [None] * processes.world_size if processes.is_main else None
    dist.gather_object(value, values)
    return values or []


def broadcast(value: Any, processes: Processes) -> Any:
    """The main process's value, in every process."""
    if processes.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def barrier(processes: Processes) -> None:
    """Wait until every process is here."""
    any_process(False, processes)
