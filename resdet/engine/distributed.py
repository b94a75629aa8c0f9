"""Several processes, as torchrun starts them: one process group, and a few exchanges over it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resdet.engine.peers import Meeting, Peers, greet
from resdet.errors import UserError
from resdet.hardware import choose_device

Batch = TypeVar("Batch")


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


@contextmanager
def joined(device: str | None) -> Iterator[Processes]:
    """The processes of a run, inside; where one of them ends by an error, all do.

    The group is destroyed after success or a requested stop only: the others may be waiting in an
    exchange, which would then never end.
    """
    processes = start(device)
    peers = meet(processes)
    try:
        yield processes
    except SystemExit:
        _part(peers)
        raise
    except BaseException as error:
        if peers is None:
            raise
        ending = peers.end(error)
        if ending is error:
            raise
        raise ending from None
    _part(peers)


def _part(peers: Peers | None) -> None:
    if peers is not None:
        peers.part()
        dist.destroy_process_group()


def meet(processes: Processes) -> Peers | None:
    """Connect the processes; None where there is one."""
    if processes.world_size == 1:
        return None
    meeting = Meeting() if processes.is_main else None
    host = os.environ["MASTER_ADDR"]
    known = (meeting.port, meeting.secret) if meeting else None
    port, secret = broadcast(known, processes)
    if meeting is not None:
        return Peers(0, meeting.connections(processes.world_size - 1))
    return Peers(processes.rank, {0: greet(host, port, secret, processes.rank)})


def in_step(batches: Iterator[Batch], processes: Processes) -> Iterator[Batch]:
    """The batches. Where one process cannot have its next one, the error is raised in all, before
    any of them computes with its own: the weights are then those of a whole step.
    """
    while True:
        batch, fault = None, None
        try:
            batch = next(batches, None)
        except UserError as error:
            fault = error
        if any_process(fault is not None, processes):
            texts = gather(None if fault is None else str(fault), processes)
            rank, text = next((rank, text) for rank, text in enumerate(texts) if text is not None)
            raise fault or UserError(f"process {rank}: {text}")
        if batch is None:
            return
        yield batch


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
