"""Runs that end before their end: killed, or asked to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import resdet
from resdet.config.loading import load_config
from resdet.files import checkpoint
from tests.engine.conftest import assert_same_end, log_of
from tests.engine.kill_server import KillServer

OVERRIDES = [
    "train.max_steps=5",
    "checkpoint.every=2",
    "eval.every=3",
    "eval.val_loss=false",
]


@contextlib.contextmanager
def started(
    repo: Path, config: Path, run: Path, overrides: list[str]
) -> Iterator[subprocess.Popen]:
    """The command in a process of its own, ended with the block."""
    command = [sys.executable, "tools/train_det.py", str(config), *overrides]
    command += ["--run-dir", str(run), "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def reaches(step: int, run: Path, is_running: Callable[[], bool]) -> bool:
    """Wait until a run has made a step; false if it ends before."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        log = run / "log.jsonl"
        if log.is_file() and f'"step": {step},' in log.read_text():
            return True
        if not is_running():
            break
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """The run that nothing disturbs, without loader processes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return resdet.train(tiny.config, OVERRIDES, run_dir=folder, device="cpu")


def kill_and_resume(
    server: KillServer, config: Path, run: Path, *, step: int, delay: float = 0.0, workers: int = 0
) -> None:
    output = run.with_suffix(".txt")
    argv = ["train-det", str(config), *OVERRIDES, f"data.workers={workers}"]

    def wait(number: int) -> None:
        assert reaches(step, run, lambda: server.is_running(number)), output.read_text()
        time.sleep(delay)

    server.run([*argv, "--run-dir", str(run), "--device", "cpu"], output, kill_at=wait)
    resdet.train(None, [], run_dir=run, resume=True, device="cpu")


def test_killed_and_resumed_is_equal_to_the_last_bit(server, tiny, whole, tmp_path):
    kill_and_resume(server, tiny.config, tmp_path / "run", step=3, workers=1)
    assert_same_end(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_killed_anywhere(server, tiny, whole, tmp_path, step, workers):
    delay = 0.05 * (step + workers)
    kill_and_resume(server, tiny.config, tmp_path / "run", step=step, delay=delay, workers=workers)
    assert_same_end(whole, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(tiny, whole, tmp_path, workers):
    overrides = [*OVERRIDES, f"data.workers={workers}"]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert_same_end(whole, run)


def test_killed_before_the_first_checkpoint_starts_over(tiny, whole, tmp_path):
    """What such a kill leaves: the config, and a log with a line cut short."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((whole / "config.yaml").read_text())
    (run / "log.jsonl").write_text('{"step": 1, "loss": 9.0, "lr": 1.0}\n{"step": 2, "lo')
    assert load_config(run / "config.yaml").train.max_steps == 5
    resdet.train(None, [], run_dir=run, resume=True, device="cpu")
    assert_same_end(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_a_stop_request_saves_and_says_how_to_go_on(repo, tiny, whole, tmp_path, number, code):
    run = tmp_path / "run"
    with started(repo, tiny.config, run, [*OVERRIDES, "data.workers=1"]) as process:
        assert reaches(1, run, lambda: process.poll() is None), process.communicate()[0]
        process.send_signal(number)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    assert f"--resume --run-dir {run}" in output
    done = checkpoint.load(run / "last.pt")["step"]
    assert 1 <= done < 5
    assert max(line["step"] for line in log_of(run)) == done
    resdet.train(None, [], run_dir=run, resume=True, device="cpu")
    assert_same_end(whole, run)


@pytest.mark.slow
def test_two_threads_are_as_exact(repo, tiny, tmp_path):
    overrides = [*OVERRIDES, "train.threads=2"]
    whole = resdet.train(tiny.config, overrides, run_dir=tmp_path / "whole", device="cpu")
    with started(repo, tiny.config, tmp_path / "run", overrides) as process:
        run = tmp_path / "run"
        assert reaches(3, run, lambda: process.poll() is None), process.communicate()[0]
        process.kill()
    resdet.train(None, [], run_dir=tmp_path / "run", resume=True, device="cpu")
    assert_same_end(whole, tmp_path / "run")


def test_a_stop_within_validation_repeats_it(tiny, whole, tmp_path, monkeypatch):
    """The request comes while step 3 is validated: the metrics are made after the resume."""
    from resdet.engine import eval_batches

    loader = eval_batches.eval_loader

    def interrupting(*args, **kwargs):
        for index, batch in enumerate(loader(*args, **kwargs)):
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(eval_batches, "eval_loader", interrupting)
        with pytest.raises(SystemExit) as caught:
            resdet.train(tiny.config, OVERRIDES, run_dir=run, device="cpu")
    assert caught.value.code == 143
    found = checkpoint.load(run / "last.pt")
    assert (found["step"], found["validation_is_due"]) == (3, True)
    assert not any("eval" in line for line in log_of(run))
    resdet.train(None, [], run_dir=run, resume=True, device="cpu")
    assert_same_end(whole, run)
