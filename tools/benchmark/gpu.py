"""All timings on one GPU, part after part, and their aims: which hold and which do not."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resdet import hardware
from resdet.data.classification.dataset import open_images
from resdet.data.classification.samples import collate_classification
from resdet.data.classification.transforms import ClassificationTrainTransform, RandomResizedCrop
from resdet.data.loader import TrainPlan, train_loader
from resdet.errors import UserError
from tools.benchmark.cifar import benchmark_cifar
from tools.benchmark.classification import benchmark_network
from tools.benchmark.data_others import CROP_SIDE, FLIP_PROB
from tools.benchmark.detection import benchmark_detector
from tools.benchmark.report import machine

logger = logging.getLogger("resdet")

SIZE = (800, 1344)
"""800×1333 as it is padded."""
PARTS = ("train", "train101", "infer", "cls", "cifar", "input")
CIFAR_STEPS = 64_000


@dataclass
class Aim:
    """What a part is to reach, and what it reached."""

    part: str
    aim: str
    found: str
    holds: bool


def benchmark_gpu(
    *,
    parts: Sequence[str] = PARTS,
    cifar: str | Path | None = None,
    root: str | Path | None = None,
    weights: str | None = None,
    images: str | Path | None = None,
    tiles: int = 1,
    device: str | None = None,
    rounds: int = 3,
    steps: int = 10,
    out: str | Path | None = None,
) -> list[Aim]:
    """Time Mask R-CNN, ResNet-50 and CIFAR's ResNet-56 in bf16, ours and others'; print the aims.

    The parts are training of R50-FPN (16 images of 800×1344) and of R101-FPN, inference (8 images),
    ResNet-50 (256 images of 224) from memory, ResNet-56 on the CIFAR-10 below `cifar`, and the
    loading of the images below `root` by all cores. Those whose data is not given are left out, and
    one that fails does not stop the others. With `out`, writes benchmark_gpu.json, and the tables
    and charts of the parts into a folder each.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise UserError(f"--parts {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    place = hardware.choose_device(device, 0)
    common: dict[str, Any] = {"device": str(place), "rounds": rounds}
    detector: dict[str, Any] = {**common, "size": SIZE, "steps": steps, "precisions": ["bf16"]}
    trained = {"weights": weights, "images": images, "tiles": tiles}

    def folder(part: str) -> Path | None:
        return None if out is None else Path(out) / part

    works: dict[str, Callable[[], list[Aim]]] = {
        "train": partial(_train, **detector, **trained, out=folder("train")),
        "train101": partial(_train101, **detector, out=folder("train101")),
        "infer": partial(_infer, **detector, **trained, out=folder("infer")),
        "cls": partial(_cls, **common, steps=steps, out=folder("cls")),
        "cifar": partial(_cifar, str(cifar), **common, steps=10 * steps, out=folder("cifar")),
        "input": partial(_input, str(root)),
    }
    needs = {"cifar": cifar, "input": root}
    aims: list[Aim] = []
    for part in parts:
        if part in needs and needs[part] is None:
            logger.info(f"{part}: no data given, left out")
            continue
        start = time.perf_counter()
        try:
            aims += works[part]()
        # the other parts are of use all the same
        except Exception as error:
            logger.exception(f"{part} failed")
            aims.append(Aim(part, "to run", f"{type(error).__name__}: {error}", False))
        logger.info(f"{part}: {time.perf_counter() - start:.0f} s")
        _write(aims, out)
    for each in aims:
        print(f"{'holds' if each.holds else 'NOT':5}  {each.part}: {each.aim}; {each.found}")
    return aims


def _write(aims: Sequence[Aim], out: str | Path | None) -> None:
    """After each part, so that a run that is cut off leaves what it found."""
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        written = {**machine(), "aims": [asdict(each) for each in aims]}
        path = Path(out) / "benchmark_gpu.json"
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _train(**given: Any) -> list[Aim]:
    rows = benchmark_detector("train", batch_size=16, **given)
    return [_rate("train", rows, 100), _ratio("train", rows, 3)]


def _train101(**given: Any) -> list[Aim]:
    rows = benchmark_detector("train", batch_size=16, depth=101, against=(), **given)
    return [_rate("train101", rows, 75)]


def _infer(**given: Any) -> list[Aim]:
    rows = benchmark_detector("infer", batch_size=8, **given)
    return [_rate("infer", rows, 250), _ratio("infer", rows, 3)]


def _cls(**given: Any) -> list[Aim]:
    return [_rate("cls", benchmark_network(batch_size=256, **given), 3500)]


def _cifar(root: str, **given: Any) -> list[Aim]:
    rows = benchmark_cifar(root, network="cifar_resnet56", **given)
    minutes = CIFAR_STEPS * _best(rows)["seconds"] / 60
    aim = f"{CIFAR_STEPS:,} steps in 8 minutes"
    return [Aim("cifar", aim, f"{minutes:.1f} minutes, extrapolated", minutes <= 8)]


def _input(root: str, batch_size: int = 256, steps: int = 40) -> list[Aim]:
    """Batches of the loader that `train_cls.py` has, with a worker a core."""
    workers = os.cpu_count() or 1
    transform = ClassificationTrainTransform(
        CROP_SIDE, crop=RandomResizedCrop(), flip_prob=FLIP_PROB
    )
    dataset = open_images(root, transform=transform)
    # what is ready when the clock starts must not count
    ahead = 2 * workers
    batches = train_loader(
        dataset,
        TrainPlan(num_images=len(dataset), batch_size=batch_size, seed=0),
        start_step=0,
        end_step=2 * ahead + steps,
        workers=workers,
        collate=collate_classification,
    )
    for _ in itertools.islice(batches, ahead):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in itertools.islice(batches, steps))
    rate = count * batch_size / (time.perf_counter() - start)
    found = f"{rate:.0f} images/s on {workers} cores"
    return [Aim("input", "3,500 images/s loaded", found, rate >= 3500)]


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of ours."""
    ours = [row for row in rows if row["name"].startswith("resdet") and row["seconds"]]
    if not ours:
        raise UserError("; ".join(f"{row['name']}: {row['error']}" for row in rows))
    return min(ours, key=lambda row: row["seconds"])


def _rate(part: str, rows: Sequence[dict[str, Any]], wanted: float) -> Aim:
    best = _best(rows)
    found = f"{best['per_s']:.1f} images/s ({best['name']}), {best['peak_mb']:.0f} MiB"
    return Aim(part, f"{wanted} images/s", found, best["per_s"] >= wanted)


def _ratio(part: str, rows: Sequence[dict[str, Any]], wanted: float) -> Aim:
    """The ratio to torchvision's fastest; the others are listed."""
    best = _best(rows)
    ratios = {
        row["name"]: best["per_s"] / row["per_s"]
        for row in rows
        if row["name"].startswith("torchvision") and row["per_s"]
    }
    found = ", ".join(f"{value:.2f} × {name}" for name, value in ratios.items())
    holds = bool(ratios) and min(ratios.values()) >= wanted
    return Aim(part, f"{wanted} × torchvision", found or "torchvision failed", holds)
