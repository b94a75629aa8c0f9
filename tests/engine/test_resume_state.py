"""Checkpoints that no run can resume from: each field damaged, another run's, a copy of best.pt."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import resdet
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.engine.ema import EMA
from resdet.engine.optim import Adaptation, make_optimizer
from resdet.engine.resume import check_state, load_optimizer, load_state
from resdet.engine.run_folder import open_run, prepare_folder
from resdet.errors import UserError
from resdet.files import checkpoint
from tests.engine.conftest import assert_same_end


class Parts:
    """A model after two updates, and what a run has beside it."""

    def __init__(self, name: str) -> None:
        self.config = config_from_dict(
            {"train": {"max_steps": 3}, "optim": {"name": name, "warmup_steps": 0}}, "the test"
        )
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.optimizer = make_optimizer(self.config.optim, self.model)
        self.ema = EMA(self.model, 0.9)
        for step in range(2):
            self.optimizer.zero_grad()
            self.model(torch.ones(2, 3, 4, 4) * torch.arange(4.0)).square().sum().backward()
            self.optimizer.step()
            self.ema.update(step)
        values = checkpoint.contents(
            *("detector", config_to_dict(self.config), ["a", "b"], [1, 2], 2),
            *(self.model.state_dict(), self.ema.averages),
        )
        self.state = values | {
            "optimizer": self.optimizer.state_dict(),
            "scaler": {},
            "best": {"step": 1, "metric": "AP", "value": 0.5},
            "validation_is_due": False,
            "threads": 1,
            "data": "3 images",
            "adapted": asdict(Adaptation()),
            "recent": [],
        }

    def check(self, path: Path) -> dict[str, Any]:
        """What resuming does with the file, until it is loaded."""
        state = load_state(path)
        check_state(
            state,
            path,
            model=self.model,
            averages=self.ema.averages,
            optimizer=self.optimizer,
            optimizer_name=self.config.optim.name,
            scaler={"scale": 2.0, "_growth_tracker": 0} if state["scaler"] else {},
            classes=(["a", "b"], [1, 2]),
            total_steps=3,
        )
        return state


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts("adamw")


@pytest.fixture
def run(parts: Parts, tmp_path: Path) -> Path:
    """A run folder with its three checkpoints."""
    prepare_folder(open_run(parts.config, tmp_path / "run"))
    checkpoint.save(tmp_path / "run" / "previous.pt", {**parts.state, "step": 1})
    weights_only = {**parts.state, "optimizer": None, "scaler": None}
    checkpoint.save(tmp_path / "run" / "best.pt", weights_only)
    checkpoint.save(tmp_path / "run" / "last.pt", parts.state)
    return tmp_path / "run"


def refusal(call: Callable[[], object], run: Path) -> str:
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(f"{run / 'last.pt'}"), text
    assert "\n" not in text and len(text) < 1500, text
    return text


def resume(run: Path) -> object:
    return open_run(None, run, resume=True)


@pytest.mark.slow
def test_the_checkpoint_before_is_kept_until_the_end(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, saved = tmp_path / "run", checkpoint.save_last

    def save(path: Path, state: dict[str, Any], *, is_final: bool) -> None:
        saved(path, state, is_final=is_final)
        if state["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_last", save)
    overrides = ["train.max_steps=3", "checkpoint.every=1", "eval.every=1", "eval.val_loss=false"]
    overrides += ["train.ema_decay=0.9", "optim.name=adamw"]
    with pytest.raises(KeyboardInterrupt):
        resdet.train(tiny.config, overrides, run_dir=run, device="cpu")
    monkeypatch.undo()
    shutil.copytree(run, tmp_path / "other")
    assert checkpoint.load(run / "previous.pt")["step"] == 1
    (run / "previous.pt").rename(run / "last.pt")
    for each in (run, tmp_path / "other"):
        resdet.train(None, [], run_dir=each, resume=True, device="cpu")
        assert not (each / "previous.pt").exists()
    assert_same_end(run, tmp_path / "other")


def test_previous_takes_no_more_disk_than_writing(run: Path, parts: Parts) -> None:
    before = (run / "last.pt").stat().st_ino
    checkpoint.save_last(run / "last.pt", parts.state, is_final=False)
    assert (run / "previous.pt").stat().st_ino == before
    assert (run / "last.pt").stat().st_ino != before
    checkpoint.save_last(run / "last.pt", parts.state, is_final=True)
    assert sorted(path.name for path in run.iterdir()) == ["best.pt", "config.yaml", "last.pt"]


def test_what_else_to_start_from(run: Path) -> None:
    whole = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(whole[: len(whole) // 2])
    text = refusal(lambda: resume(run), run)
    assert "last.pt cannot be read as weights: it is truncated" in text
    assert f"is whole, at step 1: rename {run / 'previous.pt'} to last.pt" in text
    (run / "last.pt").rename(run / "broken.pt")
    assert "last.pt: is missing; the checkpoint before it" in refusal(lambda: resume(run), run)
    (run / "broken.pt").rename(run / "last.pt")
    (run / "previous.pt").write_bytes(b"")
    text = refusal(lambda: resume(run), run)
    assert f"start a new run from the weights of {run / 'best.pt'}, with model.weights=" in text
    (run / "best.pt").unlink()
    text = refusal(lambda: resume(run), run)
    assert "restore it from a copy, or start again with another --run-dir" in text


def test_a_copy_of_best_is_named(run: Path) -> None:
    shutil.copy(run / "best.pt", run / "last.pt")
    text = refusal(lambda: resume(run), run)
    assert "is it a copy of best.pt, whose weights start a new run" in text
    assert "the checkpoint before it is whole" in text


def test_another_runs_checkpoint(run: Path, parts: Parts) -> None:
    other = copy.deepcopy(parts.state)
    other["config"]["optim"]["lr"] = 0.5
    checkpoint.save(run / "last.pt", other)
    text = refusal(lambda: resume(run), run)
    assert f"its config is not that of {run / 'config.yaml'} beside it (optim.lr: 0.5" in text
    (run / "config.yaml").write_text("train: [")  # what is damaged is written again
    assert resume(run)


def at(values: Any, key: Any) -> Any:
    """0 stands for the first name."""
    is_named = isinstance(values, dict) and key == 0 and values and 0 not in values
    return next(iter(values)) if is_named else key


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets the value at a path to the last item."""

    def change(state: dict[str, Any]) -> None:
        values: Any = state
        for key in path[:-2]:
            values = values[at(values, key)]
        values[at(values, path[-2])] = path[-1]

    return change


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.pop(key)


