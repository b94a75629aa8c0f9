"""The loaders' worker processes: how they start, hand over batches, are watched, and end."""

import atexit
import io
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from resdet.errors import UserError
from resdet.memory import keep_memory

logger = logging.getLogger("resdet")

MIB = 2**20

GRACE_S = 120
"""How long a worker outlives a SIGTERM or SIGHUP, in seconds."""

POLL_S = 1
"""Seconds between two looks at workers whose batch is awaited."""

SILENCE_S = 600
"""Seconds without a single sample from any worker after which they count as stuck."""

PREFETCHED = 2
"""Batches that a worker makes ahead."""

UNGUARDED = 86
"""Exit code of a worker in which the user's script begins to train again."""

UNGUARDED_TEXT = (
    "the script starts training when it is imported, which its loader workers do on this system; "
    'put the call below a line `if __name__ == "__main__":`, or set data.workers=0'
)

SHARED_MEMORY = Path("/dev/shm")

MORE_SHARED_MEMORY = (
    "give the container more (docker run --shm-size=8g, or --ipc=host), or set data.workers=0"
)

ADVICE = {
    "SIGKILL": "most likely the machine ran out of memory; lower data.workers or "
    "train.batch_size, or give the job more memory",
    "SIGBUS": f"most likely {SHARED_MEMORY} is full; {MORE_SHARED_MEMORY}",
    "SIGSEGV": "a library that reads or augments images crashed; find the image with "
    "data.workers=0, or update the library",
}
"""What a signal that ends a worker means for the user."""


class LoaderError(UserError):
    """Worker processes have ended, do not answer, or have no memory to hand over a batch."""


def use_one_core() -> None:
    """What a worker sets, for the whole process: no threads, and memory that is kept."""
    # The workers are the parallelism: threads within them would fight over the cores.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_memory()


def start_worker(worker: int) -> None:
    """What each worker process does first."""
    use_one_core()
    # Ctrl-C and job systems signal the whole group: the training process finishes its step and
    # then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, _outlive)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _outlive)


def _outlive(number: int, frame: FrameType | None) -> None:
    """Serve on for a while after a SIGTERM or SIGHUP."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(GRACE_S)


def start_method() -> str | None:
    """How workers start: as the program has set it, else forked on Linux, else Python's default.

    A fork starts at once and shares the annotations' memory. Workers never touch a GPU, which a
    fork could not.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or ("fork" if sys.platform == "linux" else None)


def leave_unguarded_script() -> None:
    """End a spawned worker in which the user's script starts to train again.

    Such a worker imports the script, and so runs all of it that is not below
    `if __name__ == "__main__":`. The process that started it explains that, once for all workers.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


class _Sharer(pickle.Pickler):
    """Moves each tensor of what is pickled to shared memory."""

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, Tensor):
            return None
        if value.untyped_storage().nbytes():
            value.share_memory_()
        return "shared"


def share_tensors(batch: Any) -> Any:
    """The batch, its tensors moved to shared memory.

    A DataLoader would do it in a thread of the worker, where an error loses the batch: the training
    process would wait for ever. Returns a LoaderError where the memory is full.
    """
    try:
        _Sharer(io.BytesIO()).dump(batch)
    except (RuntimeError, OSError) as error:
        text = str(error)
        if "No space left" not in text and "Cannot allocate memory" not in text:
            raise
        return LoaderError(no_shared_memory("a batch does not fit"))
    return batch


def check_shared_memory(batch_bytes: int, workers: int) -> None:
    """Whether the shared memory has room for what `workers` (of all processes here) make ahead.

    A warning where it has not, for the largest batches, of `batch_bytes` each.

    Raises:
        LoaderError: not even one of them fits.
    """
    free = _free_bytes()
    if not workers or free is None:
        return
    size = f"{batch_bytes / MIB:.0f} MiB"
    if batch_bytes > free:
        raise LoaderError(no_shared_memory(f"a batch of up to {size} does not fit"))
    needed = workers * PREFETCHED * batch_bytes
    if needed > free:
        what = f"{workers} loader worker(s) with {PREFETCHED} batches of up to {size} may not fit"
        logger.warning(no_shared_memory(what))


def no_shared_memory(what: str) -> str:
    """`what` is wrong, how much there is, and how to get more."""
    free = _free_bytes()
    known = "" if free is None else f": {free / MIB:.0f} MiB are free"
    return f"{SHARED_MEMORY}: {what}{known}; {MORE_SHARED_MEMORY}"


def _free_bytes() -> int | None:
    """Of shared memory; None on systems without such a folder, whose limit is that of memory."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def watched(loader: DataLoader[Any], made: Callable[[], int]) -> Generator[Any]:
    """What a loader with workers yields; they are watched meanwhile, and ended at the end.

    `made` counts the samples that workers have made, which tells a slow batch from a stuck one.

    Raises:
        LoaderError: a worker has ended, none answers, or they cannot be started.
    """
    leave_unguarded_script()
    with _uninterrupted():
        iterator = _start(loader)
        workers: list[BaseProcess] = list(iterator._workers)
        watch = _Watch(workers, made)
        ending = partial(end, workers)
        # at exit Python would send them a SIGTERM, and wait
        atexit.register(ending)
        try:
            while True:
                try:
                    item = _next(iterator, workers, watch)
                except StopIteration:
                    return
                yield item
        finally:
            watch.close()
            if not loader.pin_memory:  # its thread could wait for the rest of a message
                end(workers)
            del iterator
            end(workers)
            atexit.unregister(ending)


