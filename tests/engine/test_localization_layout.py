"""The shipped config of ImageNet's R-CNN takes a step on ImageNet's layout and is evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import resdet
from resdet.commands.eval_imagenet import eval_imagenet_command
from resdet.commands.loc_options import LocOptions
from resdet.data.detection.readers import read_file
from resdet.data.detection.table import Source
from resdet.files.proposals import ProposalWriter
from tests.data.layouts import small_loc

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "imagenet_loc_rcnn_r101.yaml"


def write_objects(annotations: Path, images: Path, out: Path) -> None:
    """Proposals around the objects of a layout, those of all classes for each image."""
    source = Source(str(annotations), str(images), outlines=False)
    table = read_file(source, "imagenet_loc", [])
    rng = np.random.default_rng(0)
    with ProposalWriter(out, table.class_names) as writer:
        for row, image_id in enumerate(table.image_ids):
            corners = table.boxes_xywh[table.image_of == row]
            corners = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
            boxes = np.repeat(corners, 4, axis=0) + rng.normal(0, 4, (4 * len(corners), 4))
            boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
            labels = np.repeat(np.arange(len(table.class_names)), len(boxes))
            size = table.sizes[row].tolist()
            every = np.tile(boxes, (len(table.class_names), 1))
            writer.add(image_id, (size[0], size[1]), every, rng.random(len(every)), labels)


def test_the_imagenet_config_trains_and_is_evaluated_with_the_true_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "datasets"
    folder = small_loc(root)
    for name in ("train", "val"):
        kinds = (folder / kind / "CLS-LOC" / name for kind in ("Annotations", "Data"))
        write_objects(*kinds, folder / "proposals" / f"{name}.npz")
    monkeypatch.chdir(tmp_path)
    options = [
        *("model.backbone={name: cifar_resnet20, norm: bn, weights: null}", "data.size=32"),
        *("train.epochs=null", "train.max_steps=1", "train.batch_size=4", "train.threads=1"),
        *("optim.milestone_epochs=[]", "data.workers=0", "log.tensorboard=false"),
    ]
    run = resdet.train(CONFIG, options, run_dir=tmp_path / "run", device="cpu")
    result = eval_imagenet_command(
        task="loc",
        run=run,
        loc=LocOptions(oracle=True),
        submission=True,
        ground_truth=root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        device="cpu",
    )
    assert result.summary["num_images"] == 6 and result.summary["cls_error_percent"] == 0
    lines = (run / "loc_predictions.txt").read_text().splitlines()
    # one guess per image, with the devkit's numbers of the classes
    numbers = [int(line.split()[0]) for line in lines]
    truth = root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    assert numbers == [int(line) for line in truth.read_text().split()]