NAN = float("nan")
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no step": (drop("step"), "lacks step"),
    "no optimizer": (drop("optimizer"), "optimizer is missing"),
    "no threads": (drop("threads"), "threads is missing"),
    "step of text": (put("step", "2"), "step is '2', not a count"),
    "step of a fraction": (put("step", 2.5), "step is 2.5, not a count"),
    "step below 0": (put("step", -1), "step is -1"),
    "step of truth": (put("step", True), "step is True"),
    "step past the end": (put("step", 9), "it is at step 9, and the run has 3"),
    "threads": (put("threads", 10**6), "threads is 1000000"),
    "threads of text": (put("threads", "1"), "threads is '1'"),
    "kind": (put("kind", "classifier"), "a classifier with a config for detection"),
    "classes": (put("class_names", ["a"]), "its classes are not those of data.train"),
    "ids": (put("category_ids", [7]), "its classes are not those of data.train"),
    "config": (put("config", {"train": {"max_steps": "a"}}), "train.max_steps: expected"),
    "config of numbers": (put("config", 3), "have the wrong type"),
    "config of tensors": (put("config", "data", torch.ones(2)), "have the wrong type"),
    "classes of a tensor": (put("class_names", torch.ones(2)), "have the wrong type"),
    "ids of a tensor": (put("category_ids", torch.ones(3, 3)), "have the wrong type"),
    "model of a list": (put("model", [1]), "model is a list"),
    "empty model": (put("model", {}), "model lacks"),
    "a weight's shape": (put("model", 0, torch.ones(3)), "has shape \\(3,\\)"),
    "a weight's type": (put("model", 0, "x"), "is 'x', not a tensor"),
    "a weight of integers": (
        lambda s: s["model"].update({k: v.int() for k, v in s["model"].items()}),
        "is of type torch.int32",
    ),
    "a weight of NaN": (
        lambda s: s["model"]["0.weight"].fill_(NAN),
        "has NaN or infinite values",
    ),
    "one more weight": (put("model", "x", torch.ones(1)), "model has the unknown x"),
    "no ema": (put("ema", None), "ema is None, not named tensors"),
    "an ema's shape": (put("ema", 0, torch.ones(3)), "ema: .* has shape"),
    "ema of text": (put("ema", "x"), "ema is 'x'"),
    "empty optimizer": (put("optimizer", {}), "optimizer has no state or no param_groups"),
    "groups": (put("optimizer", "param_groups", []), "optimizer is that of other parameters"),
    "group of text": (put("optimizer", "param_groups", 0, "x"), "is that of other parameters"),
    "group's parameters": (
        put("optimizer", "param_groups", 0, "params", [0]),
        "is that of other parameters",
    ),
    "rate": (put("optimizer", "param_groups", 0, "lr", "x"), "optimizer: lr is 'x'"),
    "no states": (put("optimizer", "state", {}), "optimizer has no state after 2 steps"),
    "states of others": (put("optimizer", "state", 10**6, {}), "belongs to no parameter"),
    "state of sgd": (
        put("optimizer", "state", 0, {"momentum_buffer": None}),
        "state 0 is not that of adamw",
    ),
    "moment's shape": (
        put("optimizer", "state", 0, "exp_avg", torch.ones(2)),
        "exp_avg of parameter 0 has shape",
    ),
    "moment below 0": (
        lambda s: s["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1),
        "exp_avg_sq of parameter 0 has negative values",
    ),
    "moment of NaN": (
        lambda s: s["optimizer"]["state"][0]["exp_avg"].fill_(NAN),
        "exp_avg of parameter 0 has NaN",
    ),
    "steps of a moment": (
        put("optimizer", "state", 0, "step", torch.ones(2)),
        "step of parameter 0 has shape",
    ),
    "scaler": (put("scaler", 3), "scaler is 3"),
    "scale": (put("scaler", {"scale": "x", "_growth_tracker": 0}), "scaler: scale is 'x'"),
    "growth": (put("scaler", {"scale": 2.0, "_growth_tracker": 0.5}), "_growth_tracker is 0.5"),
    "broken": (put("broken", {"train": {"a": 1}}), "broken is a dict"),
    "best of text": (put("best", "x"), "best is 'x'"),
    "best without value": (put("best", {"step": 1, "metric": "AP"}), "best is a dict"),
    "best of NaN": (put("best", {"step": 1, "metric": "AP", "value": NAN}), "best is a dict"),
    "best later": (
        put("best", {"step": 9, "metric": "AP", "value": 0.5}),
        "best is of step 9, after its own step 2",
    ),
    "due": (put("validation_is_due", 1), "validation_is_due is 1, not true or false"),
    "data": (put("data", 3), "data is 3, not a fingerprint"),
    "adapted": (put("adapted", {"drops": "x"}), "adapted is a dict"),
    "adapted unknown": (put("adapted", {"x": 1}), "adapted is a dict"),
    "recent": (put("recent", ["a"]), "recent is a list"),
    "recent long": (put("recent", [1.0] * 1000), "recent is a list"),
    "format": (put("format", "1"), "format '1'"),
    "object": (put("best", Path("x")), "best is a Foreign"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field(run: Path, parts: Parts, name: str) -> None:
    change, words = CHANGES[name]
    changed = copy.deepcopy(parts.state)
    change(changed)
    torch.save(changed, run / "last.pt")
    text = refusal(lambda: (resume(run), parts.check(run / "last.pt")), run)
    assert "is whole, at step 1: rename" in text
    assert re.search(words, text), text


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_hyperparameters_are_the_configs(tmp_path: Path, name: str) -> None:
    """Those that another version of torch or an editor wrote have no effect."""
    made = Parts(name)
    edited = copy.deepcopy(made.state)
    for group in edited["optimizer"]["param_groups"]:
        group |= {"weight_decay": 9.0, "maximize": True, "new": None}
        group.pop("betas", None)
    torch.save(edited, tmp_path / "last.pt")
    state = made.check(tmp_path / "last.pt")
    before = made.optimizer.state_dict()
    load_optimizer(made.optimizer, state["optimizer"])
    after = made.optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert str(before["state"]) == str(after["state"])


def test_a_momentum_of_nothing_is_refused(tmp_path: Path) -> None:
    made = Parts("sgd")
    edited = copy.deepcopy(made.state)
    edited["optimizer"]["state"][1]["momentum_buffer"] = None
    torch.save(edited, tmp_path / "last.pt")
    with pytest.raises(UserError, match="momentum_buffer of parameter 1 is None, not a tensor"):
        made.check(tmp_path / "last.pt")


def test_parameters_without_a_momentum_go_on_as_before(tmp_path: Path) -> None:
    """One had no gradient before the checkpoint; later all have one."""
    made = Parts("sgd")
    edited = copy.deepcopy(made.state)
    del edited["optimizer"]["state"][1]
    torch.save(edited, tmp_path / "last.pt")
    load_optimizer(made.optimizer, made.check(tmp_path / "last.pt")["optimizer"])
    weight = made.optimizer.param_groups[0]["params"][1]
    before = weight.detach().clone()
    for parameter in made.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.optimizer.step()
    group = made.optimizer.param_groups[0]
    first_update = group["lr"] * (1 + group["weight_decay"] * before)
    torch.testing.assert_close(weight, before - first_update)
