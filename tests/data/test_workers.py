"""Worker processes that are killed, stopped, out of shared memory, or started by spawning."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from resdet.data import workers
from resdet.data.loader import eval_loader
from resdet.data.workers import LoaderError


class Acting:
    """Ten samples; the fourth is what `act` makes of the worker that reads it."""

    def __init__(self, act: Any = None) -> None:
        self.act = act

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        if key[1] == 3 and self.act is not None:
            self.act()
        return torch.full((2,), key[1])


def signalled(number: int) -> Any:
    return lambda: os.kill(os.getpid(), number)


def until_it_fails(batches: Any) -> tuple[list[int], str]:
    """The first values of the samples that arrive, and the error's text."""
    seen: list[int] = []
    with pytest.raises(LoaderError) as caught:
        for batch in batches:
            seen.append(int(batch[0][0]))
    return seen, str(caught.value)


def load(act: Any, count: int = 2) -> Any:
    return eval_loader(Acting(act), workers=count, collate=list, broken={})


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "SIGKILL; most likely the machine ran out of memory; lower data.workers"),
        (signal.SIGBUS, "SIGBUS; most likely /dev/shm is full; give the container more"),
        (signal.SIGUSR1, "SIGUSR1; someone or something else ended it"),
    ],
)
def test_a_killed_worker_is_one_error_at_a_batch(number: int, words: str) -> None:
    seen, text = until_it_fails(load(signalled(number)))
    assert seen == [0, 1, 2][: len(seen)]
    assert words in text and "\n" not in text
    assert not multiprocessing.active_children()


def test_a_worker_that_leaves_is_one_error() -> None:
    _, text = until_it_fails(load(lambda: os._exit(3), 1))
    assert "ended with exit code 3" in text


def test_a_killed_worker_interrupts_nothing() -> None:
    """The error comes with the next batch, and not in the middle of an update."""
    handler = signal.getsignal(signal.SIGCHLD)
    batches = load(None, 1)
    assert int(next(batches)[0][0]) == 0
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    time.sleep(0.01)  # where torch's handler would raise
    seen, _ = until_it_fails(batches)
    assert len(seen) <= workers.PREFETCHED
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_stopped_worker_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENCE_S", 1)
    seen, text = until_it_fails(load(signalled(signal.SIGSTOP), 1))
    assert seen == [0, 1, 2][: len(seen)]
    assert "have read no image for 1 s: they were stopped, or a disk does not answer" in text
    assert not multiprocessing.active_children()


def test_a_batch_without_shared_memory_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(tensor: torch.Tensor) -> None:
        if int(tensor[0]) == 2:
            raise RuntimeError("unable to allocate shared memory(shm): No space left on device")

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    seen, text = until_it_fails(load(None, 1))
    assert seen == [0, 1]
    assert "/dev/shm: a batch does not fit: " in text
    assert all(each in text for each in ("--shm-size", "--ipc=host", "data.workers=0"))


@pytest.mark.parametrize(
    ("mib", "words"), [(0.5, "no room for loader workers: 0 MiB"), (12, "a batch does not fit: ")]
)
def test_a_small_shared_memory(mib: float, words: str) -> None:
    """A tmpfs of its own, as in a container, mounted in a child's mount namespace."""

    class Large(Acting):
        def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
            return torch.full((1024, 1024), key[1])  # 8 MiB

    def report(pipe: Any) -> None:
        libc = ctypes.CDLL(None)
        options = f"size={int(mib * 1024)}k".encode()
        private = libc.unshare(0x00020000) == 0  # CLONE_NEWNS
        private = private and libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC, PRIVATE
        if not private or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options):
            pipe.send(None)
            return
        try:
            pipe.send(str(len(list(eval_loader(Large(), workers=2, collate=list, broken={})))))
        except LoaderError as error:
            pipe.send(str(error))

    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=report, args=(there,))
    child.start()
    assert here.poll(60)
    text = here.recv()
    child.join()
    if text is None:
        pytest.skip("mounting needs root")
    assert words in text


def test_shared_memory_is_checked_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = SimpleNamespace(total=64 * 2**20, free=64 * 2**20)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: usage)
    workers.check_shared_memory(65 * 2**20, 0)
    workers.check_shared_memory(2**20, 8)
    assert not caplog.text
    workers.check_shared_memory(16 * 2**20, 4)
    assert "4 loader worker(s) with 2 batches of up to 16 MiB may not fit: 64 MiB" in caplog.text
    with pytest.raises(LoaderError, match=r"a batch of up to 65 MiB does not fit.*--shm-size"):
        workers.check_shared_memory(65 * 2**20, 1)


@pytest.fixture
def spawned() -> Generator[None]:
    """Workers start as on macOS and Windows."""
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(None, force=True)


@pytest.mark.usefixtures("spawned")
def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """A spawned worker imports the script first; this one leaves as `train` would in it."""
    script = tmp_path / "script.py"
    script.write_text(f"import os\nos._exit({workers.UNGUARDED})\n")
    main = sys.modules["__main__"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "__spec__", None)
        patch.setattr(main, "__file__", str(script), raising=False)
        _, text = until_it_fails(eval_loader(Acting(), workers=1, collate=list, broken={}))
    assert 'put the call below a line `if __name__ == "__main__":`' in text


def test_a_worker_that_imports_the_script_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    workers.leave_unguarded_script()
    assert not codes
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "_inheriting", True, raising=False)
    workers.leave_unguarded_script()
    assert codes == [workers.UNGUARDED]
