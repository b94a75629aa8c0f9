"""train.batch_size auto: what fits and is fast, and nothing of the run changes by measuring it."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import resdet
from resdet.config.loading import load_any_config, load_config
from resdet.engine import batch_size, distributed, estimate, setup
from resdet.engine.batch_size import Trial
from resdet.errors import UserError
from resdet.files import checkpoint
from tests.engine.cls_data import CIFAR_YAML, write_cifar10
from tests.engine.conftest import assert_same_end, losses_of
from tests.engine.test_distributed import two_processes

AUTO = "train.batch_size=auto"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A classifier with batch norm, and 80 images of it."""
    folder = tmp_path_factory.mktemp("cifar")
    root = write_cifar10(folder / "data")
    (folder / "small.yaml").write_text(CIFAR_YAML.format(root=root))
    return folder / "small.yaml"


@pytest.fixture
def speeds(monkeypatch) -> dict[int, float]:
    """Seconds of an update by its size; the updates themselves are made."""
    taken = {1: 1.0, 2: 1.0, 4: 1.1, 8: 2.0, 16: 99.0, 32: 99.0}
    measured = batch_size._fastest

    def fastest(trial, steps):
        measured(trial, steps)
        return taken[sum(len(batch.paths) for batch in steps[0])]

    monkeypatch.setattr(batch_size, "_fastest", fastest)
    return taken


def test_the_largest_fast_size_is_stored_and_trains_as_if_it_had_been_given(
    small, tmp_path, caplog, speeds
):
    caplog.set_level(logging.INFO)
    of_two = "optim.reference_batch=2"
    auto = resdet.train(small, [AUTO, of_two], run_dir=tmp_path / "auto", device="cpu")
    (line,) = [r.getMessage() for r in caplog.records if "auto →" in r.getMessage()]
    assert line.startswith("train.batch_size: auto → 8; images/s by size: 1: 1, 2: 2, 4: 3.64, 8:")
    assert line.endswith("GiB free; 32 are slower")
    assert load_any_config(auto / "config.yaml").train.batch_size == 8
    assert checkpoint.load(auto / "last.pt")["config"]["train"]["batch_size"] == 8
    # the rate of two images, for eight; weights, data and generators are those of a run of 8
    given = [of_two, "train.batch_size=8"]
    given = resdet.train(small, given, run_dir=tmp_path / "given", device="cpu")
    assert losses_of(auto)[4]["lr"] == pytest.approx(0.2)
    assert_same_end(auto, given)


def test_a_resumed_run_keeps_the_number(small, tmp_path, caplog, speeds):
    run = tmp_path / "run"
    resdet.train(small, [AUTO, "train.max_steps=1"], run_dir=run, device="cpu")
    caplog.clear()
    for overrides in ([AUTO, "train.max_steps=2"], [AUTO, "train.max_steps=3"]):
        config = small if overrides[-1].endswith("2") else None
        resdet.train(config, overrides, run_dir=run, resume=True, device="cpu")
        assert load_any_config(run / "config.yaml").train.batch_size == 8
    assert "auto →" not in caplog.text
    whole = [*overrides, "train.batch_size=8"]
    whole = resdet.train(small, whole, run_dir=tmp_path / "whole", device="cpu")
    assert losses_of(whole) == losses_of(run)


@pytest.mark.slow
def test_sizes_up_to_the_number_of_images_are_tried(small, tmp_path, caplog, speeds):
    caplog.set_level(logging.INFO)
    speeds |= {16: 3.9, 32: 7.0, 64: 14.0}
    resdet.train(small, [AUTO], run_dir=tmp_path / "run", device="cpu", check=True)
    assert "auto → 64" in caplog.text and "128 are more than the training images" in caplog.text


def test_out_of_memory_ends_the_search(tiny, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    update = batch_size.update

    def limited(trial, micro_batches, step):
        if len(micro_batches[0].paths) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(trial, micro_batches, step)

    monkeypatch.setattr(batch_size, "update", limited)
    monkeypatch.setattr(batch_size, "SPEED_SHARE", 0.0)
    run = resdet.train(tiny.config, [AUTO], run_dir=tmp_path / "run", device="cpu", check=True)
    assert "auto → 2; " in caplog.text
    assert "4 run out of memory" in caplog.text
    # --check stores nothing but its picture
    assert [path.name for path in run.iterdir()] == ["train_batch.jpg"]


def test_without_memory_for_one_image_there_is_an_error(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "available_memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"auto: not even 1 image.s. fit into 80% of the 0\.000977"):
        resdet.train(tiny.config, [AUTO], run_dir=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(estimate, "available_memory", lambda: None)
    with pytest.raises(UserError, match="does not report how much memory is free; give a number"):
        resdet.train(tiny.config, [AUTO], run_dir=tmp_path / "run", device="cpu")


def test_nothing_of_the_run_changes(small, tmp_path, speeds):
    """Batch norm would: the copy of the model has its statistics."""
    config = load_any_config(small, ["train.accumulate=2"])
    processes = distributed.start("cpu")
    run = setup.Run(tmp_path / "run", config, None)
    training = setup.prepare(run, processes, strict=False)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    speeds |= {8: 9.0}
    setup.settle_batch_size(training.task, training.precision, 1)
    assert training.task.plan.batch_size == training.task.config.train.batch_size == 4
    assert all(torch.equal(before[k], tensor) for k, tensor in training.model.state_dict().items())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.slow
def test_two_processes_agree(server, tiny, tmp_path):
    run = tmp_path / "two"
    overrides = [AUTO, "train.max_steps=1", "train.accumulate=2", "optim.name=adamw"]
    two_processes(server, tiny.config, run, overrides)
    assert load_any_config(run / "config.yaml").train.batch_size in (4, 8)
    assert "auto → " in run.with_suffix(".0.txt").read_text()
    assert "auto → " not in run.with_suffix(".1.txt").read_text()


def test_one_slow_size_does_not_end_the_search():
    trials = [Trial(1, 4.0, 1.0), Trial(2, 3.0, 2.0)]
    assert not batch_size._why_last(trials, 10.0)
    assert batch_size._why_last([*trials, Trial(4, 3.5, 3.0)], 10.0) == "4 are slower"
    assert batch_size._why_last([*trials, Trial(4, 9.0, 2**30)], 10.0) == "4 take 1 GiB"


def test_other_words_than_auto_are_refused(tiny):
    for value in ("many", "0", "2.5"):
        with pytest.raises(UserError, match=r"train\.batch_size: expected a whole number .* auto"):
            load_config(tiny.config, [f"train.batch_size={value}"])
    config = load_config(tiny.config, [AUTO])
    with pytest.raises(AssertionError, match="has not been measured"):
        assert config.train.images_per_step
