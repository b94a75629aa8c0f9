"""A training step of an ImageNet network from memory: resdet's and torchvision's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from resdet import hardware
from resdet.config.find import find_shipped
from resdet.errors import UserError
from resdet.factory import build
from resdet.memory import keep_memory
from resdet.models.classifier import Classifier
from tools.benchmark.detectors import autocast, training_step, ways
from tools.benchmark.limits import measure_limits
from tools.benchmark.report import network_row, report
from tools.benchmark.turns import Contender, Step, take_turns

NUM_CLASSES = 1000
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def benchmark_network(
    network: str = "resnet50",
    *,
    batch_size: int = 32,
    size: int = 224,
    rounds: int = 5,
    steps: int = 3,
    compiled: bool = True,
    device: str | None = None,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Time training steps of `network` on images (size, size) in memory, and print a table.

    From uint8 pixels to the updated weights. torchvision's model of that name is trained as by
    hand, in its own memory layout. With `out`, writes benchmark_cls.json and .png there.
    """
    if network not in models.list_models(module=models):
        raise UserError(f"--network {network}: torchvision has no such model to compare with")
    _config_of(network)
    place = hardware.choose_device(device, 0)
    limits = measure_limits(place)
    given = {"network": network, "batch_size": batch_size, "size": size, "device": str(place)}
    contenders = [
        Contender(f"torchvision, {name}", f"{__name__}:make_plain", {**given, "precision": name})
        for name in limits.flops
    ]
    for name in limits.flops:
        for how, is_compiled in ways(place, compiled=compiled).items():
            arguments = {**given, "precision": name, "compiled": is_compiled}
            label = f"resdet, {name}, {how}"
            contenders.append(Contender(label, f"{__name__}:make_ours", arguments))
    with FlopCounterMode(display=False) as counter:
        make_plain(network=network, batch_size=2, size=size, device="cpu", precision="fp32")()
    timings = take_turns(contenders, rounds=rounds, steps=steps, warmup=2, device=str(place))
    flops = float(counter.get_total_flops()) * batch_size / 2
    rows = [network_row(timing, batch_size, flops, limits) for timing in timings]
    return report(
        rows,
        title=f"{network}, training from memory, {batch_size} × {size}×{size}, {place}",
        unit="images",
        name="cls",
        out=out,
        details={"network": network, "device": str(place)},
    )


def make_plain(*, network: str, batch_size: int, size: int, device: str, precision: str) -> Step:
    model: nn.Module = models.get_model(network, weights=None).to(device).train()
    images, labels = _batch(batch_size, size, device)
    mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))
    context = autocast(precision, device)

    def losses() -> Tensor:
        with context():
            logits = model((images.float() - mean) / std)
        return F.cross_entropy(logits.float(), labels)

    return training_step(model, losses)


def make_ours(
    *, network: str, batch_size: int, size: int, device: str, precision: str, compiled: bool
) -> Step:
    keep_memory()  # as the commands do
    config = _config_of(network)
    model = build(config, weights=None, overrides=[f"model.num_classes={NUM_CLASSES}"])
    assert isinstance(model, Classifier)
    place = torch.device(device)
    model.place(place)
    model.set_compiled(compiled)
    model.train()
    images, labels = _batch(batch_size, size, device)
    chosen = hardware.choose_precision(precision, place)

    def losses() -> Tensor:
        with chosen.autocast():
            logits = model(model.normalize(images))[0]
        return F.cross_entropy(logits.float(), labels)

    return training_step(model, losses)


def _config_of(network: str) -> Path:
    """The shipped config of torchvision's own variant; UserError where there is none."""
    for name in (f"imagenet_{network}_tv1", f"imagenet_{network}"):
        found = find_shipped(Path(name))
        if found is not None:
            return found
    raise UserError(f"--network {network}: no config imagenet_{network}.yaml is shipped")


def _batch(count: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
    return images.to(device), labels.to(device)
