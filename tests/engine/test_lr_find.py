"""--lr-find: which rate the losses of a range test suggest, and that nothing else is kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

import resdet
from resdet.engine import lr_find
from resdet.engine.lr_find import suggest
from resdet.errors import UserError
from tests.engine.cls_data import CIFAR_YAML, write_cifar10
from tests.engine.loc_data import write_config, write_shapes

RATES = np.geomspace(lr_find.FIRST, lr_find.LAST, lr_find.STEPS)


def test_a_tenth_of_the_rate_with_the_lowest_loss_is_suggested():
    """Falls most around 1e-2, is lowest at 1e-1, and diverges."""
    x = np.log10(RATES)
    losses = 3 - 2 / (1 + np.exp(-2 * (x + 2))) + np.exp(6 * (x + 0.4))
    found = suggest(RATES, losses + np.random.default_rng(0).normal(0, 0.05, len(x)))
    assert found.lowest == pytest.approx(0.1, rel=0.6)
    assert found.lr == pytest.approx(found.lowest / 10)
    assert found.steepest == pytest.approx(1e-2, rel=0.7)
    assert len(found.smoothed) == len(RATES)


@pytest.mark.parametrize("end", [4.0, 1.0, 0.99])
def test_without_a_fall_nothing_is_suggested(end):
    found = suggest(RATES, np.linspace(1, end, len(RATES)))
    assert found.lr is None and found.steepest is None


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    root = write_cifar10(folder / "data")
    (folder / "small.yaml").write_text(CIFAR_YAML.format(root=root))
    return folder / "small.yaml"


def test_the_test_of_a_classifier(small, tmp_path, caplog, monkeypatch):
    """optim.lr is for 8 images; batches of 16 get twice the rate, and suggestions are as for 8."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lr_find, "STEPS", 60)
    overrides = ["train.batch_size=16", "train.max_steps=2"]
    out = resdet.train(small, overrides, run_dir=tmp_path / "run", device="cpu", lr_find=True)
    assert out == tmp_path / "run_lr_find" and not (tmp_path / "run").exists()
    assert sorted(path.name for path in out.iterdir()) == ["lr_find.json", "lr_find.png"]
    found = json.loads((out / "lr_find.json").read_text())
    assert (found["batch_size"], found["reference_batch"]) == (16, 8)
    assert len(found["lr"]) == len(found["loss"]) == len(found["smoothed_loss"]) > 25
    assert found["lr"][0] == pytest.approx(1e-6)
    # classes that are colours are learned at once, and diverge with rates near 10
    assert 1e-4 < found["suggested_lr"] < 1
    rate = found["suggested_lr"]
    assert f"suggested: optim.lr={rate:g}, for optim.reference_batch 8 " in caplog.text
    assert f"({2 * rate:.2g} for 16 images)" in caplog.text
    resdet.train(small, ["train.max_steps=1"], run_dir=tmp_path / "run", device="cpu")


@pytest.mark.slow
def test_a_loss_that_diverges_ends_the_test(small, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lr_find, "DIVERGED", 1.0001)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"the loss diverges at .* steps; look at the data with"):
        resdet.train(small, run_dir=run, device="cpu", lr_find=True)
    monkeypatch.setattr(lr_find, "DIVERGED", 1.5)
    out = resdet.train(small, run_dir=run, device="cpu", lr_find=True)
    found = json.loads((out / "lr_find.json").read_text())
    assert len(found["lr"]) < lr_find.STEPS and "the loss diverges at" in found["end"]


@pytest.mark.slow
def test_a_detector_and_a_localizer(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(lr_find, "STEPS", lr_find.LEAST_STEPS)
    monkeypatch.setattr(lr_find, "LAST", 1e-3)
    overrides = ["model.roi.mask_head=null", "train.accumulate=2"]
    out = resdet.train(tiny.config, overrides, run_dir=tmp_path / "d", device="cpu", lr_find=True)
    assert len(json.loads((out / "lr_find.json").read_text())["loss"]) == 10
    write_shapes(tmp_path / "shapes")
    config = write_config(tmp_path / "loc.yaml", tmp_path / "shapes", "rpn")
    out = resdet.train(config, run_dir=tmp_path / "l", device="cpu", lr_find=True)
    assert len(json.loads((out / "lr_find.json").read_text())["loss"]) == 10


def test_what_it_cannot_be_combined_with(small, tmp_path):
    for options in ({"check": True}, {"seeds": 2}, {"resume": True}):
        with pytest.raises(UserError, match="check, lr_find and seeds exclude each other"):
            resdet.train(small, run_dir=tmp_path, device="cpu", lr_find=True, **options)
    with pytest.raises(UserError, match="--lr-find needs a CONFIG"):
        resdet.train(None, run_dir=tmp_path / "none", device="cpu", lr_find=True)