def _start(loader: DataLoader[Any]) -> Any:
    """The loader's iterator, which starts the workers; nothing interrupts when one of them ends."""
    free = _free_bytes()
    if free is not None and free < MIB:
        raise LoaderError(no_shared_memory("no room for loader workers"))
    try:
        iterator = iter(loader)
    except BrokenPipeError:
        raise LoaderError(UNGUARDED_TEXT) from None
    except OSError as error:
        raise LoaderError(
            f"loader workers cannot be started: {error.strerror}; lower data.workers, or set it to "
            "0"
        ) from error
    if _sees_signals():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return iterator


class _Watch:
    """A thread that kills workers if they make no sample for SILENCE_S while a batch is awaited.

    Waiting with a timeout is not enough: the training process takes tensors over from the worker
    that made them, and would wait for a stopped one without end.
    """

    def __init__(self, workers: list[BaseProcess], made: Callable[[], int]) -> None:
        self.is_waiting = self.has_killed = False
        self._workers, self._made = workers, made
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="loader watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        # Counted in waits: a clock runs while the whole program is stopped.
        silent, count = 0, self._made()
        while silent < SILENCE_S:
            if self._closed.wait(POLL_S):
                return
            is_silent = self.is_waiting and self._made() == count
            silent, count = (silent + POLL_S if is_silent else 0), self._made()
        self.has_killed = True
        for worker in self._workers:
            worker.kill()


def _next(iterator: Iterator[Any], workers: list[BaseProcess], watch: _Watch) -> Any:
    """The next batch."""
    while True:
        watch.is_waiting = True
        try:
            return next(iterator)
        except (RuntimeError, OSError, EOFError) as error:
            fault: Exception = error
        finally:
            watch.is_waiting = False
        is_late = str(fault).startswith("DataLoader timed out after")
        # The connections of a killed worker break just before it counts as ended.
        sentinels = [worker.sentinel for worker in workers]
        ended = connection.wait(sentinels, timeout=0 if is_late else 0.5)
        if ended and watch.has_killed:
            ids = ", ".join(str(worker.pid) for worker in workers)
            raise LoaderError(
                f"loader worker(s) {ids} have read no image for {SILENCE_S} s: they were stopped, "
                "or a disk does not answer; check the disk, or set data.workers=0"
            )
        if ended:
            raise LoaderError(_why_ended(next(w for w in workers if w.sentinel in ended)))
        if not is_late:
            raise fault


def _why_ended(worker: BaseProcess) -> str:
    """What is known about a worker that ends."""
    worker.join(timeout=POLL_S)
    code = worker.exitcode or 0
    if code == UNGUARDED:
        return UNGUARDED_TEXT
    if code >= 0:
        return f"loader worker {worker.pid} ended with exit code {code}; see its message above"
    name = signal.Signals(-code).name
    advice = ADVICE.get(name, "someone or something else ended it")
    return f"loader worker {worker.pid} was ended by {name}; {advice}"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """After it, a child that ends has the handler from before.

    torch installs one with its first loader, which raises wherever the main thread is, be it in the
    middle of an update or while a checkpoint is written.
    """
    former = signal.getsignal(signal.SIGCHLD) if _sees_signals() else None
    try:
        yield
    finally:
        if former is not None and _sees_signals():
            signal.signal(signal.SIGCHLD, former)


def _sees_signals() -> bool:
    """Whether this thread may set what happens when a child ends; Windows has no such signal."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and sys.platform != "win32"


def end(workers: list[BaseProcess]) -> None:
    """End workers at once: they write nothing, and would outlive a SIGTERM."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=POLL_S)
