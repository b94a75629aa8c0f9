"""A training step on CIFAR-10: the loop of `train_cls.py` compared with plain PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from resdet import hardware
from resdet.backbones import build_backbone
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import load_config
from resdet.data.classification.cifar import CifarData, load_cifar
from resdet.engine import distributed, optim
from resdet.engine.run_folder import Run
from resdet.engine.setup import Training, prepare
from resdet.engine.step import update
from resdet.factory.classification import make_head
from resdet.memory import keep_memory
from tools.benchmark.detectors import ways
from tools.benchmark.report import Row, report
from tools.benchmark.turns import Contender, Step, take_turns, time_steps

FULL_STEPS = 64_000
"""Updates of the paper's CIFAR runs."""


def benchmark_cifar(
    root: str | Path,
    *,
    network: str = "cifar_resnet20",
    batch_size: int = 128,
    rounds: int = 5,
    steps: int = 20,
    compiled: bool = True,
    device: str | None = None,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Time training steps of `network` on CIFAR-10 below `root`, alternating, and print a table.

    The plain loop is fp32, contiguous, with torchvision's transforms (pad, crop, flip, normalise)
    in a DataLoader with the number of workers that is fastest here; the same network, batch and
    optimizer. Ours are eager in fp32, and in bf16 and compiled where the machine has those.
    `rounds` turns of `steps` steps each. With `out`, writes benchmark_cifar.json and .png there.
    Returns the rows of the table, each with `full_minutes`: 64,000 steps at its pace, extrapolated.
    """
    place = hardware.choose_device(device, 0)
    load_cifar("cifar10", root, train=True)  # or says what is wrong with the folder
    given = {"root": str(root), "network": network, "batch_size": batch_size, "device": str(place)}
    contenders = [Contender("plain PyTorch, fp32", f"{__name__}:make_plain", given)]
    contenders += [
        Contender(name, f"{__name__}:make_ours", {**given, "overrides": overrides})
        for name, overrides in variants(place, compiled).items()
    ]
    timings = take_turns(contenders, rounds=rounds, steps=steps, warmup=5, device=str(place))
    rows = report(
        [Row(each, batch_size, is_ours=each.name.startswith("resdet")) for each in timings],
        title=f"{network}, training on CIFAR-10, {batch_size} images per step, {place}",
        unit="images",
        name="cifar",
        out=out,
        details={"network": network, "batch_size": batch_size},
    )
    for row in rows:
        row["full_minutes"] = row["seconds"] and row["seconds"] * FULL_STEPS / 60
        if row["seconds"]:
            minutes = f"{row['full_minutes']:.0f} min"
            print(f"{row['name']}: {minutes} for {FULL_STEPS:,} steps, extrapolated")
    return rows


def variants(device: torch.device, compiled: bool) -> dict[str, list[str]]:
    """Overrides by the name of what they make."""
    formats = dict.fromkeys(["fp32", hardware.choose_precision("auto", device).name])
    return {
        f"resdet, {precision}, {how}": [
            f"train.precision={precision}",
            f"train.compile={str(is_compiled).lower()}",
        ]
        for precision in formats
        for how, is_compiled in ways(device, compiled=compiled).items()
    }


def make_ours(
    *, root: str, network: str, batch_size: int, device: str, overrides: list[str]
) -> Step:
    """One turn of the loop in engine/train.py: the next batch, and the update."""
    keep_memory()  # as the commands do
    given = [f"model.backbone.name={network}", f"data.root={root}", "data.val=null"]
    given += [f"train.batch_size={batch_size}", f"optim.reference_batch={batch_size}"]
    config = load_config("cifar10_resnet20", [*given, *overrides], schema=ClassificationConfig)
    processes = distributed.start(device)
    training: Training = prepare(Run(Path(), config, None), processes, strict=False)
    training.model.train()
    steps = enumerate(training.task.load_steps(0, training.total_steps, training.workers))

    def step() -> None:
        number, micro_batches = next(steps)
        optim.set_lr(training.optimizer, training.schedule.lr_at(number, training.adapted))
        update(training, micro_batches, number)

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


def make_plain(*, root: str, network: str, batch_size: int, device: str) -> tuple[Step, str]:
    """The loop as it is written by hand, with the fastest number of workers."""
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
    images, place = _PlainImages(data, transform), torch.device(device)
    times: dict[int, float] = {}
    made: dict[int, Step] = {}
    for workers in range((os.cpu_count() or 1) + 1 if (os.cpu_count() or 1) <= 4 else 5):
        made[workers] = _plain_loop(images, network, batch_size, workers, place)
        time_steps(made[workers], 2, place)
        times[workers] = time_steps(made[workers], 8, place)
    best = min(times, key=lambda workers: times[workers])
    return made[best], f"{best} worker(s)"


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
