"""Webcams and network streams: the newest frame is predicted, and frames that come meanwhile are
dropped."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

import cv2

from resdet.errors import UserError
from resdet.inference.addresses import LIVE, WEBCAM
from resdet.inference.sources import Source
from resdet.inference.videos import Frame, stated_fps

log = logging.getLogger("resdet")

TIMEOUT_MS = 10_000
"""Without an answer or a frame."""
RETRIES = 3
"""How often a stream that ended is opened again."""
WAIT_S = 1.0
"""Before a stream is opened again; twice as long each time."""
POLL_S = 0.2
"""How often a wait looks whether the user wants to stop."""
HIGHEST_FPS = 30.0
"""Of the drawn video, in which a frame is repeated until the next one was predicted."""


@contextmanager
def stopping(stop: Event) -> Iterator[None]:
    """Ctrl-C and the signal to terminate set `stop`; the second one acts as it did before.

    Without effect outside the main thread, which alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        restore()


def read_live(source: Source, stop: Event) -> Iterator[Frame]:
    """The newest frame of a webcam or stream whenever one is asked for, until `stop` is set.

    A stream that ends is opened again `RETRIES` times. How many frames were dropped is logged at
    the end. UserError where it cannot be opened, and where it ended by itself.
    """
    reader = _Reader(source, stop)
    taken = 0
    try:
        while (frame := reader.newest()) is not None:
            taken += 1
            yield frame
    finally:
        stop.set()
        reader.join()
        if reader.count:
            log.info(
                "%s: %d of %d frames were predicted, %d came meanwhile and were dropped",
                source.shown,
                taken,
                reader.count,
                reader.count - taken,
            )
    if reader.problem is not None:
        raise UserError(reader.problem)


class _Reader:
    """A thread that reads all frames, and keeps the newest one."""

    def __init__(self, source: Source, stop: Event) -> None:
        self.count = 0
        """Frames that have come."""
        self.problem: str | None = None
        """Why no more frames come."""
        self._source, self._stop = source, stop
        self._frame: Frame | None = None
        self._is_done = False
        self._changed = threading.Condition()
        # a camera that hangs must not keep the process
        self._thread = threading.Thread(target=self._run, name="resdet-live", daemon=True)
        self._thread.start()

    def newest(self) -> Frame | None:
        """The newest frame that was not taken yet, waited for; None after the last one."""
        with self._changed:
            while self._frame is None and not self._is_done and not self._stop.is_set():
                self._changed.wait(POLL_S)
            frame, self._frame = self._frame, None
            return None if self._stop.is_set() else frame

    def join(self) -> None:
        self._thread.join(TIMEOUT_MS / 1000)

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # OpenCV's, which would be lost in a thread
            self.problem = f"{self._source.shown}: cannot be read ({error}); check the source"
        with self._changed:
            self._is_done = True
            self._changed.notify()

    def _read(self) -> None:
        start, failures = 0.0, 0
        while not self._stop.is_set():
            capture = _open(self._source)
            fps = min(stated_fps(capture), HIGHEST_FPS)
            before = self.count
            while not self._stop.is_set():
                good, pixels = capture.read()
                if not good:
                    break
                now = time.monotonic()
                start = start or now
                rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                with self._changed:
                    self._frame = Frame(self.count, now - start, fps, rgb)
                    self.count += 1
                    self._changed.notify()
            capture.release()
            failures = 1 if self.count > before else failures + 1
            if self._stop.is_set():
                return
            if self.count == 0 or failures > RETRIES:
                break
            log.warning("%s: no frame comes any more; opening it again", self._source.shown)
            self._stop.wait(WAIT_S * 2 ** (failures - 1))
        what = "is there, in use by another program, or needs a password"
        self.problem = (
            f"{self._source.shown}: ended after {self.count} frames; those predicted are complete"
            if self.count
            else f"{self._source.shown}: no frame can be read; check whether it {what}"
        )


def _open(source: Source) -> cv2.VideoCapture:
    """The capture of a source, which may not have opened."""
    assert source.address is not None
    if source.address.startswith(WEBCAM):
        return cv2.VideoCapture(int(source.address.removeprefix(WEBCAM)))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
    return cv2.VideoCapture(source.address.removeprefix(LIVE), cv2.CAP_FFMPEG, limits)
