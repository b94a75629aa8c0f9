"""Broken label files of YOLO and tables of boxes."""

from __future__ import annotations

import random
from pathlib import Path

from resdet.commands.convert_data import convert_data
from tests.fuzz.formats import changed_words, copied, read_as
from tests.fuzz.mutate import YAML_VALUES, mutate_bytes, mutate_yaml

ROWS = ("0 .5 .5 .2 .2 .3 .3 2 .4 .4 2", "1 .1 .1 .4 .1 .4 .4 .1 .4", "0 0.5 0.5 0.1 0.1 0.9", "")


def yolo(rng: random.Random, folder: Path) -> None:
    """Labels and data.yaml with other words, lines, values or bytes; images under other paths."""
    images, path = copied(folder, rng.choice(["yolo_boxes", "yolo_polygons"]))
    for file in rng.sample(sorted((path / "labels").iterdir()), rng.choice([1, 2, 12])):
        text = file.read_text() + rng.choice(ROWS)
        data = changed_words(rng, text)
        file.write_bytes(mutate_bytes(rng, data) if rng.random() < 0.4 else data)
    described = path / "data.yaml"
    if rng.random() < 0.5:
        text = described.read_text() + rng.choice(["", "kpt_shape: [2, 3]\n", "path: ..\n"])
        described.write_bytes(mutate_yaml(rng, f"{text}train: {rng.choice(YAML_VALUES)}\n"))
    if rng.random() < 0.2:
        listed = path / "train.txt"
        names = "".join(f"./images/{file.name}\n" for file in sorted(images.iterdir()))
        listed.write_bytes(mutate_bytes(rng, names.encode()))
        read_as(rng, folder, listed, "yolo")
        return
    read_as(rng, images, rng.choice([path, path / "labels", described]), "yolo")


def csv(rng: random.Random, folder: Path) -> None:
    """Tables with other headers, words or bytes; what can be read is converted too."""
    images, path = copied(folder, "boxes.csv")
    text = path.read_text()
    header, _, rows = text.partition("\n")
    relative = header.replace("1", "1_norm").replace("2", "2_norm")
    head = rng.choice([header, "", relative, f"{header},split", header.replace(",", ";")])
    data = changed_words(rng, f"{head}\n{rows}" if head else rows)
    path.write_bytes(mutate_bytes(rng, data) if rng.random() < 0.4 else data)
    if rng.random() < 0.2:
        (folder / "classes.csv").write_bytes(changed_words(rng, "long,0\nround,1\n"))
    read_as(rng, images, path, "csv")
    target = rng.choice(["coco", "voc", "yolo"])
    out = folder / ("out.json" if target == "coco" else "out")
    convert_data(path, out, target, images=images, format="csv")
    read_as(rng, images, out / {"voc": "Annotations", "yolo": "labels"}.get(target, ""), target)
