"""Mosaic, copy-paste and repeated images in runs: resuming to the last bit, effects, mistakes."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

import resdet
from resdet.config.loading import config_to_dict, load_config
from resdet.data.detection.transforms import TrainTransform
from resdet.engine import train as loop
from resdet.engine.detection import DetectionTask
from resdet.engine.distributed import Processes
from resdet.engine.setup import Training, log_longer, make_schedule
from resdet.errors import UserError
from tests.engine.conftest import assert_same_end, losses_of
from tests.golden import tiny_backbone  # noqa: F401  registers the backbone

LOSS = [
    *("model.roi.box_head.focal_gamma=2", "model.roi.box_head.class_weights=inverse"),
    "model.roi.box_head.background_weight=0.5",
]
EACH = {
    "losses": LOSS,
    "copy_paste": ["data.augment.copy_paste.prob=0.7"],
    "mosaic": ["data.augment.mosaic.off_epochs=1", "train.max_steps=10"],
    "repeat": ["data.repeat_threshold=1"],
}
ALL = [
    *("data.augment.copy_paste.prob=0.7", "data.augment.mosaic.prob=0.7"),
    *("data.augment.mosaic.off_epochs=1", "train.max_steps=7", "data.repeat_threshold=0.9"),
    *("train.batch_size=4", "model.backbone.name=golden_tiny"),
    *LOSS,
]


def interrupted(config: Path, overrides: list[str], folder: Path, monkeypatch, step: int) -> Path:
    """A run that is stopped after a step and resumed."""
    draw_first = loop.draw_first

    def stop(training, micro_batches, number):
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        draw_first(training, micro_batches, number)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "draw_first", stop)
        with pytest.raises(SystemExit):
            resdet.train(config, overrides, run_dir=folder, device="cpu")
    assert step <= max(losses_of(folder)) <= step + 1
    return resdet.train(None, [], run_dir=folder, resume=True, device="cpu")


def check_resume(config: Path, overrides: list[str], folder: Path, monkeypatch) -> Path:
    whole = resdet.train(config, overrides, run_dir=folder / "whole", device="cpu")
    again = interrupted(config, overrides, folder / "run", monkeypatch, step=3)
    assert_same_end(whole, again)
    assert (whole / "plots" / "train_batch1.jpg").is_file()
    return whole


@pytest.fixture
def two_classes(tiny, tmp_path: Path) -> Path:
    """The tiny task, in which the nuclei of one image are of a class of their own."""
    source = tiny.config.with_name("train.json")
    found = json.loads(source.read_text())
    found["categories"] = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "rare"}]
    rare = found["images"][4]["id"]
    for each in found["annotations"]:
        each["category_id"] = 2 if each["image_id"] == rare else 1
    (tmp_path / "two.json").write_text(json.dumps(found))
    config = tmp_path / "two.yaml"
    config.write_text(
        f"_base_: {tiny.config}\ndata: {{val: null, train: {{annotations: {tmp_path}/two.json}}}}\n"
    )
    return config


def test_all_of_them_resume_to_the_last_bit(two_classes, tmp_path, monkeypatch):
    """12 samples per epoch, 4 per step: 3 steps with mosaics, and 4 without."""
    check_resume(two_classes, ALL, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("workers", [0, 2])
def test_each_resumes_to_the_last_bit(two_classes, tmp_path, monkeypatch, name, workers):
    overrides = [*EACH[name], f"data.workers={workers}"]
    check_resume(two_classes, overrides, tmp_path, monkeypatch)


def make_task(config: Path, overrides: list[str]) -> DetectionTask:
    task = DetectionTask(
        load_config(config, overrides),
        Processes(0, 1, 1, torch.device("cpu")),
        is_new=False,
        strict=False,
        decode_all=False,
    )
    task.follow_plan()
    return task


def test_mosaics_end_with_the_whole_epochs_before_the_last(two_classes, tiny):
    """10 images, 2 per step: 5 steps per epoch."""
    for steps, off, until in [(25, 1, 4), (25, 1.5, 3), (23, 1, 3), (25, 4, 1)]:
        keys = [f"train.max_steps={steps}", f"data.augment.mosaic.off_epochs={off}"]
        task = make_task(two_classes, keys)
        assert isinstance(task.train_data.transform, TrainTransform)
        assert task.train_data.transform.mosaic_until == until
    assert make_task(two_classes, ["data.augment.mosaic.off_epochs=0"]).plan.turns == 1
    with pytest.raises(UserError, match=r"mosaic\.off_epochs: 1 of the run's 0\.8 epochs leave no"):
        make_task(two_classes, ["data.augment.mosaic={}"])


def test_a_longer_run_says_that_mosaics_come_back(two_classes, tmp_path, caplog):
    """2 epochs of 5 steps, the second without mosaics, become 3."""
    caplog.set_level(logging.INFO, "resdet")
    keys = ["data.augment.mosaic={}", "train.max_steps=10"]
    task = make_task(two_classes, keys)
    longer = make_schedule(load_config(two_classes, [*keys, "train.max_steps=15"]), task.plan)
    state = {"config": config_to_dict(task.config)}
    for step, is_said in ((5, False), (6, True)):
        caplog.clear()
        run = SimpleNamespace(folder=tmp_path, plan=task.plan, schedule=longer, step=step)
        run.adapted = longer.begin()
        log_longer(cast(Training, run), state)
        assert "longer: 10 → 15 steps" in caplog.text
        assert ("the shorter run made no mosaics after epoch 1, and" in caplog.text) == is_said


def test_repeated_images_make_epochs_longer(two_classes, caplog):
    """The rare class is in one image of ten: √(.9 / .1) = 3 times."""
    caplog.set_level(logging.INFO, "resdet")
    task = make_task(two_classes, ["data.repeat_threshold=0.9"])
    assert (task.plan.num_samples, task.plan.steps_per_epoch, task.plan.turns) == (12, 6, 3)
    assert "an epoch has 12 samples of 10 images; repeated classes: rare ×3.00" in caplog.text
    keys = [key for step in range(6) for key in task.plan.batch(step)]
    assert sorted(index for _, index in keys) == sorted([*range(10), 4, 4])
    assert {number for number, index in keys if index == 4} == {0, 1, 2}
    samples = [task.train_data[key].image for key in keys if key[1] == 4]
    assert len(samples) == 3


def test_copy_paste_gives_more_objects(two_classes):
    few, many = (
        make_task(two_classes, keys).train_data for keys in ([], ["data.augment.copy_paste={}"])
    )
    keys = [(epoch, index) for epoch in range(2) for index in range(10)]
    counts = [sum(len(data[key].target.labels) for key in keys) for data in (few, many)]
    assert counts[1] > 1.2 * counts[0]


def test_boxes_alone_have_nothing_to_paste(two_classes, tmp_path):
    found = json.loads((tmp_path / "two.json").read_text())
    for each in found["annotations"]:
        del each["segmentation"]
    (tmp_path / "two.json").write_text(json.dumps(found))
    keys = ["model.roi.mask_head=null", "data.augment.copy_paste={}"]
    with pytest.raises(UserError, match=r"two\.json: no object has a segmentation, which copy-pas"):
        make_task(two_classes, keys)
    keys = [keys[0], "data.augment.mosaic.off_epochs=0"]
    assert make_task(two_classes, keys).train_data[(0, 1)].target.masks is None


def test_weights_are_those_of_the_classes(two_classes):
    """By name and by rule; the loss of validation has none, and nor has the checkpoint."""
    key = "model.roi.box_head.class_weights"
    head = make_task(two_classes, [f"{key}={{rare: 4}}"]).model.roi_heads.box_heads[0]
    assert head.class_weights is not None and head.class_weights.tolist() == [1, 4, 1]
    task = make_task(two_classes, [f"{key}=inverse", "model.roi.box_head.background_weight=2"])
    [head] = task.model.roi_heads.box_heads
    assert head.class_weights is not None
    counts = torch.tensor(task.train_data.objects_per_class, dtype=torch.float32)
    common, rare = (counts * head.class_weights[:2]).tolist()
    assert common == pytest.approx(rare, rel=1e-5) and head.class_weights[2] == 2
    assert not [name for name in task.model.state_dict() if "class_weights" in name]
    with pytest.raises(UserError, match=r"class_weights: no class 'nuclei' in data\.train; did"):
        make_task(two_classes, [f"{key}={{nuclei: 2}}"])
    with pytest.raises(UserError, match=r"class_weights"):
        load_config(two_classes, [f"{key}=invers"])
