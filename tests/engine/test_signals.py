"""Signals ask a run to stop; a console that goes away does not."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from resdet.engine.signals import stop_request
from resdet.files import checkpoint
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import log_of


@pytest.mark.parametrize(
    ("name", "code"),
    [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129), ("SIGUSR1", 138), ("SIGBREAK", 149)],
)
def test_each_signal_is_a_request_with_its_exit_code(name, code):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stop_request() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop and stop.exit_code == code
        signal.raise_signal(signal.SIGTERM)  # on top of it
        assert stop.exit_code == code
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_a_request_inside_another_is_the_same():
    with stop_request() as outer:
        with stop_request() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner
        assert outer is inner
    assert signal.getsignal(signal.SIGTERM) != outer.receive


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here")
def test_a_program_keeps_its_own_use_of_sigusr1():
    received = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        with stop_request() as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert not stop and received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture(scope="module")
def command(tmp_path_factory, repo) -> list[str]:
    folder = tmp_path_factory.mktemp("folders")
    config = folder / "folders.yaml"
    config.write_text(FOLDER_YAML.format(root=write_folders(folder / "data")))
    options = [str(config), "--device", "cpu", "data.workers=1"]
    return [sys.executable, str(repo / "tools" / "train_cls.py"), *options]


@pytest.mark.slow
@pytest.mark.parametrize("reader", ["head -n 2", "true", "head -c 0"])
def test_a_reader_that_goes_away_ends_no_run(command, tmp_path, reader):
    run = tmp_path / "run"
    shell = f'("$@"; echo $? > {tmp_path}/code) 2> {tmp_path}/err | {reader}'
    words = [*command, "train.max_steps=8", "--run-dir", str(run)]
    subprocess.run(["sh", "-c", shell, "sh", *words], capture_output=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "code").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "code").read_text() == "0\n"
    assert (tmp_path / "err").read_text() == ""
    assert checkpoint.load(run / "last.pt")["step"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangup", "closed", "nohup"])
def test_a_terminal_that_closes_saves_unless_nohup(command, tmp_path, how):
    """A real terminal: closing it sends SIGHUP, and printing fails from then on."""
    pty = pytest.importorskip("pty")
    run = tmp_path / "run"
    words = [*command, "train.max_steps=40", "--run-dir", str(run)]
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(tmp_path)  # nohup writes its output there
        words = ["nohup", *words] if how == "nohup" else words
        os.execvp(words[0], words)
    log, deadline = run / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"step": 2' in log.read_text()) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # nohup has closed it
                os.read(terminal, 4096)
    if how == "hangup":
        os.kill(number, signal.SIGHUP)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    step = checkpoint.load(run / "last.pt")["step"]
    if how == "nohup":
        assert (code, step) == (0, 40)
    else:
        assert code == 129 and 2 <= step < 40
        assert log_of(run)[-1]["step"] == step


@pytest.mark.slow
def test_full_and_closed_output_ends_no_run(command, tmp_path):
    redirects = {"full": "> /dev/full", "closed": ">&- 2>&-", "both": "> /dev/full 2>&1"}
    for name, redirect in redirects.items():
        run = tmp_path / name
        words = [*command, "--run-dir", str(run)]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *words], capture_output=True, text=True
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr
        assert checkpoint.load(run / "last.pt")["step"] == 3
