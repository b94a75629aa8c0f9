"""What Mask R-CNN R50-FPN costs, one setting varied at a time: time per image, and peak memory."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resdet import hardware
from resdet.engine import distributed
from resdet.viz.plots import COLORS, save_figure, style
from tools.benchmark import detectors
from tools.benchmark.report import machine
from tools.benchmark.scenes import write_scene
from tools.benchmark.turns import Contender, Step, Timing, take_turns

logger = logging.getLogger("resdet")

WORKS = {"train": "training", "infer": "inference"}


@dataclass(frozen=True)
class Setting:
    """What a step works on."""

    size: tuple[int, int]
    """Height and width of the images in pixels."""
    batch: int
    """Images per step and process."""
    objects: int = 8
    """An image: that are trained on, or that inference keeps and pastes."""
    classes: int = 80
    processes: int = 1

    def describe(self) -> str:
        height, width = self.size
        return (
            f"{self.batch} × {height}×{width}, {self.objects} objects per image, "
            f"{self.classes} classes, {self.processes} process(es)"
        )


AXES = {
    "size": "megapixels an image",
    "objects": "objects per image",
    "classes": "classes",
    "batch": "images per step",
    "processes": "processes, with as many images each",
}
"""Name and label of what is varied."""
OBJECTS, CLASSES, BATCHES = (1, 8, 32, 100), (1, 20, 80, 400, 1200), (1, 2, 4, 8)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)


def settings(work: str, base: Setting, device: torch.device) -> dict[str, list[Setting]]:
    """The settings of each axis of `work`, `base` among them."""
    height, width = base.size
    sizes = [(_rounded(height * scale), _rounded(width * scale)) for scale in SCALES]
    units = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    found = {
        "size": [replace(base, size=size) for size in sizes],
        "objects": [replace(base, objects=count) for count in OBJECTS],
        "classes": [replace(base, classes=count) for count in CLASSES],
        "batch": [replace(base, batch=count) for count in BATCHES],
    }
    if work == "train":
        powers = (2**power for power in range(8))
        found["processes"] = [replace(base, processes=n) for n in powers if n <= units]
    return {
        axis: sorted({*each, base}, key=lambda one: value_of(axis, one))
        for axis, each in found.items()
    }


def _rounded(side: float) -> int:
    return max(1, round(side / 32)) * 32


def value_of(axis: str, setting: Setting) -> float:
    """The position of a setting along an axis."""
    if axis == "size":
        return setting.size[0] * setting.size[1] / 1e6
    return float(getattr(setting, axis))


def measure_cost(
    *,
    size: tuple[int, int] = (800, 1216),
    batch_size: int = 2,
    device: str | None = None,
    rounds: int = 5,
    steps: int = 1,
    out: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Time training steps and inference while one of the `AXES` grows, and print a table.

    Around images of `size` (height, width) in pixels, `batch_size` of them, 8 objects, 80 classes
    and 1 process, in the number format that the device is best at. The settings of an axis take
    turns, each in a process of its own. Weights are random; inference has the threshold that leaves
    1,000 scores per image to NMS, and keeps as many objects as the setting says. With `out`, writes
    benchmark_cost.json and .png there.
    """
    place = hardware.choose_device(device, 0)
    base = Setting(size, batch_size)
    precision = hardware.choose_precision("auto", place).name
    can_compile = hardware.choose_compile("auto", place)[0]
    how = {"device": str(place), "precision": precision, "compiled": can_compile}
    rows: list[dict[str, Any]] = []
    for work, words in WORKS.items():
        for axis, varied in settings(work, base, place).items():
            logger.info(f"{words}, {AXES[axis]}")
            timings = _take(work, varied, how, rounds, steps)
            rows += [
                _row(work, axis, setting, timing)
                for setting, timing in zip(varied, timings, strict=True)
            ]
            _print(rows[-len(varied) :], f"{words}: {AXES[axis]}")
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        title = f"Mask R-CNN R50-FPN on {place}, {precision}: {base.describe()}, one varied"
        written = {"title": title, **machine(), **how, "rows": rows}
        path = folder / "benchmark_cost.json"
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        draw_cost(rows, folder / "benchmark_cost.png", title=title)
        logger.info(f"written: {path} and the chart beside it")
    return rows


