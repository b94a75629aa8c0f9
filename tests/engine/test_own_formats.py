"""Data sets of other tools and mask files train as they unpack, by their paths alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdet.engine.start import train
from tests.engine.conftest import YAML, losses_of

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "tiny.yaml"
    path.write_text(YAML.format(images=FORMATS / "images", folder="absent"))
    return path


def test_the_data_science_bowl_trains_as_it_unpacks(config: Path, tmp_path: Path) -> None:
    root = tmp_path / "stage1_train"
    for image in sorted((FORMATS / "images").iterdir()):
        (root / image.stem / "images").mkdir(parents=True)
        (root / image.stem / "masks").mkdir()
        shutil.copy(image, root / image.stem / "images")
        for mask in (FORMATS / "object_masks" / image.stem).rglob("*.png"):
            shutil.copy(mask, root / image.stem / "masks")
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(root / "photo_01" / "masks" / "none.png")
    overrides = [
        f"data.train={{images: {root}, annotations: {root}}}",
        "data.val=null",
        "data.split.val=0.25",
        "data.classes=[nucleus]",
        "eval.every=2",
        "train.max_steps=2",
    ]
    run = train(config, overrides, run_dir=tmp_path / "run", device="cpu")
    losses = losses_of(run)
    assert len(losses) == 2
    assert all(np.isfinite(step["loss_mask"]) for step in losses.values())
    results = json.loads((run / "eval.json").read_text())
    assert 0 <= results["segm"]["AP"] <= 1
    assert json.loads((run / "split.json").read_text())["val"]


def test_labelme_trains_as_coco_does(config: Path, tmp_path: Path) -> None:
    losses = []
    for labels in ("coco.json", "labelme"):
        overrides = [
            f"data.train={{images: {FORMATS}/images, annotations: {FORMATS}/{labels}}}",
            "data.val=null",
            "train.max_steps=2",
        ]
        run = train(config, overrides, run_dir=tmp_path / Path(labels).stem, device="cpu")
        losses.append(losses_of(run))
    assert losses[0] == losses[1] and len(losses[0]) == 2
