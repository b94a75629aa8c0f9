"""Images and video frames in order, read and resized ahead of the network."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np

from resdet.errors import UserError
from resdet.files.download import read_address
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import read_image
from resdet.files.windows import Windows, open_windows
from resdet.inference.live import read_live
from resdet.inference.sources import Source
from resdet.inference.videos import Frame, read_frames

T = TypeVar("T")


@dataclass
class Picture:
    """One image or video frame, read and resized."""

    source: Source
    frame: int | None
    """Frame number from 0; None for an image."""
    time_s: float | None
    """Of a frame since the first one; None for an image."""
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

    def whole(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, also of a picture that is predicted in tiles."""
        if self.pixels is not None:
            return self.pixels
        assert self.windows is not None, "a picture has pixels or windows"
        height, width = self.windows.size
        return self.windows.read((0, 0, width, height))


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
    scratch: Path | None = None,
    stop: Event | None = None,
) -> Generator[Future[Picture | Unreadable]]:
    """Images and frames in order, decoded and resized by `workers` threads.

    At most a few pictures for each worker are in memory, however long the videos are. Images of
    more than `max_pixels` are not read. For None in place of `prepare`, pictures are opened by
    windows (`open_windows`), to be predicted in tiles. Videos are downloaded into the folder
    `scratch`. A live source is not read ahead, so that the newest frame is predicted, and ends when
    `stop` is set.
    """
    stop = stop or Event()
    tasks = _tasks(sources, prepare, max_pixels, scratch, stop)
    if any(source.is_live for source in sources):
        for task in tasks:
            future: Future[Picture | Unreadable] = Future()
            future.set_result(task())
            yield future
        return
    yield from run_ahead(tasks, workers, stop)


def _tasks(
    sources: Sequence[Source],
    prepare: Callable[[np.ndarray], Any] | None,
    max_pixels: int,
    scratch: Path | None,
    stop: Event,
) -> Iterator[Callable[[], Picture | Unreadable]]:
    for source in sources:
        if not source.is_video:
            yield partial(_image, source, prepare, max_pixels, stop)
            continue
        # Frames are decoded one after the other, here; only the resize is shared out.
        frames = read_live(source, stop) if source.is_live else read_frames(source, scratch, stop)
        try:
            for frame in frames:
                yield partial(_frame, source, prepare, frame)
        except Exception as error:
            yield partial(_unreadable, source, error)


def _image(
    source: Source, prepare: Callable[[np.ndarray], Any] | None, max_pixels: int, stop: Event
) -> Picture | Unreadable:
    try:
        if source.address is not None:
            image: Path | np.ndarray = read_address(source.address, max_pixels, stop)
        else:
            assert source.path is not None
            image = source.path if prepare is None else read_image(source.path, max_pixels)
        return _picture(source, prepare, image, max_pixels)
    except Exception as error:
        return _unreadable(source, error)


def _frame(
    source: Source, prepare: Callable[[np.ndarray], Any] | None, frame: Frame
) -> Picture | Unreadable:
    try:
        picture = _picture(source, prepare, frame.pixels)
    except Exception as error:
        return _unreadable(source, error)
    return replace(picture, frame=frame.number, time_s=frame.time_s, fps=frame.fps)


def _picture(
    source: Source,
    prepare: Callable[[np.ndarray], Any] | None,
    image: Path | np.ndarray,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """An image, resized or opened for tiles."""
    if prepare is None:
        return Picture(source, None, None, 0.0, None, None, open_windows(image, max_pixels))
    assert isinstance(image, np.ndarray)
    return Picture(source, None, None, 0.0, image, prepare(image))


def _unreadable(source: Source, error: Exception) -> Unreadable:
    """Whatever a decoder raises: one file must not end the others."""
    if isinstance(error, UserError):
        return Unreadable(source, str(error))
    problem = f"{type(error).__name__}: {error}"
    return Unreadable(
        source, f"{source.shown}: cannot be read ({problem}); replace it or convert it"
    )


def run_ahead(
    tasks: Iterator[Callable[[], T]], workers: int, stop: Event | None = None
) -> Generator[Future[T]]:
    """The tasks' futures in order, run by `workers` threads, at most two per worker ahead.

    One more thread takes the tasks from their iterator, which may be slow itself. Its exceptions
    are raised here; when the caller stops early, the threads end too, and tasks see `stop` set.
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
        if stop is not None:
            stop.set()
        starter.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
