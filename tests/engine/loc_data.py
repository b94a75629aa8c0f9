"""A small localization set: bright shapes of two classes, one per picture, and proposals for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from resdet.files.proposals import ProposalWriter

NAMES = ["disc", "square"]
BASE = {
    "task": "localization",
    "model": {"backbone": {"name": "resnet18", "norm": "bn"}},
    "train": {"max_steps": 2, "batch_size": 4, "threads": 1},
    "optim": {"lr": 0.01, "reference_batch": 4},
    "eval": {"batch_size": 2},
    "log": {"every": 1, "tensorboard": False},
}


def write_shapes(folder: Path, count: int = 6, *, seed: int = 0) -> list[dict[str, object]]:
    """`count` pictures under folder/images, folder/a.json in COCO format; returns its images."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        height, width = (48, 64) if number % 2 else (64, 48)
        pixels = rng.integers(0, 60, (height, width, 3), np.uint8)
        side, label = int(rng.integers(18, 30)), number % 2
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        rows, columns = np.mgrid[0:side, 0:side] - side / 2 + 0.5
        shape = np.ones((side, side), bool) if label else rows**2 + columns**2 < (side / 2) ** 2
        pixels[y : y + side, x : x + side][shape] = 230
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        size = {"height": height, "width": width}
        images.append({"id": number, "file_name": f"{number}.png", **size})
        box = {"bbox": [x, y, side, side], "area": side**2, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": label + 1, **box})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(data))
    return [image | note for image, note in zip(images, annotations, strict=True)]


def write_class_folders(folder: Path, shapes: list[dict[str, object]], out: Path) -> Path:
    """The pictures again as a classification data set, out/CLASS/*.png."""
    for shape in shapes:
        name = NAMES[int(shape["category_id"]) - 1]  # type: ignore[call-overload]
        (out / name).mkdir(parents=True, exist_ok=True)
        source = folder / "images" / str(shape["file_name"])
        (out / name / source.name).write_bytes(source.read_bytes())
    return out


def write_proposals(
    path: Path, shapes: list[dict[str, object]], *, both_classes: bool = True, count: int = 12
) -> Path:
    """Boxes around and beside the shape of each picture, for its class or for both."""
    rng = np.random.default_rng(1)
    with ProposalWriter(path, NAMES) as writer:
        for shape in shapes:
            x, y, width, height = shape["bbox"]  # type: ignore[misc]
            near = np.array([x, y, x + width, y + height]) + rng.normal(0, 3, (count, 4))
            near[count // 2 :] += rng.uniform(-25, 25, (count - count // 2, 1))
            size = (int(shape["height"]), int(shape["width"]))  # type: ignore[call-overload]
            boxes = np.clip(near, 0, [size[1], size[0], size[1], size[0]])
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
            boxes[:, :2] = np.minimum(boxes[:, :2], np.array([size[1], size[0]]) - 2)
            own = int(shape["category_id"]) - 1  # type: ignore[call-overload]
            labels = [0, 1] if both_classes else [own]
            writer.add(
                shape["id"],  # type: ignore[arg-type]
                size,
                np.concatenate([boxes] * len(labels)),
                rng.uniform(0, 1, count * len(labels)),
                np.repeat(labels, count),
            )
    return path


def write_config(path: Path, folder: Path, model_type: str, **sections: object) -> Path:
    """A YAML of the small set in `folder` for training and validation; sections go on top."""
    images, annotations = str(folder / "images"), str(folder / "a.json")
    split = {"images": images, "annotations": annotations, "format": "coco"}
    values: dict[str, object] = json.loads(json.dumps(BASE))
    values["model"] |= {"type": model_type}  # type: ignore[operator]
    if model_type == "rcnn":
        values["model"]["backbone"] = {"name": "cifar_resnet20"}  # type: ignore[index]
    values["data"] = {"train": split, "val": split, "size": 32, "workers": 0}
    for key, section in sections.items():
        values[key] = {**values.get(key, {}), **section}  # type: ignore[dict-item]
    path.write_text(json.dumps(values))
    return path