def _take(
    work: str, varied: Sequence[Setting], how: dict[str, Any], rounds: int, steps: int
) -> list[Timing]:
    with tempfile.TemporaryDirectory(prefix="resdet_cost_") as name:
        contenders = []
        for number, setting in enumerate(varied):
            folder = Path(name) / str(number)
            folder.mkdir()
            scene = write_scene(
                folder,
                batch_size=setting.batch,
                size=setting.size,
                objects=setting.objects,
                num_classes=setting.classes,
            )
            given: dict[str, Any] = {"scene": str(scene), **how}
            given |= {"objects": setting.objects} if work == "infer" else {}
            given |= {"processes": setting.processes} if work == "train" else {}
            contenders.append(Contender(setting.describe(), f"{__name__}:make_{work}", given))
        return take_turns(
            contenders, rounds=rounds, steps=steps, warmup=1, device=str(how["device"])
        )


def _row(work: str, axis: str, setting: Setting, timing: Timing) -> dict[str, Any]:
    images = setting.batch * setting.processes
    return {
        "work": work,
        "axis": axis,
        "value": value_of(axis, setting),
        "setting": setting.describe(),
        "images": images,
        "seconds": timing.seconds,
        "fastest_s": timing.fastest_s,
        "slowest_s": timing.slowest_s,
        "peak_mb": timing.peak_mb,
        "error": timing.error,
    }


def _print(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    print(f"\n{title}")
    for row in rows:
        if row["error"]:
            print(f"{row['value']:8g}  failed: {row['error']}")
            continue
        print(
            f"{row['value']:8.4g}  {row['seconds']:.4f} s per step ({row['fastest_s']:.4f}–"
            f"{row['slowest_s']:.4f})  {row['seconds'] / row['images']:.4f} s per image  "
            f"{row['peak_mb']:6.0f} MiB"
        )


def draw_cost(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Time an image above, with the fastest and slowest turns as a band, peak memory below."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    panels = figure.subplots(2, len(AXES), sharey="row")
    for column, (axis, label) in enumerate(AXES.items()):
        upper, lower = panels[:, column]
        for color, (work, words) in zip(COLORS, WORKS.items(), strict=False):
            found = [r for r in rows if (r["axis"], r["work"]) == (axis, work) and not r["error"]]
            values = [row["value"] for row in found]
            low, middle, high = (
                [row[key] / row["images"] for row in found]
                for key in ("fastest_s", "seconds", "slowest_s")
            )
            upper.fill_between(values, low, high, color=color, alpha=0.15, lw=0)
            upper.plot(values, middle, "o-", color=color, ms=4)
            peaks = [row["peak_mb"] / 1024 for row in found]
            lower.plot(values, peaks, "o-", color=color, ms=4, label=words)
        for axes in (upper, lower):
            style(axes, "")
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=axis != "size"))
        lower.set_xlabel(label)
    for row in panels:
        # shared, so after the last curve
        row[0].set_ylim(bottom=0)
    panels[0, 0].set_ylabel("seconds per image")
    panels[1, 0].set_ylabel("peak memory (GiB)")
    panels[1, 0].legend(loc="best", fontsize=8)
    save_figure(figure, path)


def make_train(
    *,
    scene: str,
    device: str,
    precision: str,
    compiled: bool,
    processes: int,
    rank: int = 0,
    port: int = 0,
) -> tuple[Step, str]:
    """A step of one of several processes; the first starts the others, which end with it."""
    given: dict[str, Any] = {"scene": scene, "device": device}
    given |= {"precision": precision, "compiled": compiled}
    if processes == 1:
        return detectors.make_resdet_training(**given)
    if rank == 0:
        port = _free_port()
        context = torch.multiprocessing.get_context("spawn")
        for other in range(1, processes):
            arguments = {**given, "processes": processes, "rank": other, "port": port}
            context.Process(target=_follow, args=(arguments,), daemon=True).start()
    os.environ |= {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    joined = distributed.start(torch.device(device).type)
    return detectors.make_resdet_training(**given, processes=joined)


def _follow(arguments: dict[str, Any]) -> None:
    """Take steps until the first process ends: a backward pass waits for all."""
    step, _ = make_train(**arguments)
    while True:
        step()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make_infer(
    *, scene: str, device: str, precision: str, compiled: bool, objects: int
) -> tuple[Step, str]:
    """Inference that keeps the best `objects` of each image."""
    found = detectors.load_scene(scene)
    overrides = [f"train.precision={precision}", f"model.detections_per_image={objects}"]
    model = detectors.resdet_model(found, overrides)
    model.place(torch.device(device))
    model.set_compiled(compiled)
    return detectors.inference_step(model, found), ""
