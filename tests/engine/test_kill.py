"""The kill suite: runs that SIGKILL ends at random moments resume to the last bit.

    RESDET_KILLS=100 pytest -m slow tests/engine/test_kill.py

It resumes where it was stopped: what it has done is kept in RESDET_KILL_STATE, by default
runs/kill_suite, until the package's code changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from resdet.config.loading import load_any_config
from resdet.files import checkpoint
from resdet.files.writing import write_json
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import assert_same_end, log_of, write_tiny
from tests.engine.kill_server import KillServer
from tests.golden import tiny_backbone  # noqa: F401  registers the backbone

KILLS = int(os.environ.get("RESDET_KILLS", "100"))
CASES = [(task, workers) for task in ("det", "cls") for workers in (0, 1, 3)]
OVERRIDES = {
    "det": [
        *("model.backbone.name=golden_tiny", "train.ema_decay=0.9", "eval.every=3"),
        *("data.augment.copy_paste.prob=0.7", "data.augment.mosaic={prob: 0.7, off_epochs: 0.5}"),
        *("data.repeat_threshold=1", "model.roi.box_head.class_weights=inverse"),
    ],
    # 90 MB per checkpoint, so that some kills come while one is written
    "cls": ["eval.every=3"],
}
STEPS = 8
COMMON = [f"train.max_steps={STEPS}", "checkpoint.every=2", "log.every=1", "log.tensorboard=true"]
TIMES = ("images_per_s", "memory_mb", "eval_s")
"""What differs from run to run in log.jsonl."""


@dataclass
class State:
    """How far a case has come."""

    kills: int = 0
    runs: int = 0
    """Those that came to their end."""
    seconds: float = 0.0
    """Of a run that is not killed."""
    steps_seconds: float = 0.0
    """Those from its first step to the last."""
    steps: list[int] = field(default_factory=list)
    """Of last.pt after each kill; 0 where there was none."""


class Moment:
    """When a run is killed: one time in four anywhere in its start, else anywhere from the first
    step that it makes to its end."""

    def __init__(self, run: Path, step: int, state: State, random: random.Random) -> None:
        self.log, self.step = run / "log.jsonl", step
        self.before = self._changed()
        self.waits = random.random() < 0.75
        left = state.steps_seconds * (STEPS - step) / STEPS
        self.delay = random.uniform(0, left if self.waits else state.seconds - state.steps_seconds)

    def _changed(self) -> int:
        return self.log.stat().st_mtime_ns if self.log.exists() else 0

    def _lines(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def __call__(self, number: int) -> None:
        deadline = time.monotonic() + 120
        while self.waits and KillServer.is_running(number) and time.monotonic() < deadline:
            # lines after the checkpoint are from before the last kill, until they are cut
            if self._changed() != self.before and f'"step": {self.step + 1},' in self._lines():
                break
            time.sleep(0.002)
        time.sleep(self.delay)


def begun_at(run: Path) -> float:
    """When the first step had been made, by the disk's clock: its picture."""
    return (run / "plots" / "train_batch1.jpg").stat().st_mtime


@pytest.fixture(scope="module")
def folder(repo) -> Path:
    """Where the suite keeps what it has done with this code."""
    digest = hashlib.sha256()
    for path in sorted((repo / "resdet").rglob("*.py")):
        digest.update(path.read_bytes())
    root = Path(os.environ.get("RESDET_KILL_STATE", repo / "runs" / "kill_suite"))
    kept = root / digest.hexdigest()[:12]
    for other in root.glob("*"):
        if other != kept:
            shutil.rmtree(other)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def config_of(task: str, folder: Path, nuclei: Path) -> Path:
    """The task's config, with its data, made once."""
    path = folder / f"{task}.yaml"
    if not path.exists():
        if task == "det":
            write_tiny(folder / "det_data", nuclei, path)
        else:
            root = write_folders(folder / "cls_data")
            path.write_text(FOLDER_YAML.format(root=root))
    return path


def read_state(path: Path) -> State:
    return State(**json.loads(path.read_text())) if path.exists() else State()


def assert_readable(run: Path) -> int:
    """Every file that a kill left under its name is whole; returns the step of last.pt."""
    step = 0
    for name in ("last.pt", "best.pt"):
        if (run / name).exists():
            values = checkpoint.load(run / name)
            step = values["step"] if name == "last.pt" else step
    if (run / "config.yaml").exists():
        load_any_config(run / "config.yaml")
    for path in run.glob("*.json"):
        json.loads(path.read_text())
    return step


def lines_of(run: Path) -> list[dict[str, Any]]:
    """log.jsonl without what a clock and the system measure."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in log_of(run)]


def assert_unbroken(run: Path, whole: Path) -> None:
    """The same weights, optimizer, averages, best and lines, and nothing left over."""
    assert_same_end(whole, run)
    assert lines_of(run) == lines_of(whole)
    one, two = (checkpoint.load(each / "best.pt") for each in (run, whole))
    for name in ("model", "ema"):
        assert (one[name] is None) == (two[name] is None)
        assert all(torch.equal(tensor, two[name][key]) for key, tensor in (one[name] or {}).items())
    left = [path.name for path in run.glob(".*")]
    assert not [name for name in left if not name.startswith((".eval", ".per_class", ".pr_"))]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "workers"), CASES)
def test_killed_at_random_moments(folder, server, nuclei, task, workers):
    config, name = config_of(task, folder, nuclei), f"{task}_{workers}"
    store, output = folder / f"{name}.json", folder / f"{name}.txt"
    state, whole, run = read_state(store), folder / f"{name}_whole", folder / f"{name}_run"
    command = [f"train-{task}", str(config), *COMMON, *OVERRIDES[task], f"data.workers={workers}"]

    def go(run: Path, kill_at: Callable[[int], object] | None = None) -> bool:
        """Start or resume; whether it came to its end."""
        start = ["--run-dir", str(run), "--device", "cpu"]
        is_begun = (run / "config.yaml").exists()
        argv = [f"train-{task}", "--resume", *start] if is_begun else [*command, *start]
        begin = time.monotonic()
        code = server.run(argv, output, kill_at=kill_at)
        assert code in (0, -9), f"exit code {code}: {output.read_text()}"
        if code == 0 and not is_begun:
            state.seconds = time.monotonic() - begin
            state.steps_seconds = (run / "log.jsonl").stat().st_mtime - begun_at(run)
        return code == 0

    # the first run is a slow one: it imports what the server imports afterwards
    for unbroken in (whole, run) if not state.seconds else ():
        shutil.rmtree(unbroken, ignore_errors=True)
        assert go(unbroken)
        assert_unbroken(unbroken, whole)
    whole_0 = folder / f"{task}_0_whole"
    if whole_0.exists():  # the number of loader processes changes nothing
        assert_same_end(whole_0, whole)
    step = assert_readable(run) if run.exists() else 0
    while state.kills < -(-KILLS // len(CASES)):
        moment = Moment(run, step, state, random.Random(f"{name} {state.kills} {state.runs}"))
        # a run that has done its last step is not killed again and again at its end
        if go(run, moment if step < STEPS else None):
            assert_unbroken(run, whole)
            shutil.rmtree(run)
            state.runs, step = state.runs + 1, 0
        else:
            step = assert_readable(run) if run.exists() else 0
            state.kills += 1
            state.steps.append(step)
        write_json(store, asdict(state))
    if run.exists():
        assert go(run)
        assert_unbroken(run, whole)
        shutil.rmtree(run)
