"""Broken configs, overrides, annotation files, detections, run lengths and logs."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resdet.analysis.curves import read_curves
from resdet.config.classification import ClassificationConfig
from resdet.config.describe import list_keys
from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict, config_to_dict, dump_yaml, load_any_config
from resdet.config.localization import LocalizationConfig
from resdet.data.detection.batches import collate
from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.resizes import ShortEdge
from resdet.data.detection.transforms import TestTransform, TrainTransform
from resdet.engine.log import cut_log
from resdet.engine.pictures import draw_curves
from resdet.factory.imports import load_named_config
from tests.data.layouts import small_det, small_loc, small_voc
from tests.fuzz.mutate import YAML_VALUES, mutate_bytes, mutate_tree, mutate_yaml, nasty, to_json
from tests.fuzz.outcome import command

REPO = Path(__file__).resolve().parents[2]
CONFIGS = sorted((REPO / "configs").glob("*.yaml"))


def config(rng: random.Random, folder: Path) -> None:
    """A shipped config with changed lines; one that still loads must survive a round trip."""
    path = folder / "config.yaml"
    shutil.copytree(REPO / "configs" / "_base_", folder / "_base_")
    source = rng.choice(CONFIGS)
    whole = rng.random() < 0.3
    text = _resolved(source) if whole else source.read_text()
    path.write_bytes(mutate_yaml(rng, text))
    loaded = load_any_config(path)
    assert config_from_dict(config_to_dict(loaded), "its own values") == loaded
    path.write_text(dump_yaml(loaded))
    assert load_any_config(path) == loaded


@cache
def _resolved(path: Path) -> str:
    return dump_yaml(load_any_config(path))


@cache
def _keys() -> list[str]:
    schemas = (DetectionConfig, ClassificationConfig, LocalizationConfig)
    return sorted({doc.key for schema in schemas for doc in list_keys(schema)})


def overrides(rng: random.Random, folder: Path) -> None:
    """One to three overrides of a shipped config, of known and unknown keys."""
    given = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        key = rng.choice(_keys())
        if rng.random() < 0.2:
            key = f"{key}.{rng.choice(['0', '1.name', '-1', 'name', '', '.', '9' * 400])}"
        if rng.random() < 0.1:
            key = mutate_bytes(rng, key.encode()).decode("utf-8", "surrogateescape")
        if rng.random() < 0.5:
            value = rng.choice(YAML_VALUES)
        else:
            value = json.dumps(nasty(rng), ensure_ascii=False)
        given.append(f"{key}={value}" if rng.random() < 0.97 else key)
    (folder / "overrides.json").write_text(json.dumps(given))
    loaded = load_named_config(rng.choice(CONFIGS), given, None)
    assert config_from_dict(config_to_dict(loaded), "its own values") == loaded


@cache
def coco_tree() -> dict[str, Any]:
    """Four images of 40×60, two classes, boxes with polygons, run lengths and a crowd."""
    corners = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]
    runs = {"size": [40, 60], "counts": [410, 20, 20, 20, 20, 20, 1890]}
    code = {"size": [40, 60], "counts": "j<d0d0d0d0d0bk1"}
    shapes = [[corners], runs, code, [corners, corners[:6]]]
    annotations = [
        {
            "id": number,
            "image_id": number % 4 + 1,
            "category_id": (7, 3)[number % 2],
            "bbox": [10, 10, 20, 20],
            "segmentation": shapes[number % 4],
            "area": 400,
            "iscrowd": int(number == 5),
        }
        for number in range(1, 8)
    ]
    images = [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in range(1, 5)]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_images(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir()
    for number in range(1, 5):
        Image.fromarray(np.full((40, 60, 3), 50 * number, np.uint8)).save(images / f"{number}.png")
    return images


def _detections() -> list[dict[str, Any]]:
    return [
        {
            "image_id": number % 4 + 1,
            "category_id": (7, 3)[number % 2],
            "bbox": [10.0, 11.0, 20.0, 19.0],
            "segmentation": {"size": [40, 60], "counts": "j<d0d0d0d0d0bk1"},
            "score": 0.9 - number / 20,
        }
        for number in range(8)
    ]


def annotations(rng: random.Random, folder: Path) -> None:
    """A COCO file, as training and as evaluation read it."""
    images = _write_images(folder)
    path = folder / "a.json"
    path.write_bytes(to_json(rng, mutate_tree(rng, coco_tree())))
    if rng.random() < 0.4:
        _evaluate(folder, path, None)
        return
    masks = 28 if rng.random() < 0.7 else None
    use(dataset(rng, images, path, "coco", masks))


def dataset(
    rng: random.Random, images: Path, path: Path, format: str | None, masks: int | None
) -> DetectionDataset:
    if rng.random() < 0.5:
        transform = TrainTransform(resize=ShortEdge([48, 64], 90))
    else:
        transform = TestTransform(short_edge=48, max_size=90)
    return read_dataset(
        str(images),
        str(path),
        transform=transform,
        format=format,
        mask_size=masks,
        strict=rng.random() < 0.1,
        decode_all=rng.random() < 0.3,
    )


def use(data: DetectionDataset) -> None:
    """Whatever was let through must be usable."""
    samples = [data[0, index] for index in range(len(data))]
    for sample in samples:
        assert bool(sample.target.boxes.isfinite().all()), "a box is not finite"
    collate(samples)


def _evaluate(folder: Path, truth: Path, detections: Path | None, *more: str) -> None:
    if detections is None:
        detections = folder / "detections.json"
        detections.write_text(json.dumps(_detections()))
    files = ["--detections", str(detections), "--annotations", str(truth)]
    command(["eval-coco", *files, "--out", str(folder / "out"), *more])


def results(rng: random.Random, folder: Path) -> None:
    """Result records against a sound COCO file."""
    truth, path = folder / "a.json", folder / "detections.json"
    truth.write_text(json.dumps(coco_tree()))
    path.write_bytes(to_json(rng, mutate_tree(rng, _detections())))
    files = ["--detections", str(path), "--annotations", str(truth)]
    if rng.random() < 0.2:
        command(["eval-voc", *files, "--format", "coco", "--out", str(folder / "out")])
        return
    more: list[str] = rng.choice(
        [[], ["--kinds", "bbox"], ["--backend", "pycocotools"], ["--strict"]]
    )
    _evaluate(folder, truth, path, *more)


def run_lengths(rng: random.Random, folder: Path) -> None:
    """Masks as run lengths: of the ground truth and of detections."""
    images = _write_images(folder)
    tree = coco_tree() | {"annotations": [dict(a) for a in coco_tree()["annotations"]]}
    for entry in tree["annotations"]:
        entry["segmentation"] = _runs(rng)
    found = [{**record, "segmentation": _runs(rng)} for record in _detections()]
    truth, path = folder / "a.json", folder / "detections.json"
    truth.write_bytes(json.dumps(tree).encode())
    path.write_bytes(json.dumps(found).encode())
    if rng.random() < 0.5:
        use(dataset(rng, images, truth, "coco", 28))
    else:
        _evaluate(folder, truth, path)


def _runs(rng: random.Random) -> Any:
    size: Any = [40, 60]
    if rng.random() < 0.25:
        size = rng.choice(
            [[60, 40], [0, 0], [0, 5], [2**32, 2**32], [40], [40.0, 60.0], "40", None, [-1, 5]]
        )
    counts: Any
    match rng.randrange(6):
        case 0:
            counts = "j<d0d0d0d0d0bk1"
        case 1:
            counts = [410, 20, 20, 20, 1930]
        case 2:
            counts = mutate_bytes(rng, b"j<d0d0d0d0d0bk1").decode("latin-1")
        case 3:
            counts = mutate_tree(rng, [410, 20, 20, 20, 1930])
        case 4:
            counts = "".join(chr(rng.randrange(48, 112)) for _ in range(rng.randrange(40)))
        case _:
            counts = [
                rng.choice([0, 1, 2400, 2**31, 2**32 + 5, -3]) for _ in range(rng.randrange(6))
            ]
    value = {"size": size, "counts": counts}
    return value if rng.random() < 0.97 else {**value, "counts": nasty(rng)}


@cache
def _layout(kind: str, folder: Path) -> Path:
    """A small layout made once per process."""
    make = {"voc": small_voc, "imagenet_det": small_det, "imagenet_loc": small_loc}[kind]
    return make(folder)


def layouts(rng: random.Random, folder: Path) -> None:
    """VOC, DET and LOC: XML files, lists and Kaggle's tables."""
    kind = rng.choice(["voc", "voc", "imagenet_det", "imagenet_loc"])
    made = _layout(kind, folder.parent / f"layout_{kind}")
    root = folder / "layout"
    shutil.copytree(made, root / made.name)
    for table in made.parent.glob("*.csv"):
        shutil.copy(table, root)
    places = {
        "voc": ("JPEGImages", "ImageSets/Main/trainval.txt"),
        "imagenet_det": ("Data/DET/val", "ImageSets/DET/val.txt"),
        "imagenet_loc": ("Data/CLS-LOC/val", "../LOC_val_solution.csv"),
    }
    images, listed = (root / made.name / place for place in places[kind])
    files = [*(root / made.name).rglob("*.xml"), listed, listed]
    for _ in range(rng.choice([1, 2, 4])):
        path = rng.choice(files)
        data = path.read_bytes()
        if rng.random() < 0.5:
            data = changed_xml(rng, data)
        else:
            data = mutate_bytes(rng, data)
        path.write_bytes(data)
    use(dataset(rng, images, listed, kind, None))


