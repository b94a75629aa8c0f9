"""What the golden files record of a run, for the script that made them and for the tests.

Everything here goes through the public API, the commands and the files of a run folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

import resdet
from resdet.cli import main

NEW_STEPS = 4
"""Steps of a new run that are compared."""
MORE_STEPS = 2
"""Steps by which a stored run is made longer."""
DETECTIONS = 15
"""Detections per image that are recorded."""
IMAGES = [
    "datasets/nuclei/images/dae976f161fe42dc.png",
    "datasets/nuclei/images/fdda64c47361b0d1.png",
]
CROPS = [f"tests/golden/data/classes/val/{name}/1.png" for name in ("empty", "large", "small")]


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses_of(run: Path, *, first: int = 1, last: int | None = None) -> dict[str, dict]:
    """Losses and learning rate by step."""
    return {
        str(line["step"]): {k: v for k, v in line.items() if k.startswith("loss") or k == "lr"}
        for line in log_of(run)
        if "loss" in line and line["step"] >= first and (last is None or line["step"] <= last)
    }


def digest(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Sum and sum of absolute values of each tensor, in float64."""
    return {
        name: [float(t.double().sum()), float(t.double().abs().sum())]
        for name, t in tensors.items()
    }


def weights_of(path: Path) -> dict[str, Any]:
    """Digests of a checkpoint's weights and averaged weights, by name."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    return {part: digest(found[part] or {}) for part in ("model", "ema")}


def whole_run(run: Path) -> dict[str, Any]:
    """All that the killed run must end with."""
    validations = [line for line in log_of(run) if "eval" in line]
    return {
        "losses": losses_of(run),
        "metrics": {str(line["step"]): line["eval"] for line in validations},
        "val_losses": {str(line["step"]): line["val_losses"] for line in validations},
        "weights": weights_of(run / "last.pt"),
    }


def steps_of(run: Path) -> int:
    return max(line["step"] for line in log_of(run))


def extend(run: Path, copy: Path) -> dict[str, dict]:
    """Resume a copy of a finished run to train it longer; returns the losses of the new steps."""
    shutil.copytree(run, copy)
    done = steps_of(run)
    overrides = [f"train.max_steps={done + MORE_STEPS}"]
    resdet.train(None, overrides, run_dir=copy, resume=True, device="cpu")
    return losses_of(copy, first=done + 1)


def detect(run: Path) -> list[dict[str, Any]]:
    model = resdet.load(run, device="cpu")
    out = []
    for image in IMAGES:
        found = model.predict(image)[:DETECTIONS]
        values = {
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "labels": found.labels.tolist(),
        }
        if found.mask_probs is not None:
            values["mask_sums"] = found.mask_probs.double().sum((1, 2)).tolist()
            values["mask_areas"] = found.masks.sum((1, 2)).tolist()
        out.append(values)
    return out


def classify(run: Path) -> list[dict[str, Any]]:
    model = resdet.load(run, device="cpu")
    return [
        {"labels": found.labels.tolist(), "scores": found.scores.tolist(), "names": found.names}
        for found in model.predict(CROPS)
    ]


def evaluate_records(run: Path) -> dict[str, dict[str, float]]:
    """Metrics of the predictions, as COCO records, on the files of data.val."""
    path = Path("tests/golden/data/val.json")
    model = resdet.load(run, device="cpu")
    records = []
    for image in json.loads(path.read_text())["images"]:
        found = model.predict(f"datasets/nuclei/images/{image['file_name']}")
        records += found.to_coco(image["id"])
    return resdet.evaluate_coco(path, records, backend="fast", max_dets=(1, 10, 40))


def eval_coco(run: Path, out: Path) -> Any:
    """The numbers that tools/eval_coco.py writes."""
    assert main(["eval-coco", str(run), "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads((out / "eval.json").read_text())
    return {kind: found[kind] for kind in ("bbox", "segm") if kind in found}


def eval_cls(run: Path, out: Path) -> Any:
    """The numbers that tools/eval_cls.py writes."""
    assert main(["eval-cls", str(run), "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads((out / "eval.json").read_text())
    return {name: found[name] for name in ("top1_percent", "top5_percent", "num_images")}
