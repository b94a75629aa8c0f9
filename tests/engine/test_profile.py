"""A profile names the parts of a step, and changes nothing in the run."""

from __future__ import annotations

import gzip
import json

import torch

from resdet.engine import profile
from resdet.engine.profile import StepProfile, data_waits_profiled
from resdet.engine.start import train
from resdet.hardware import profiled
from tests.engine.cls_data import write_cifar10


def test_a_run_writes_table_and_trace(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(profile, "SKIPPED", 1)
    monkeypatch.setattr(profile, "PROFILED", 2)
    root = write_cifar10(tmp_path / "data")
    given = [f"data.root={root}", "train.batch_size=4", "train.max_steps=4", "eval.every=0"]
    states = []
    for wanted in ("true", "false"):
        folder = tmp_path / wanted
        overrides = [*given, "optim.milestones=[]", f"train.profile={wanted}"]
        train("cifar10_resnet20", overrides, run_dir=folder, device="cpu")
        states.append(torch.load(folder / "last.pt", weights_only=True)["model"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not (tmp_path / "false/profile").exists()
    table = (tmp_path / "true/profile/steps.txt").read_text()
    names = ("data wait", "to the device", "forward", "backward", "optimizer")
    found = {line.rsplit(maxsplit=1)[0].strip() for line in table.splitlines()[1:-1]}
    assert found == set(names)
    trace = json.loads(gzip.decompress((tmp_path / "true/profile/trace.json.gz").read_bytes()))
    events = {event.get("name") for event in trace["traceEvents"]}
    assert {f"resdet: {name}" for name in names} <= events


def test_a_run_that_ends_early_has_fewer_steps_in_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(profile, "SKIPPED", 1)
    steps = StepProfile(tmp_path / "profile", torch.device("cpu"), wanted=True)
    for _ in data_waits_profiled([[0], [1], [2]]):
        with profiled("forward"):
            torch.ones(3).sum()
        steps.after_step()
    steps.close()
    steps.close()
    assert "forward" in (tmp_path / "profile/steps.txt").read_text()
