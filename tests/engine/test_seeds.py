"""--seeds: runs one after another, each resumable, and mean and deviation of their metrics."""

from __future__ import annotations

import json
import logging
import os
import signal
import statistics
from pathlib import Path

import pytest

import resdet
from resdet.config.loading import load_any_config
from resdet.engine import seeds as seeds_module
from resdet.engine import train as train_module
from resdet.engine.signals import Stopped
from resdet.errors import UserError
from tests.engine.cls_data import CIFAR_YAML, write_cifar10
from tests.engine.conftest import assert_same_end, log_of

OPTIONS = ["log.report=false", "train.max_steps=4", "eval.every=2"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    root = write_cifar10(folder / "data")
    (folder / "small.yaml").write_text(CIFAR_YAML.format(root=root))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def three(small, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "three"
    return resdet.train(small, OPTIONS, run_dir=run, device="cpu", seeds=3)


def test_each_seed_is_a_run_and_their_metrics_are_summed_up(small, three, tmp_path):
    assert {path.name for path in three.iterdir()} == {"seed_0", "seed_1", "seed_2", "seeds.json"}
    found = json.loads((three / "seeds.json").read_text())
    assert found["seeds"] == [0, 1, 2] and list(found["runs"]) == ["seed_0", "seed_1", "seed_2"]
    values = []
    for name, run in found["runs"].items():
        assert load_any_config(three / name / "config.yaml").train.seed == int(name[-1])
        best = max(
            (line for line in log_of(three / name) if "eval" in line),
            key=lambda line: (line["eval"]["top1_percent"], -line["step"]),
        )
        assert run["step"] == best["step"]
        assert run["metrics"]["top1_percent"] == best["eval"]["top1_percent"]
        assert run["metrics"]["val_loss"] == best["val_loss"]
        values.append(best["val_loss"])
    assert len(set(values)) == 3
    summary = found["metrics"]["val_loss"]
    assert summary["values"] == values
    assert summary["mean"] == pytest.approx(sum(values) / 3)
    assert summary["std"] == pytest.approx(statistics.stdev(values))
    # one of them is what a single run with that seed is
    alone = resdet.train(small, [*OPTIONS, "train.seed=1"], run_dir=tmp_path / "1", device="cpu")
    assert_same_end(alone, three / "seed_1")


def test_a_signal_stops_all_and_resume_continues_exactly(
    small, three, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    runs, update, done = tmp_path / "runs", train_module.update, []

    def stopping(*arguments):
        done.append(1)
        if len(done) == 6:  # the second step of the second seed
            os.kill(os.getpid(), signal.SIGTERM)
        return update(*arguments)

    monkeypatch.setattr(train_module, "update", stopping)
    with pytest.raises(Stopped) as stopped:
        resdet.train(small, OPTIONS, run_dir=runs, device="cpu", seeds=3)
    assert stopped.value.code == 143
    command = f"python tools/train_cls.py --resume --run-dir {runs}"
    assert f"resume all seeds with: {command}" in caplog.text
    assert not (runs / "seed_2").exists()
    found = json.loads((runs / "seeds.json").read_text())
    assert list(found["runs"]) == ["seed_0"] and found["metrics"]["val_loss"]["std"] is None
    caplog.clear()
    resdet.train(None, run_dir=runs, resume=True, device="cpu")
    assert len(done) == 12, "only what was left is trained"
    assert (runs / "seeds.json").read_text() == (three / "seeds.json").read_text()
    for name in ("seed_0", "seed_1", "seed_2"):
        assert_same_end(runs / name, three / name)
    table = [record.getMessage().split() for record in caplog.records]
    assert ["metric", "mean", "std", "seed_0", "seed_1", "seed_2"] in table


def test_a_signal_during_a_report_starts_no_further_seed(small, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def interrupted(training, stop):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_module, "report_run", interrupted)
    runs = tmp_path / "runs"
    with pytest.raises(Stopped) as stopped:
        resdet.train(small, OPTIONS, run_dir=runs, device="cpu", seeds=2)
    assert stopped.value.code == 143 and "resume all seeds with:" in caplog.text
    assert not (runs / "seed_1").exists()
    assert list(json.loads((runs / "seeds.json").read_text())["runs"]) == ["seed_0"]


def test_a_signal_ends_the_last_report_and_the_run_is_complete(
    small, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)

    def interrupted(sources, path):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the writing goes on")

    monkeypatch.setattr("resdet.report.build.write_report", interrupted)
    options = ["log.report=true", "train.max_steps=2", "eval.every=2"]
    with pytest.raises(Stopped) as stopped:
        resdet.train(small, options, run_dir=tmp_path / "run", device="cpu")
    assert stopped.value.code == 143
    assert "a signal ends the writing of the report; the run is complete" in caplog.text
    assert "done: 2 steps; best" in caplog.text and (tmp_path / "run/best.pt").is_file()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    with pytest.raises(Stopped):
        resdet.train(small, options, run_dir=tmp_path / "runs", device="cpu", seeds=1)
    assert list(json.loads((tmp_path / "runs/seeds.json").read_text())["runs"]) == ["seed_0"]


@pytest.mark.slow
def test_one_measured_batch_size_holds_for_all(small, tmp_path, monkeypatch):
    asked = []

    def choose(trial, processes):
        asked.append(1)
        return 4

    monkeypatch.setattr("resdet.engine.setup.choose_batch_size", choose)
    overrides = [*OPTIONS, "train.batch_size=auto", "train.max_steps=1", "train.seed=5"]
    runs = resdet.train(small, overrides, run_dir=tmp_path / "runs", device="cpu", seeds=2)
    for name in ("seed_5", "seed_6"):
        assert load_any_config(runs / name / "config.yaml").train.batch_size == 4
    assert len(asked) == 1
    # another seed, with what is known from the folder alone
    resdet.train(None, run_dir=runs, resume=True, device="cpu", seeds=3)
    assert load_any_config(runs / "seed_7" / "config.yaml").train.batch_size == 4
    assert json.loads((runs / "seeds.json").read_text())["seeds"] == [5, 6, 7]
    assert len(asked) == 1


def test_mistakes(small, three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "small").write_text("")
    with pytest.raises(UserError, match=r"runs/small: a file, not a folder; give another"):
        resdet.train(small, device="cpu", seeds=2)
    with pytest.raises(UserError, match="this run folder exists; resume it"):
        resdet.train(small, run_dir=three, device="cpu", seeds=3)
    with pytest.raises(UserError, match=r"--seeds 2: .* has 3 seeds; give at least as many"):
        resdet.train(small, run_dir=three, device="cpu", seeds=2, resume=True)
    with pytest.raises(UserError, match=r"no runs of several seeds to resume \(it has no seeds"):
        resdet.train(small, run_dir=three / "seed_0", device="cpu", seeds=2, resume=True)
    with pytest.raises(UserError, match="seeds is 0; give a number of runs from 1"):
        resdet.train(small, run_dir=tmp_path / "run", device="cpu", seeds=0)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/seeds.json").write_text('{"seeds": [1.5]}')
    with pytest.raises(UserError, match="seeds is not a list of whole numbers"):
        resdet.train(None, run_dir=tmp_path / "bad", device="cpu", resume=True)
    (tmp_path / "bad/seeds.json").write_text('{"seeds": [1]}')
    with pytest.raises(UserError, match="no run has begun; give the CONFIG again"):
        resdet.train(None, run_dir=tmp_path / "bad", device="cpu", resume=True)


def test_metrics_of_several_kinds_and_of_runs_without_them():
    flat = dict(seeds_module._flat({"bbox": {"AP": 0.5, "APs": None, "APl": -1.0}, "mAP": 1}))
    assert flat == {"bbox/AP": 0.5, "mAP": 1}
    runs = {"a": {"metrics": {"x": 1.0}}, "b": {"metrics": {"x": 2.0, "y": 3.0}}}
    found = seeds_module.summary_of(runs)
    assert found["x"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5), "values": [1.0, 2.0]}
    assert found["y"] == {"mean": 3.0, "std": None, "values": [3.0]}
