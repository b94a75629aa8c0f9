"""A training step on CIFAR-10: the loop of `train_cls.py` beside plain PyTorch."""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resdet.backbones import build_backbone
from resdet.config.loading import load_config
from resdet.config.schema_cls import ClsConfig
from resdet.data.cifar import CifarData, load_cifar
from resdet.engine import distributed, hardware, optim
from resdet.engine.run_folder import Run
from resdet.engine.setup import Training, prepare
from resdet.engine.step import update
from resdet.factory.classification import make_head

logger = logging.getLogger("resdet")

FULL_STEPS = 64_000
"""Updates of the paper's CIFAR runs."""
Step = Callable[[], None]


@dataclass
class StepTime:
    """What one way of training took."""

    name: str
    seconds: float
    """Median over the rounds of the mean time of a step."""
    ratio: float
    """Of the plain loop's time to this one: how many times as fast."""
    full_minutes: float
    """Of 64,000 steps at this pace, extrapolated."""


def benchmark_cifar(
    root: str | Path,
    *,
    network: str = "cifar_resnet20",
    batch_size: int = 128,
    rounds: int = 5,
    steps: int = 20,
    device: str | None = None,
    out: str | Path | None = None,
) -> list[StepTime]:
    """Time training steps of `network` on CIFAR-10 below `root`, in turns, and print a table.

    The plain loop is fp32, contiguous, with torchvision's transforms (pad, crop, flip, normalise)
    in a DataLoader with the number of workers that is fastest here; the same network, batch and
    optimizer. Ours are fp32, and bf16 and compiled ones where the machine has them. `rounds` turns
    of `steps` steps each, after a warm-up. Writes benchmark_cifar.json into `out`.
    """
    processes = distributed.start(device)
    ours = {
        name: _our_step(root, network, batch_size, overrides, device)
        for name, overrides in _variants(processes.device).items()
    }
    plain_name, plain = _plain_step(root, network, batch_size, processes.device)
    contenders = {plain_name: plain, **ours}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for name, step in contenders.items():
        logger.info(f"warm-up: {name}")
        _time(step, 5, processes.device)
    for number in range(rounds):
        for name, step in contenders.items():
            taken[name].append(_time(step, steps, processes.device))
        logger.info(
            f"round {number + 1} of {rounds}: "
            + ", ".join(f"{name} {times[-1]:.4f} s" for name, times in taken.items())
        )
    medians = {name: statistics.median(times) for name, times in taken.items()}
    found = [
        StepTime(name, seconds, medians[plain_name] / seconds, seconds * FULL_STEPS / 60)
        for name, seconds in medians.items()
    ]
    _report(found, network, batch_size, out)
    return found


def _variants(device: torch.device) -> dict[str, list[str]]:
    """Overrides by the name of what they make."""
    variants = {"resdet, fp32": ["train.precision=fp32", "train.compile=false"]}
    can_compile = hardware.choose_compile(True, device)[0]
    if can_compile:
        variants["resdet, fp32 compiled"] = ["train.precision=fp32", "train.compile=true"]
    has_bf16 = hardware.choose_precision("auto", device).name == "bf16"
    if has_bf16:
        variants["resdet, bf16"] = ["train.precision=bf16", "train.compile=false"]
    if has_bf16 and can_compile:
        variants["resdet, bf16 compiled"] = ["train.precision=bf16", "train.compile=true"]
    return variants


def _our_step(
    root: str | Path, network: str, batch_size: int, overrides: Sequence[str], device: str | None
) -> Step:
    """One turn of the loop in engine/train.py: the next batch, and the update."""
    given = [f"model.backbone.name={network}", f"data.root={root}", "data.val=null"]
    given += [f"train.batch_size={batch_size}", f"optim.reference_batch={batch_size}"]
    config = load_config("cifar10_resnet20", [*given, *overrides], schema=ClsConfig)
    processes = distributed.start(device)
    training: Training = prepare(Run(Path(), config, None), processes, strict=False)
    training.model.train()
    batches = training.task.load_steps(
        training.plan,
        start_step=0,
        end_step=training.total_steps,
        processes=processes,
        workers=training.workers,
    )
    steps = iter(enumerate(batches))

    def step() -> None:
        number, parts = next(steps)
        optim.set_lr(training.optimizer, training.schedule.lr_at(number, training.adapted))
        update(training, parts, number, processes)

    return step


class _PlainImages(Dataset[Any]):
    """As torchvision's CIFAR10: a Pillow image an index, through the transforms."""

    def __init__(self, data: CifarData, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images: np.ndarray = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def _plain_step(
    root: str | Path, network: str, batch_size: int, device: torch.device
) -> tuple[str, Step]:
    """The loop as it is written by hand, with the fastest number of workers, and its name."""
    data = load_cifar("cifar10", root, train=True)
    mean = (data.pixel_mean().mean((1, 2)) / 255).tolist()
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, [64 / 255] * 3),
        ]
    )
    images = _PlainImages(data, transform)
    times: dict[int, float] = {}
    made: dict[int, Step] = {}
    for workers in range((os.cpu_count() or 1) + 1 if (os.cpu_count() or 1) <= 4 else 5):
        made[workers] = _plain_loop(images, network, batch_size, workers, device)
        _time(made[workers], 2, device)
        times[workers] = _time(made[workers], 8, device)
    best = min(times, key=lambda workers: times[workers])
    return f"plain PyTorch, fp32, {best} worker(s)", made[best]


def _plain_loop(
    images: Dataset[Any], network: str, batch_size: int, workers: int, device: torch.device
) -> Step:
    torch.manual_seed(0)
    model = _plain_model(network).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        images,
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
        persistent_workers=workers > 0,
    )

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        inputs, labels = next(batches)
        logits = model(inputs.to(device, non_blocking=True))
        loss = F.cross_entropy(logits, labels.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _plain_model(network: str) -> nn.Module:
    """The network alone, as modules of PyTorch in their own memory layout."""
    backbone = build_backbone(network)
    return nn.Sequential(backbone, make_head(backbone, 10, None))


def _time(step: Step, count: int, device: torch.device) -> float:
    """Mean seconds of `count` steps."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / count


def _report(
    found: Sequence[StepTime], network: str, batch_size: int, out: str | Path | None
) -> None:
    width = max(len(each.name) for each in found)
    print(f"\n{network}, a step of {batch_size} images, {torch.get_num_threads()} thread(s)")
    for each in found:
        print(
            f"{each.name:{width}}  {each.seconds:.4f} s  {batch_size / each.seconds:7.0f} images/s"
            f"  {each.ratio:.2f} ×  {each.full_minutes:.0f} min for 64,000 steps, extrapolated"
        )
    if out is None:
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "network": network,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "steps": [asdict(each) for each in found],
    }
    (folder / "benchmark_cifar.json").write_text(json.dumps(values, indent=2) + "\n")
