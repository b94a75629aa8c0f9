"""SIGTERM, SIGINT, SIGHUP and SIGUSR1 as a request to finish the step, save, and exit."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """Training left on a signal after saving; the exit code is 143 (SIGTERM), 130 (SIGINT), 129
    (SIGHUP) or 138 (SIGUSR1)."""


class StopRequest:
    """Set by the first of the signals; a SIGINT after it interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._is_urgent = False
        self._owner = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked loader process, before it sets handlers of its own.
            return
        is_second = self.signal is not None and number == signal.SIGINT
        # a closed terminal sends SIGHUP, and a job system SIGTERM on top of it
        self.signal = self.signal or number
        if is_second or self._is_urgent:
            self._is_urgent = False
            raise KeyboardInterrupt

    @contextmanager
    def heeded_at_once(self) -> Iterator[None]:
        """Inside, where nothing is lost, any of the signals is a KeyboardInterrupt; so is one that
        came before."""
        if self:
            raise KeyboardInterrupt
        self._is_urgent = True
        try:
            yield
        finally:
            self._is_urgent = False

    @property
    def exit_code(self) -> int:
        """128 + the signal, as shells count; SIGTERM where another process received it."""
        return 128 + (self.signal or signal.SIGTERM)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a program to end. SIGHUP comes when a terminal or connection closes, and
    is left alone where it was ignored at start, as `nohup` does. SIGUSR1 is what job systems send a
    while before the time is over; a program that has a use of its own for it keeps that."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    if hasattr(signal, "SIGUSR1") and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        numbers.append(signal.SIGUSR1)
    if hasattr(signal, "SIGBREAK"):  # Ctrl-Break, and a closed console of Windows
        numbers.append(signal.SIGBREAK)
    return numbers


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch the signals inside; outside the main thread nothing can be caught. Inside another one
    this is the same request."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(outer, StopRequest):
        yield outer
        return
    former = {number: signal.signal(number, request.receive) for number in stop_signals()}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)
