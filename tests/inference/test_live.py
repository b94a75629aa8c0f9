"""Live sources: a camera of this test's own, and a stream of JPEG files over HTTP."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import Any

import cv2
import numpy as np
import pytest

from resdet.errors import UserError
from resdet.inference import live
from resdet.inference.live import read_live, stopping
from resdet.inference.sources import Source


def source(address: str = "webcam:3") -> Source:
    return Source(None, "cam", Path("cam"), True, address, True)


class Camera:
    """Gives `runs` of frames, one run per opening, whenever `ticks` allow."""

    def __init__(self, *runs: int, pace: threading.Semaphore | None = None) -> None:
        self.runs, self.left, self.count, self.opened = list(runs), 0, 0, []
        self.pace = pace

    def __call__(self, *args: Any) -> Camera:
        self.opened.append(args)
        self.left = self.runs.pop(0) if self.runs else 0
        return self

    def get(self, key: int) -> float:
        return 20.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.pace is not None:
            self.pace.acquire(timeout=10)
        if self.left == 0:
            return False, None
        self.left -= 1
        self.count += 1
        return True, np.full((4, 6, 3), self.count, np.uint8)

    def release(self) -> None: ...


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(live, "WAIT_S", 0.001)

    def use(camera: Camera) -> Camera:
        monkeypatch.setattr(live.cv2, "VideoCapture", camera)
        return camera

    return use


def test_the_newest_frame_wins(quick: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resdet")
    pace, stop = threading.Semaphore(1), Event()
    camera = quick(Camera(100, pace=pace))
    reading = read_live(source(), stop)
    first = next(reading)
    assert first.number == 0 and first.time_s == 0 and first.fps == 20
    for _ in range(7):  # while the network works
        pace.release()
    while camera.count < 8:
        time.sleep(0.001)
    pace.release()
    time.sleep(0.05)
    newest = next(reading)
    assert newest.number in (7, 8) and newest.pixels.max() == newest.number + 1
    stop.set()
    pace.release(100)
    assert list(reading) == []
    assert camera.opened == [(3,)]
    assert "webcam:3: 2 of " in caplog.text and "came meanwhile and were dropped" in caplog.text


def test_a_stream_that_ends_is_opened_again(quick: Any, caplog: pytest.LogCaptureFixture) -> None:
    camera = quick(Camera(1, 0, 0, 1))
    numbers = []
    with pytest.raises(UserError, match="rtsp://cam/s: ended after 2 frames; those predicted"):
        for frame in read_live(source("rtsp://me:secret@cam/s"), Event()):
            numbers.append(frame.number)
    assert numbers[-1] == 1 and "secret" not in caplog.text
    # twice without a frame, the second one, and as often as is tried
    assert len(camera.opened) == 4 + live.RETRIES
    assert camera.opened[0][:2] == ("rtsp://me:secret@cam/s", cv2.CAP_FFMPEG)
    assert "no frame comes any more; opening it again" in caplog.text


def test_a_camera_that_is_not_there(quick: Any) -> None:
    camera = quick(Camera())
    with pytest.raises(UserError, match="webcam:3: no frame can be read; check whether"):
        list(read_live(source(), Event()))
    assert len(camera.opened) == 1


def test_what_a_camera_raises_is_an_error(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise cv2.error("no driver")

    monkeypatch.setattr(live.cv2, "VideoCapture", fail)
    with pytest.raises(UserError, match=r"webcam:3: cannot be read .*no driver"):
        list(read_live(source(), Event()))


def test_the_first_ctrl_c_ends_and_the_second_interrupts() -> None:
    stop, before = Event(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stopping(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    stop = Event()
    with stopping(stop):
        signal.raise_signal(signal.SIGTERM)
    assert stop.is_set() and signal.getsignal(signal.SIGINT) is before
    worker = threading.Thread(target=lambda: stopping(Event()).__enter__())
    worker.start()
    worker.join()
    assert signal.getsignal(signal.SIGINT) is before


class Stream(BaseHTTPRequestHandler):
    """What IP cameras send: one JPEG file after the other, 12 of them."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
        self.end_headers()
        for number in range(12):
            pixels = np.full((48, 64, 3), 20 * number, np.uint8)
            jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
            head = f"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(0.01)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(live, "RETRIES", 0)
    service = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    thread = threading.Thread(target=service.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}/video"
    service.shutdown()
    thread.join()
    service.server_close()


def test_a_stream_over_http(server: str) -> None:
    numbers, levels = [], []
    with pytest.raises(UserError, match=r"/video: ended after \d+ frames"):
        for frame in read_live(source(f"live:{server}"), Event()):
            numbers.append(frame.number)
            levels.append(round(float(frame.pixels.mean()) / 20))
    assert numbers == sorted(set(numbers)) and len(numbers) > 1
    assert levels == numbers and numbers[-1] == 11