def changed_xml(rng: random.Random, data: bytes) -> bytes:
    """One number or word of a text file replaced."""
    words = data.replace(b">", b"> ").replace(b"<", b" <").split(b" ")
    at = rng.randrange(len(words))
    words[at] = str(nasty(rng)).encode("utf-8", "surrogatepass")[:5000]
    return b" ".join(words)


LOG = [
    {"step": 1, "epoch": 0.5, "loss": 2.5, "loss_cls": 2.5, "lr": 0.1, "error_percent": 80.0},
    {"step": 2, "epoch": 1.0, "loss": 1.5, "loss_cls": 1.5, "lr": 0.1, "error_percent": 60.0},
    {"step": 2, "epoch": 1.0, "eval": {"top1_percent": 40.0}, "val_loss": 1.6, "val_losses": {}},
    {"step": 3, "epoch": 1.5, "loss": 1.2, "loss_box": 0.5, "lr": 0.01, "error_percent": 50.0},
    {"step": 4, "epoch": 2.0, "eval": {"bbox": {"AP": 0.3}, "segm": {"AP": 0.2}}, "val_loss": 1.1,
     "val_losses": {"loss_cls": 1.1}},
]  # fmt: skip


def logs(rng: random.Random, folder: Path) -> None:
    """log.jsonl, as resuming, the run's curves and their comparison read it."""
    lines = [to_json(rng, mutate_tree(rng, line) if rng.random() < 0.4 else line) for line in LOG]
    path = folder / "log.jsonl"
    path.write_bytes(b"\n".join(lines))
    if rng.random() < 0.3:
        (folder / "config.yaml").write_bytes(mutate_yaml(rng, _resolved(CONFIGS[0])))
    match rng.randrange(3):
        case 0:
            cut_log(path, rng.randrange(6), validation_is_due=rng.random() < 0.5)
        case 1:
            draw_curves(folder)
        case _:
            read_curves([str(folder)])
