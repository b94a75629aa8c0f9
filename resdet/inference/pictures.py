"""Images and video frames in order, read and resized ahead of the network."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from resdet.errors import UserError
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import read_image
from resdet.files.windows import Windows, open_windows
from resdet.inference.sources import Source

T = TypeVar("T")
log = logging.getLogger("resdet")


@dataclass
class Picture:
    """One image or video frame, read and resized."""

    source: Source
    frame: int | None
    """Frame number from 0; None for an image."""
    fps: float
    """Frames per second of the video; 0 for an image."""
    pixels: np.ndarray | None
    """(H, W, 3) uint8 RGB; None for a picture that is predicted in tiles."""
    prepared: Any
    """What the model's `prepare` gives: (3, h, w) at its test size, or at several sizes."""
    windows: Windows | None = None
    """Where the tiles of a picture are read from."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        if self.pixels is not None:
            return self.pixels.shape[0], self.pixels.shape[1]
        assert self.windows is not None, "a picture has pixels or windows"
        return self.windows.size


@dataclass
class Unreadable:
    """A file that cannot be read, or the rest of a video."""

    source: Source
    problem: str
    """Why, with the file's name."""


def read_pictures(
    sources: Sequence[Source],
    prepare: Callable[[np.ndarray], Any] | None,
    *,
    workers: int,
    max_pixels: int = MAX_PIXELS,
) -> Generator[Future[Picture | Unreadable]]:
    """Images and video frames in order, decoded and resized by `workers` threads.

    At most a few pictures for each worker are in memory, however long the videos are. Images of
    more than `max_pixels` are not read. For None in place of `prepare`, pictures are opened by
    windows (`open_windows`), to be predicted in tiles.
    """
    return run_ahead(_tasks(sources, prepare, max_pixels), workers)


def _tasks(
    sources: Sequence[Source], prepare: Callable[[np.ndarray], Any] | None, max_pixels: int
) -> Iterator[Callable[[], Picture | Unreadable]]:
    for source in sources:
        if not source.is_video:
            yield partial(_picture, source, prepare, max_pixels)
            continue
        # Frames are decoded one after the other, here; only the resize is shared out.
        try:
            for number, fps, pixels in _frames(source):
                yield partial(_picture, source, prepare, max_pixels, number, fps, pixels)
        except Exception as error:
            yield partial(_unreadable, source, error)


def _picture(
    source: Source,
    prepare: Callable[[np.ndarray], Any] | None,
    max_pixels: int,
    frame: int | None = None,
    fps: float = 0.0,
    pixels: np.ndarray | None = None,
) -> Picture | Unreadable:
    try:
        if prepare is None:
            image = open_windows(source.path if pixels is None else pixels, max_pixels)
            return Picture(source, frame, fps, None, None, image)
        if pixels is None:
            pixels = read_image(source.path, max_pixels)
        return Picture(source, frame, fps, pixels, prepare(pixels))
    except Exception as error:
        return _unreadable(source, error)


def _unreadable(source: Source, error: Exception) -> Unreadable:
    """Whatever a decoder raises: one file must not end the others."""
    if isinstance(error, UserError):
        return Unreadable(source, str(error))
    problem = f"{type(error).__name__}: {error}"
    return Unreadable(
        source, f"{source.path}: cannot be read ({problem}); replace it or convert it"
    )


def _frames(source: Source) -> Iterator[tuple[int, float, np.ndarray]]:
    """(number, frames per second, (H, W, 3) uint8 RGB) of each frame.

    UserError without a single frame, and after the last one where the video ends too early.
    """
    if not is_utf8(source.path):
        raise UserError(
            f"{source.path}: the name of a video has to be UTF-8; rename it (images are read "
            "whatever their names)"
        )
    capture = cv2.VideoCapture(str(source.path))
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < 1000 else 25.0
        number, last_ms = 0, 0.0
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while True:
            good, frame = capture.read()
            if not good:
                break
            yield number, fps, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
            last_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        if number == 0:
            raise UserError(
                f"{source.path}: no frame can be read; it is damaged or of an unknown codec: "
                "convert it to .mp4"
            )
        frame_ms = 1000 / fps
        if number < announced - 1 and last_ms + 2 * frame_ms < 0.98 * announced * frame_ms:
            raise UserError(
                f"{source.path}: ends after {number} of {announced:.0f} frames, which are done: it "
                "was cut short or is damaged there; replace it"
            )
        if number < announced - 1:  # of a varying rate the number is an estimate
            log.warning("%s: %d of %d frames could be read", source.path, number, announced)
    finally:
        capture.release()


def is_utf8(path: Path) -> bool:
    """Whether OpenCV takes the path of a video; others end the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def run_ahead(tasks: Iterator[Callable[[], T]], workers: int) -> Generator[Future[T]]:
    """The tasks' futures in order, run by `workers` threads, at most two per worker ahead.

    One more thread takes the tasks from their iterator, which may be slow itself. Its exceptions
    are raised here; when the caller stops early, the threads end too.
    """
    starter = ThreadPoolExecutor(1, thread_name_prefix="resdet-ahead")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resdet-read")

    def start() -> Future[T] | None:
        task = next(tasks, None)
        return None if task is None else pool.submit(task)

    try:
        waiting = deque(starter.submit(start) for _ in range(2 * workers))
        while (future := waiting.popleft().result()) is not None:
            waiting.append(starter.submit(start))
            yield future
    finally:
        starter.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
