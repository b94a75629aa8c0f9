"""Frames of real video files: their times, how they are turned, and downloads."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from threading import Event
from typing import IO, Any

import cv2
import numpy as np
import pytest

from resdet.errors import UserError
from resdet.inference import videos
from resdet.inference.sources import Source
from resdet.inference.videos import Frame, read_frames


def write_video(path: Path, count: int = 6, fps: float = 12.5, codec: str = "mp4v") -> Path:
    """Frames of 64×48 pixels whose left half gets lighter."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (64, 48))
    assert writer.isOpened()
    for number in range(count):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, :32] = 30 * number + 20
        writer.write(frame)
    writer.release()
    return path


def source(path: Path | None, address: str | None = None) -> Source:
    return Source(path, "clip", Path("clip"), True, address)


def frames(path: Path) -> list[Frame]:
    return list(read_frames(source(path), None, Event()))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")]
)
def test_times_are_those_of_the_frame_rate(tmp_path: Path, name: str, codec: str) -> None:
    read = frames(write_video(tmp_path / name, codec=codec))
    assert [frame.number for frame in read] == list(range(6))
    np.testing.assert_allclose([frame.time_s for frame in read], np.arange(6) / 12.5, atol=2e-3)
    assert all(frame.fps == pytest.approx(12.5) for frame in read)
    assert [round(float(frame.pixels[:, 8:24].mean()) / 30 - 2 / 3) for frame in read] == [
        *range(6)
    ]


def turn(path: Path, matrix: tuple[int, ...]) -> None:
    """Write another matrix into the header of an mp4 file's only track, as phones do."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd")
    assert content[place + 4] == 0, "version 0 of the box"
    struct.pack_into(">9i", content, place + 44, *matrix)
    path.write_bytes(content)


def test_frames_are_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    one, last = 1 << 16, 1 << 30
    turn(path, (0, one, 0, -one, 0, 0, 48 * one, 0, last))
    turned = frames(path)
    assert turned[-1].pixels.shape == (64, 48, 3)
    assert turned[-1].pixels[:24].mean() > 100 > 20 > turned[-1].pixels[40:].mean()
    turn(path, (-one, 0, 0, 0, -one, 0, 64 * one, 48 * one, last))
    assert frames(path)[-1].pixels[:, 40:].mean() > 100


class Capture:
    """A video whose frames have these times in milliseconds."""

    def __init__(self, times: list[float], fps: float = 10.0, announced: int = 0) -> None:
        self.times, self.fps, self.next = times, fps, 0
        self.announced = announced or len(times)

    def __call__(self, *args: Any) -> Capture:
        return self

    def get(self, key: int) -> float:
        if key == cv2.CAP_PROP_FPS:
            return self.fps
        return self.times[self.next - 1] if key == cv2.CAP_PROP_POS_MSEC else self.announced

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.next += 1
        good = self.next <= len(self.times)
        return good, np.zeros((4, 4, 3), np.uint8) if good else None

    def release(self) -> None: ...


def test_a_rate_that_varies_keeps_its_times(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resdet")
    monkeypatch.setattr(videos.cv2, "VideoCapture", Capture([40, 140, 640, 700, 1000]))
    times = [frame.time_s for frame in frames(Path("a.mp4"))]
    np.testing.assert_allclose(times, [0, 0.1, 0.6, 0.66, 0.96])
    assert caplog.text.count("its frame rate varies: the drawn video has 10 frames") == 1
    # Matroska announces its duration times the nominal rate
    short = Capture([0, 40, 80, 600, 620, 1400, 1440], fps=25, announced=40)
    monkeypatch.setattr(videos.cv2, "VideoCapture", short)
    assert len(frames(Path("a.mkv"))) == 7 and "could be read" not in caplog.text
    cut = Capture([0, 40, 80, 600, 620], fps=25, announced=40)
    monkeypatch.setattr(videos.cv2, "VideoCapture", cut)
    with pytest.raises(UserError, match="ends after 5 of 40 frames"):
        frames(Path("a.mkv"))


def test_times_that_do_not_rise_are_those_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos.cv2, "VideoCapture", Capture([0, 0, 0, 0], fps=0))
    assert [frame.time_s for frame in frames(Path("a.h264"))] == [
        *(pytest.approx(number / 25) for number in range(4))
    ]


def test_a_downloaded_video_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_video(tmp_path / "a.mp4").read_bytes()
    scratch = tmp_path / "out"
    scratch.mkdir()

    def download(address: str, file: IO[bytes], stop: Event) -> None:
        file.write(content if address.endswith("a.mp4") else b"no video")
        file.flush()

    monkeypatch.setattr(videos, "download", download)
    read = read_frames(source(None, "http://me:secret@x/a.mp4"), scratch, Event())
    assert next(read).number == 0 and len(list(scratch.iterdir())) == 1
    read.close()  # type: ignore[attr-defined]
    assert not list(scratch.iterdir())
    assert len(list(read_frames(source(None, "http://x/a.mp4"), scratch, Event()))) == 6
    with pytest.raises(UserError, match=r"^http://x/b\.mp4: no frame can be read"):
        list(read_frames(source(None, "http://me:secret@x/b.mp4"), scratch, Event()))
    assert not list(scratch.iterdir())
