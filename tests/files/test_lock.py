"""One process has a folder; a killed one never blocks the next."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resdet.errors import UserError
from resdet.files import lock as module
from resdet.files.lock import LOCK_FILE, FolderLock, held_by, read_holder

HOLD = (
    "import os, sys, time\nfrom pathlib import Path\nfrom resdet.files.lock import FolderLock\n"
    "FolderLock(Path(sys.argv[1])).acquire()\n"
    "if 'fork' in sys.argv and os.fork() == 0:\n    time.sleep(60)\n"
    "print('held', flush=True)\ntime.sleep(60)\n"
)


def holding(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "TRIED_S", 0.1)
    monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.setattr(module, "WRITTEN_S", 0.02)
    caplog.set_level(logging.INFO)


def elsewhere(folder: Path, age: float) -> None:
    """The lock of a process on another machine, last touched `age` seconds ago."""
    values = {"pid": 7, "host": "far", "machine": "another", "token": "x"}
    (folder / LOCK_FILE).write_text(json.dumps(values))
    then = time.time() - age
    os.utime(folder / LOCK_FILE, (then, then))


def test_a_held_folder_is_refused_and_named(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .*--run-dir"):
        FolderLock(tmp_path).acquire()
    assert first.check() and held_by(tmp_path) == first.own
    first.release()
    assert not list(tmp_path.iterdir()) and held_by(tmp_path) is None
    second = FolderLock(tmp_path)
    second.acquire()
    second.release()


@pytest.mark.skipif(module.fcntl is None, reason="no flock here")
def test_a_killed_process_never_blocks_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor do its children, which inherit open files."""
    process = holding(tmp_path, "fork")
    with pytest.raises(UserError, match=f"in use by process {process.pid} on"):
        FolderLock(tmp_path).acquire()
    assert held_by(tmp_path) is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert held_by(tmp_path) is None
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert f"taken over from process {process.pid} on" in caplog.text
    lock.release()


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_beat_from_another_machine_is_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_flock: bool,
) -> None:
    if not has_flock:
        monkeypatch.setattr(module, "fcntl", None)
    elsewhere(tmp_path, age=3600)
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert "taken over from process 7 on far" in caplog.text and "waiting" not in caplog.text
    lock.release()
    monkeypatch.setattr(module, "STALE_S", 0.3)
    elsewhere(tmp_path, age=0)
    lock.acquire()
    assert "waiting up to" in caplog.text and read_holder(tmp_path / LOCK_FILE) == lock.own
    lock.release()
    monkeypatch.setattr(module, "STALE_S", 60.0)
    elsewhere(tmp_path, age=0)
    assert str(held_by(tmp_path)) == "process 7 on far"
    # the clocks of two machines may differ: any change is a beat
    beat = tmp_path / LOCK_FILE
    monkeypatch.setattr(module.time, "sleep", lambda _: os.utime(beat, (1, time.monotonic())))
    with pytest.raises(UserError, match="in use by process 7 on far"):
        lock.acquire()
    assert str(read_holder(beat)) == "process 7 on far"


def test_the_holder_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    lock = FolderLock(tmp_path)
    lock.acquire()
    os.utime(lock.path, (1, 1))
    deadline = time.monotonic() + 20
    while lock.path.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lock.path.stat().st_mtime > 2
    lock.release()


def test_a_file_system_without_flock_has_the_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(module.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    monkeypatch.setattr(module, "STALE_S", 0.2)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    second.acquire()  # the first one has not beaten for 0.2 s
    with pytest.raises(UserError, match=r"has taken over this folder; this process ends"):
        first.check()
    first.release()
    assert second.check()
    second.release()


def test_two_that_write_at_once_without_flock_do_not_both_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    lock = FolderLock(tmp_path)
    monkeypatch.setattr(module.time, "sleep", lambda _: elsewhere(tmp_path, age=0))
    with pytest.raises(UserError, match="in use by process 7 on far"):
        lock.acquire()


def test_a_removed_lock_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    lock.acquire()
    lock.path.unlink()
    assert not lock.check() and lock.check()
    shutil.rmtree(folder)
    assert not lock.check() and held_by(folder) == lock.own
    shutil.rmtree(folder)
    folder.mkdir()
    other = FolderLock(folder)
    other.acquire()
    with pytest.raises(UserError, match="has taken over this folder"):
        lock.check()
    lock.release()
    assert other.check()
    other.release()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"pid": "x"}', b"{}"])
def test_a_damaged_lock_file_blocks_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    assert held_by(tmp_path) is None
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.lock: cannot be written: no such file"):
        FolderLock(tmp_path / "gone").acquire()
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"\.lock: cannot be written: "):
        FolderLock(tmp_path).acquire()
    assert not (tmp_path / "mine").exists()
