"""log.trackers: what wandb and MLflow get, and that neither ever ends a run."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import resdet
from resdet.engine.trackers import TRACKERS, Trackers, check_trackers, flat, run_name
from resdet.errors import UserError
from tests.engine.cls_data import CIFAR_YAML, write_cifar10
from tests.engine.conftest import assert_same_end, log_of

OPTIONS = ["train.max_steps=4", "eval.every=2", "checkpoint.every=2"]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    root = write_cifar10(folder / "data")
    (folder / "small.yaml").write_text(CIFAR_YAML.format(root=root))
    return folder / "small.yaml"


class Calls(list[tuple[str, Any]]):
    """What was called, by name; any attribute is a function that notes its call."""

    def note(self, name: str, value: Any = None) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.append((name, arguments or options))
            return value

        return call

    def of(self, name: str) -> list[Any]:
        return [arguments for called, arguments in self if called == name]


def module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(attributes)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def wandb(monkeypatch) -> Calls:
    """A module with the calls of wandb that are made."""
    calls = Calls()
    names = ("define_metric", "log", "finish")
    run = types.SimpleNamespace(id="w1", **{name: calls.note(name) for name in names})

    def init(**options: Any) -> Any:
        calls.append(("init", options))
        return run

    functions = {"Image": lambda path: f"image of {path}", "Settings": lambda **options: options}
    module(monkeypatch, "wandb", init=init, **functions)
    return calls


@pytest.fixture
def mlflow(monkeypatch) -> Calls:
    """A module with the calls of MLflow that are made."""
    calls = Calls()
    client = types.SimpleNamespace(
        get_experiment_by_name=calls.note("get"),
        create_experiment=calls.note("create", "7"),
        create_run=calls.note(
            "run", types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))
        ),
        log_batch=lambda run_id, **options: calls.append(("batch", (run_id, options))),
        update_run=calls.note("update"),
        log_artifact=calls.note("artifact"),
        set_terminated=calls.note("end"),
    )
    module(monkeypatch, "mlflow", MlflowClient=lambda: client)
    module(monkeypatch, "mlflow.entities", Metric=lambda *given: given, Param=lambda *given: given)
    return calls


def test_both_get_the_config_numbers_and_plots_and_continue_their_runs(
    small, tmp_path, wandb, mlflow
):
    run = tmp_path / "tracked"
    named = "log.trackers=[wandb, mlflow]"
    resdet.train(small, [*OPTIONS, "train.max_steps=2", named], run_dir=run, device="cpu")
    assert json.loads((run / "trackers.json").read_text()) == {"wandb": "w1", "mlflow": "m1"}
    (options,) = wandb.of("init")
    assert (options["name"], options["id"], options["project"]) == ("tracked", None, "resdet")
    assert options["config"]["optim"]["lr"] == 0.05
    lines = [line for line in log_of(run) if "loss" in line]
    logged = [arguments[0] for arguments in wandb.of("log")]
    first = next(values for values in logged if values.get("step") == 1)
    assert first["train/loss"] == lines[0]["loss"] and first["train/lr"] == lines[0]["lr"]
    (metrics,) = [values for values in logged if "eval/top1_percent" in values]
    assert metrics["step"] == 2
    assert any("plots/losses" in values for values in logged)
    assert len(wandb.of("finish")) == 1

    params = dict(pair for _, given in mlflow.of("batch") for pair in given.get("params", []))
    assert params["optim.lr"] == "0.05" and params["data.train.root"] == "None"
    metrics = [each for _, given in mlflow.of("batch") for each in given.get("metrics", [])]
    assert ("train/loss", lines[1]["loss"], 2) in [(name, v, s) for name, v, _, s in metrics]
    assert mlflow.of("artifact") and mlflow.of("end") == [("m1",)]

    # resumed: the same runs; and exactly the run that nobody tracks
    resdet.train(None, ["train.max_steps=4"], run_dir=run, resume=True, device="cpu")
    assert wandb.of("init")[1]["id"] == "w1"
    assert len(mlflow.of("run")) == 1 and len(mlflow.of("update")) == 1
    whole = resdet.train(small, OPTIONS, run_dir=tmp_path / "whole", device="cpu")
    assert_same_end(run, whole)
    assert not (whole / "trackers.json").exists()


def test_one_that_fails_is_left_out_and_the_run_ends_well(small, tmp_path, wandb, caplog):
    def fail(values: Any) -> None:
        raise ConnectionError("no network")

    sys.modules["wandb"].init().log = fail
    run = tmp_path / "run"
    overrides = ["train.max_steps=2", "log.trackers=[wandb]"]
    resdet.train(small, overrides, run_dir=run, device="cpu")
    warnings = [r.getMessage() for r in caplog.records if "log.trackers" in r.getMessage()]
    assert warnings == [
        "log.trackers: wandb fails (ConnectionError: no network). Training continues without it"
    ]
    assert (run / "last.pt").exists() and not wandb.of("finish")


def test_a_damaged_file_of_ids_starts_new_runs(tmp_path, wandb, caplog):
    (tmp_path / "trackers.json").write_text("[")
    Trackers(["wandb"], tmp_path, {}).close()
    assert "trackers.json fails" in caplog.text
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "w1"}


def test_what_is_missing_is_named_before_anything_starts(small, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with pytest.raises(UserError, match="no tracker 'wand'; did you mean wandb"):
        resdet.train(small, ["log.trackers=[wand]"], run_dir=run, device="cpu")
    monkeypatch.setattr(TRACKERS["mlflow"], "package", "no_such_package")
    with pytest.raises(UserError, match="is not installed; pip install no_such_package, or take"):
        resdet.train(small, ["log.trackers=[mlflow]"], run_dir=run, device="cpu")
    assert not run.exists()
    check_trackers([])


def test_names_and_keys(tmp_path):
    assert run_name(tmp_path / "mine") == "mine"
    assert run_name(tmp_path / "mine" / "seed_12") == "mine/seed_12"
    assert run_name(tmp_path / "seed_x") == "seed_x"
    assert flat({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}


@pytest.mark.slow
def test_wandb_itself_offline(small, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    for steps in (2, 4):
        overrides = [*OPTIONS, f"train.max_steps={steps}", "log.trackers=[wandb]"]
        resdet.train(small, overrides, run_dir=run, resume=steps == 4, device="cpu")
    own = json.loads((run / "trackers.json").read_text())["wandb"]
    files = list((run / "wandb").glob(f"offline-run-*/run-{own}.wandb"))
    assert files and all(file.stat().st_size > 1000 for file in files)


@pytest.mark.slow
def test_mlflow_itself_with_files(small, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    run = tmp_path / "run"
    for steps in (2, 4):
        overrides = [*OPTIONS, f"train.max_steps={steps}", "log.trackers=[mlflow]"]
        resdet.train(small, overrides, run_dir=run, resume=steps == 4, device="cpu")
    own = json.loads((run / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    stored = client.get_run(own)
    assert stored.info.status == "FINISHED" and stored.info.run_name == "run"
    assert stored.data.params["optim.lr"] == "0.05"
    history = client.get_metric_history(own, "train/loss")
    lines = {line["step"]: line["loss"] for line in log_of(run) if "loss" in line}
    assert {metric.step: metric.value for metric in history} == pytest.approx(lines)
    assert any(path.path == "plots/losses.png" for path in client.list_artifacts(own, "plots"))
