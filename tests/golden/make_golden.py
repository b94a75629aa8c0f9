"""Make the golden files: stored runs, their data and expected.json.

The files in this folder were made by the code of commit c1d7553. Run this script only there:
made by later code, the files would compare that code with itself.

    git worktree add ../golden c1d7553
    cp -r tests/golden ../golden/tests/
    cd ../golden && OMP_NUM_THREADS=1 PYTHONPATH=. python tests/golden/make_golden.py

All paths are relative to the repository root, so that stored files name no machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import yaml
from PIL import Image

import resdet
from tests.golden import measure, tiny_backbone  # noqa: F401  registers the backbone

COMMIT = "c1d7553"
HERE = Path("tests/golden")
STORED = HERE / "stored"
DATA = HERE / "data"
IMAGES = "datasets/nuclei/images"
IMAGE_IDS = {"train": (119, 58, 126, 186, 67, 146), "val": (276, 331, 291)}
KILLED_AT = 5
"""Step of the killed run after whose log line the process kills itself."""

BASE = {
    "model": {
        "backbone": {"name": "golden_tiny", "norm": "gn"},
        "fpn": {"out_channels": 16},
        "rpn": {
            "anchor_sizes": [4, 6, 8, 12, 16],
            "num_samples": 64,
            "pre_nms_topk_train": 100,
            "post_nms_topk_train": 50,
            "pre_nms_topk_test": 50,
            "post_nms_topk_test": 30,
        },
        "roi": {
            "num_samples": 32,
            "positive_fraction": 0.5,
            "box_head": {"fc_dim": 32, "pool_size": 5},
            "mask_head": None,
        },
        "score_thresh": 0.02,
        "detections_per_image": 40,
    },
    "data": {
        "train": {"images": IMAGES, "annotations": str(DATA / "train.json")},
        "val": {"images": IMAGES, "annotations": str(DATA / "val.json")},
        "workers": 0,
        "mask_size": 28,
        "augment": {"resize": {"short_edges": [56, 64], "max_size": 64}},
        "test_resize": {"short_edge": 64, "max_size": 64},
    },
    "optim": {
        "lr": 0.02,
        "reference_batch": 2,
        "warmup_steps": 5,
        "milestones": [160],
        "clip_norm": 2,
    },
    "train": {
        "max_steps": 180,
        "batch_size": 2,
        "precision": "fp32",
        "threads": 1,
        "deterministic": True,
    },
    "log": {"every": 1, "tensorboard": False},
    "checkpoint": {"every": 1000},
    "eval": {"every": 0, "backend": "fast", "max_dets": [1, 10, 40]},
}
MASK_HEAD = {"num_convs": 1, "conv_dim": 8, "pool_size": 7}
CHANGES = {
    "fpn": {"data": {"augment": {"vertical_flip_prob": 0.5}}},
    "mask": {
        "model": {
            "backbone": {"norm": "bn"},
            "roi": {"mask_head": MASK_HEAD, "box_head": {"box_loss": "giou"}},
        },
    },
    "cascade": {
        "model": {
            "fpn": {"norm": "gn"},
            "roi": {
                "mask_head": MASK_HEAD,
                "box_head": {"class_agnostic": True, "num_convs": 1, "conv_dim": 8, "num_fcs": 1},
                "stages": [
                    {"foreground_iou": 0.5, "box_weights": [10, 10, 5, 5]},
                    {"foreground_iou": 0.6, "box_weights": [20, 20, 10, 10]},
                    {"foreground_iou": 0.7, "box_weights": [30, 30, 15, 15]},
                ],
            },
        },
        "data": {
            "augment": {
                "resize": {"mode": "large_scale_jitter", "lsj_size": 64, "lsj_scale": [0.8, 1.5]}
            }
        },
        "optim": {"name": "adamw", "lr": 0.004, "clip_norm": None},
    },
    "c4": {
        "model": {
            "fpn": None,
            "rpn": {"anchor_sizes": [[4, 8, 12]]},
            "roi": {
                "mask_head": {"conv_dim": 8, "num_convs": 0, "pool_size": 6},
                "box_head": {"type": "res5", "num_fcs": 0, "pool_size": 6},
            },
        },
        "optim": {"name": "adamw", "lr": 0.004, "clip_norm": None},
    },
    "ema": {
        "model": {"backbone": {"norm": "bn"}},
        "train": {"ema_decay": 0.95, "accumulate": 2},
        "optim": {"nesterov": True},
    },
    "killed": {
        "model": {"backbone": {"norm": "bn"}, "roi": {"mask_head": MASK_HEAD}},
        "train": {"max_steps": 8, "ema_decay": 0.9},
        "checkpoint": {"every": 3},
        "eval": {"every": 3},
        "optim": {"milestones": [7], "warmup_steps": 2},
    },
}
CLASSIFIER = {
    "task": "classification",
    "model": {"backbone": {"name": "cifar_resnet", "options": {"depth": 8}}},
    "data": {
        "train": {"root": str(DATA / "classes" / "train")},
        "val": {"root": str(DATA / "classes" / "val")},
        "size": 32,
        "test_resize": 36,
        "test_size": 32,
        "workers": 0,
        "augment": {"scale": [0.5, 1.0], "policy": "trivial", "mixup": 0.2, "erase_prob": 0.25},
    },
    "loss": {"label_smoothing": 0.1},
    "optim": {"lr": 0.05, "reference_batch": 8, "milestones": [130]},
    "train": {
        "max_steps": 150,
        "batch_size": 8,
        "precision": "fp32",
        "threads": 1,
        "deterministic": True,
    },
    "log": {"every": 1, "tensorboard": False},
    "checkpoint": {"every": 1000},
    "eval": {"every": 0, "batch_size": 4},
}


def merged(values: dict, changes: dict) -> dict:
    out = dict(values)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out


def write_annotations() -> None:
    """Subsets of the sample set, with the nuclei in two classes by their size."""
    for split, ids in IMAGE_IDS.items():
        source = json.loads(Path(f"datasets/nuclei/annotations/{split}.json").read_text())
        images = [image for image in source["images"] if image["id"] in ids]
        assert len(images) == len(ids)
        annotations = [
            {**entry, "category_id": 7 if entry["area"] > 400 else 3}
            for entry in source["annotations"]
            if entry["image_id"] in ids
        ]
        categories = [{"id": 7, "name": "large"}, {"id": 3, "name": "small"}]
        values = {"images": images, "annotations": annotations, "categories": categories}
        (DATA / f"{split}.json").write_text(json.dumps(values) + "\n")


def write_classes() -> None:
    """Crops of 36 pixels around large nuclei, small nuclei and background."""
    for split, count in (("train", 6), ("val", 3)):
        values = json.loads((DATA / f"{split}.json").read_text())
        names = {image["id"]: image["file_name"] for image in values["images"]}
        centres: dict[str, list[tuple[int, float, float]]] = {"large": [], "small": [], "empty": []}
        boxes: dict[int, list] = {}
        for entry in values["annotations"]:
            x, y, width, height = entry["bbox"]
            boxes.setdefault(entry["image_id"], []).append(entry["bbox"])
            kind = "large" if entry["category_id"] == 7 else "small"
            centres[kind].append((entry["image_id"], x + width / 2, y + height / 2))
        for key in names:
            for x in range(18, 238, 20):
                for y in range(18, 238, 20):
                    away = [
                        bx > x + 10 or bx + w < x - 10 or by > y + 10 or by + h < y - 10
                        for bx, by, w, h in boxes[key]
                    ]
                    if all(away):
                        centres["empty"].append((key, x, y))
        for kind, places in centres.items():
            folder = DATA / "classes" / split / kind
            folder.mkdir(parents=True)
            chosen = np.linspace(0, len(places) - 1, count).astype(int)
            for number, place in enumerate(chosen):
                key, x, y = places[place]
                left, top = (int(np.clip(v - 18, 0, 220)) for v in (x, y))
                image = Image.open(Path(IMAGES) / names[key]).convert("RGB")
                crop = image.crop((left, top, left + 36, top + 36))
                crop.save(folder / f"{number}.png", optimize=True)


def slim(run: Path, keep: tuple[str, ...]) -> None:
    """Remove what the tests do not read."""
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()


def train(config: Path, run: Path) -> None:
    resdet.train(config, run_dir=run, device="cpu")


def train_and_die(config: str, run: str) -> None:
    """In a process of its own: SIGKILL right after a step's log line is written."""
    from resdet.engine.log import RunLog

    write = RunLog.training

    def dying(self, line, eta_s):
        write(self, line, eta_s)
        if line["step"] == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    RunLog.training = dying
    train(Path(config), Path(run))


