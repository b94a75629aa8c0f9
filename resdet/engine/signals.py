"""SIGTERM and SIGINT as a request to finish the step, save, and exit."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """Training left on a signal after saving; the exit code is 143 (SIGTERM) or 130 (SIGINT)."""


class StopRequest:
    """Set by the first SIGTERM or SIGINT; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._owner = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader process, before it sets handlers of its own.
            return
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    @property
    def exit_code(self) -> int:
        """128 + the signal, as shells count; SIGTERM where another process received it."""
        return 128 + (self.signal or signal.SIGTERM)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch the two signals inside; outside the main thread nothing can be caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {n: signal.signal(n, request.receive) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
