"""Frames of video files, upright, with their numbers and times."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import cv2
import numpy as np

from resdet.errors import UserError
from resdet.files.download import download
from resdet.inference.sources import Source

log = logging.getLogger("resdet")

DOWNLOAD = "download"
"""Name of the temporary file of a video that is downloaded, see `is_leftover`."""
DEFAULT_FPS = 25.0
"""Of files that state no frame rate, or an absurd one."""
SLACK_MS = 500
"""By which a video of a varying rate may end early: its announced number of frames is an estimate
from its duration, which counts the time before the first frame too."""
UNEVEN = 0.5
"""Frames by which the times of a constant rate may be off: they are rounded to milliseconds and
more."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video or of a live stream."""

    number: int
    """From 0; frames of a live stream that were not predicted are counted."""
    time_s: float
    """Since the first frame."""
    fps: float
    """Frames per second of the whole, on average where the rate varies."""
    pixels: np.ndarray
    """(H, W, 3) uint8 RGB."""


def read_frames(source: Source, scratch: Path | None, stop: Event) -> Iterator[Frame]:
    """The frames of a video file, or of a video that is downloaded into the folder `scratch` (None
    is the system's) unless `stop` is set meanwhile, in order.

    Frames are turned upright as the file's metadata say, and have the times that the file gives
    them. UserError without a single frame, and after the last one where the video ends too early.
    """
    if source.address is None:
        assert source.path is not None
        yield from _frames(source.path, source.shown)
        return
    with _downloaded(source.address, scratch, stop) as path:
        yield from _frames(path, source.shown)


@contextmanager
def _downloaded(address: str, scratch: Path | None, stop: Event) -> Iterator[Path]:
    prefix = f".{DOWNLOAD}.{os.getpid()}."
    with tempfile.NamedTemporaryFile(dir=scratch, prefix=prefix, suffix=".tmp") as file:
        download(address, file, stop)
        yield Path(file.name)


def _frames(path: Path, shown: str) -> Iterator[Frame]:
    if not is_utf8(path):
        raise UserError(
            f"{shown}: the name of a video has to be UTF-8; rename it (images are read whatever "
            "their names)"
        )
    capture = cv2.VideoCapture(str(path))
    try:
        fps = stated_fps(capture)
        clock = _Clock(shown, fps)
        number, last_ms = 0, 0.0
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while True:
            good, frame = capture.read()
            if not good:
                break
            last_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
            time_s = clock.time_of(number, last_ms / 1000)
            yield Frame(number, time_s, fps, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            number += 1
        slack_ms = SLACK_MS if clock.is_uneven else 2000 / fps
        _check_end(shown, number, announced, last_ms + slack_ms, 1000 / fps)
        if number < announced - 1 and not clock.is_uneven:
            log.warning("%s: %d of %d frames could be read", shown, number, announced)
    finally:
        capture.release()


def _check_end(shown: str, number: int, announced: float, end_ms: float, frame_ms: float) -> None:
    """UserError where a video had no frame, or ended long before its announced end."""
    if number == 0:
        raise UserError(
            f"{shown}: no frame can be read; it is damaged or of an unknown codec: convert it to "
            ".mp4"
        )
    if number < announced - 1 and end_ms < 0.98 * announced * frame_ms:
        raise UserError(
            f"{shown}: ends after {number} of {announced:.0f} frames, which are done: it was cut "
            "short or is damaged there; replace it"
        )


class _Clock:
    """The times of frames: the file's, or by the frame rate where it has none that rise."""

    def __init__(self, shown: str, fps: float) -> None:
        self._shown, self._fps = shown, fps
        self._first = self._last = 0.0
        self.is_uneven = False

    def time_of(self, number: int, stated_s: float) -> float:
        """Seconds of frame `number` since the first one, whose file says `stated_s`."""
        if number == 0:
            self._first = stated_s
            return 0.0
        time_s, even = stated_s - self._first, self._last + 1 / self._fps
        if time_s <= self._last:  # some containers have no times, or those of another frame
            time_s = even
        elif abs(time_s - even) * self._fps > UNEVEN and not self.is_uneven:
            self.is_uneven = True
            log.info(
                "%s: its frame rate varies: the drawn video has %.4g frames per second, the "
                "results have the time of each frame",
                self._shown,
                self._fps,
            )
        self._last = time_s
        return time_s


def stated_fps(capture: cv2.VideoCapture) -> float:
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps < 1000 else DEFAULT_FPS


def is_utf8(path: Path) -> bool:
    """Whether OpenCV takes the path of a video; others end the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