def main() -> None:
    head = subprocess.check_output(["git", "rev-parse", "--short=7", "HEAD"], text=True).strip()
    changed = subprocess.check_output(["git", "diff", "--name-only", COMMIT, "--", "resdet"])
    if changed:
        raise SystemExit(f"resdet differs from {COMMIT} (HEAD {head}); check out {COMMIT} to run")
    torch.set_num_threads(1)
    for folder in (STORED, DATA):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_annotations()
    write_classes()
    configs = {name: merged(BASE, change) for name, change in CHANGES.items()}
    configs["classifier"] = CLASSIFIER
    expected: dict = {"commit": COMMIT, "torch": torch.__version__, "runs": {}}
    with tempfile.TemporaryDirectory() as temporary:
        tmp = Path(temporary)
        for name, values in configs.items():
            config = tmp / f"{name}.yaml"
            config.write_text(yaml.safe_dump(values))
            run = STORED / name
            if name == "killed":
                expected["killed"] = make_killed(config, run, tmp / "whole")
                continue
            train(config, run)
            best = ("best.pt",) if name == "mask" else ()
            slim(run, ("config.yaml", "log.jsonl", "last.pt", "eval.json", "per_class.csv", *best))
            found: dict = {"losses": measure.losses_of(run, last=measure.NEW_STEPS)}
            found["resumed"] = measure.extend(run, tmp / f"{name}_longer")
            if name == "classifier":
                found["predictions"] = measure.classify(run)
                found["metrics"] = measure.eval_cls(run, tmp / f"{name}_eval")
            else:
                found["predictions"] = measure.detect(run)
                found["metrics"] = measure.eval_coco(run, tmp / f"{name}_eval")
                found["records"] = measure.evaluate_records(run)
            expected["runs"][name] = found
    text = json.dumps(expected, indent=1, allow_nan=False)
    (HERE / "expected.json").write_text(text + "\n")


def make_killed(config: Path, run: Path, whole: Path) -> dict:
    """The killed run in `run`; returns the losses and weights of the same run undisturbed."""
    code = "import sys; from tests.golden import make_golden as m; m.train_and_die(*sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, str(config), str(run)])
    assert done.returncode == -signal.SIGKILL, done.returncode
    log = run / "log.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps[-1] == KILLED_AT, steps
    with log.open("a") as file:  # what a kill in the middle of a write leaves
        file.write(f'{{"step": {KILLED_AT + 1}, "epoch": 2.0, "lo')
    slim(run, ("config.yaml", "log.jsonl", "last.pt"))
    train(config, whole)
    return measure.whole_run(whole)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
