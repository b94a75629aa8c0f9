"""Data sets of other tools and mask files train as they unpack, by their paths alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdet import load
from resdet.engine.evaluate_detection import evaluate_run
from resdet.engine.start import train
from resdet.errors import UserError
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


def test_roboflow_s_yolo_trains_as_it_unpacks(config: Path, tmp_path: Path) -> None:
    """By data.yaml alone, with merged classes, which evaluation and prediction have too."""
    root = tmp_path / "set"
    for part, numbers in (("train", range(1, 10)), ("valid", range(10, 13))):
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            (root / part / kind).mkdir(parents=True)
            folder = FORMATS / ("images" if kind == "images" else "yolo_polygons/labels")
            for number in numbers:
                shutil.copy(folder / f"photo_{number:02}.{suffix}", root / part / kind)
    yaml = "train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['long', 'round']\n"
    (root / "data.yaml").write_text(yaml)
    overrides = [
        f"data.train={root}/data.yaml",
        f"data.val={root}/data.yaml",
        "data.class_map={round: cell, long: cell}",
        "train.max_steps=2",
        "eval.every=2",
    ]
    run = train(config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert all(np.isfinite(step["loss_mask"]) for step in losses_of(run).values())
    results = json.loads((run / "eval.json").read_text())
    assert 0 <= results["segm"]["AP"] <= 1
    assert "cell" in (run / "per_class.csv").read_text()
    model = load(run)
    assert model.class_names == ["cell"]
    assert model.predict(root / "valid/images/photo_10.png").class_names == ["cell"]
    _, again = evaluate_run(run, [])
    assert again.result.summary["bbox"]["AP"] == pytest.approx(results["bbox"]["AP"])
    with pytest.raises(UserError, match=r"data\.class_map"):
        train(config, [*overrides[:-3], *overrides[-2:]], run_dir=run, resume=True)
