"""Mask R-CNN R50-FPN: inference and training steps of resdet and of the other toolkits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Unpack

import torch
from torch.utils.flop_counter import FlopCounterMode

from resdet import hardware
from resdet.errors import UserError
from tools.benchmark import detectors, detectron2_side
from tools.benchmark.exports import RUNTIMES, export_contenders
from tools.benchmark.limits import measure_limits
from tools.benchmark.report import network_row, report
from tools.benchmark.scenes import SceneOptions, write_scene
from tools.benchmark.turns import Contender, Step, take_turns, tidy

OTHERS = ("torchvision", "detectron2")
_HERE = "tools.benchmark.detectors"
_BESIDE = "tools.benchmark.detectron2_side"


def benchmark_detector(
    work: str,
    *,
    against: Sequence[str] | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    compiled: bool = True,
    precisions: Sequence[str] | None = None,
    rounds: int = 5,
    steps: int = 2,
    out: str | Path | None = None,
    **options: Unpack[SceneOptions],
) -> list[dict[str, Any]]:
    """Time `work`, infer or train, print the table; with `out` write benchmark_<work>.json, .png.

    Inference goes from the resized image to pasted masks, a training step from the batch to the
    new weights. `against` are of `OTHERS`, and for inference on a CPU of the runtimes that exports
    are timed in; None is all that are installed. `batch_size` None is 1 image for inference
    and 2 for training; `precisions` are those of ours that are timed, None all; `options` as in
    `write_scene`.
    """
    assert work in ("infer", "train"), work
    place = hardware.choose_device(device, 0)
    known = (*OTHERS, *(RUNTIMES if work == "infer" and place.type == "cpu" else ()))
    if against is None:
        against = [name for name in known if name in OTHERS or find_spec(name) is not None]
    unknown = [name for name in against if name not in known]
    if unknown:
        raise UserError(f"--against {', '.join(unknown)}: choose from {', '.join(known)}")
    if batch_size is None:
        batch_size = {"infer": 1, "train": 2}[work]
    limits = measure_limits(place)
    with tempfile.TemporaryDirectory(prefix="resdet_benchmark_") as name:
        scene = str(write_scene(Path(name), batch_size=batch_size, **options))
        title = _title(work, scene, place)
        flops = _count_flops(work, scene, place)
        found = _others(work, against, scene, place, list(limits.flops))
        formats = [each for each in limits.flops if precisions is None or each in precisions]
        found += _ours(work, scene, place, formats, compiled)
        runtimes = [name for name in RUNTIMES if name in against]
        found += export_contenders(scene, Path(name), runtimes) if runtimes else []
        timings = take_turns(found, rounds=rounds, steps=steps, warmup=2, device=str(place))
    rows = [network_row(timing, batch_size, flops, limits) for timing in timings]
    details = {
        "work": work,
        "device": str(place),
        "weights": options.get("weights") or "random",
        "limits": {"flops": limits.flops, "copy_bytes_per_s": limits.bytes_per_s},
    }
    return report(rows, title=title, unit="images", name=work, out=out, details=details)


def _title(work: str, scene: str, place: torch.device) -> str:
    found = detectors.load_scene(scene)
    height, width = found["images"].shape[2:]
    objects = found["boxes"].shape[1]
    words = {
        "infer": "inference to pasted masks",
        "train": f"training, {objects} objects per image",
    }
    images = f"{found['batch_size']} × {height}×{width}"
    return f"Mask R-CNN R{found['depth']}-FPN, {words[work]}, {images}, {place}"


FUNCTIONS = {"infer": "inference", "train": "training"}


def _others(
    work: str, against: Sequence[str], scene: str, place: torch.device, formats: Sequence[str]
) -> list[Contender]:
    given = {"scene": scene, "device": str(place)}
    makers = {
        "torchvision": f"{_HERE}:make_torchvision_{FUNCTIONS[work]}",
        "detectron2": f"{_BESIDE}:make_{FUNCTIONS[work]}",
    }
    found = []
    for other in OTHERS:
        if other not in against or (other == "detectron2" and not detectron2_side.is_installed()):
            continue
        for precision in formats:
            arguments = {**given, "precision": precision}
            found.append(Contender(f"{other}, {precision}", makers[other], arguments))
    return found


def _ours(
    work: str, scene: str, place: torch.device, formats: Sequence[str], compiled: bool
) -> list[Contender]:
    make = f"{_HERE}:make_resdet_{FUNCTIONS[work]}"
    given = {"scene": scene, "device": str(place)}
    return [
        Contender(
            f"resdet, {precision}, {how}",
            make,
            {**given, "precision": precision, "compiled": is_compiled},
        )
        for precision in formats
        for how, is_compiled in detectors.ways(place, compiled=compiled).items()
    ]


def _count_flops(work: str, scene: str, place: torch.device) -> float:
    """Of one step: convolutions and matrix products, two operations a multiply-add."""
    makers: dict[str, Callable[..., tuple[Step, str]]] = {
        "infer": detectors.make_resdet_inference,
        "train": detectors.make_resdet_training,
    }
    step, _ = makers[work](scene=scene, device=str(place), precision="fp32", compiled=False)
    with FlopCounterMode(display=False) as counter:
        step()
    del step
    tidy(place)  # the contenders need the memory
    return float(counter.get_total_flops())
