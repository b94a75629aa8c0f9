"""Images, folders and videos of a command line, read ahead of the network in order."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from resdet.errors import UserError
from resdet.files.findings import log_findings
from resdet.files.images import SUFFIXES, read_image
from resdet.files.walk import list_files

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ts", ".3gp", ".mts"),
)
WRITTEN_VIDEO_SUFFIXES = (".mp4", ".avi")
# Where lossy pictures would spoil what is seen.
LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
T = TypeVar("T")
log = logging.getLogger("resdet")


@dataclass(frozen=True)
class Source:
    """One image file or one video file."""

    path: Path
    name: str
    """Its name for users: relative to the folder that was given, else the file name."""
    target: Path
    """The drawn picture; for a video the folder of its drawn frames."""
    is_video: bool


@dataclass
class Picture:
    """One image or video frame, read and resized."""

    source: Source
    frame: int | None
    """Frame number from 0; None for an image."""
    fps: float
    """Frames per second of the video; 0 for an image."""
    pixels: np.ndarray
    """(H, W, 3) uint8 RGB."""
    prepared: Any
    """What the model's `prepare` gives: (3, h, w) at its test size, or at several sizes."""


def list_sources(
    inputs: Sequence[str | Path], out: Path, former: Iterable[Path] = ()
) -> tuple[list[Source], int]:
    """Every image and video of `inputs` in order, and how many other files of folders were skipped.

    Folders are searched with their subfolders by the rule of `list_files`; `out` itself and the
    `former` drawings in it are passed over. A file that is named is taken whatever its suffix.
    Targets below `out` keep the names, and get a number where a name is taken: no two sources
    share a target and nothing that is not a former drawing is overwritten.
    Raises UserError for an input that does not exist, and where nothing is left.
    """
    out, former = out.resolve(), set(former)
    files: list[tuple[Path, str]] = []
    skipped = 0
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_file():
            files.append((path, path.name))
        elif path.is_dir():
            inside, others = _search(path, out, former)
            files += [(file, file.relative_to(path).as_posix()) for file in inside]
            skipped += others
        else:
            raise UserError(f"{given}: no such image, folder or video")
    if not files:
        raise UserError(
            f"{', '.join(map(str, inputs))}: no image or video among them ({skipped} other files); "
            f"supported: {' '.join(SUFFIXES + VIDEO_SUFFIXES)}"
        )
    taken = {str(path.resolve()).lower() for path, _ in files}
    sources = []
    for path, name in files:
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        target = _free_target(out, name, is_video, taken, former)
        sources.append(Source(path, name, target, is_video))
    return sources, skipped


def _search(folder: Path, out: Path, former: set[Path]) -> tuple[list[Path], int]:
    """Images and videos below `folder`, sorted, and the number of other files."""
    files: list[Path] = []
    others = 0
    listing = list_files(folder)
    log_findings(listing.findings(folder))
    is_out = out == folder.resolve()
    for name in listing.files:
        path = folder / name
        real = path.resolve()
        if (not is_out and out in real.parents) or real in former:
            continue
        if path.suffix.lower() in SUFFIXES + VIDEO_SUFFIXES:
            files.append(path)
        else:
            others += 1
    return files, others


def _free_target(out: Path, name: str, is_video: bool, taken: set[str], former: set[Path]) -> Path:
    """A path below `out` for the picture of `name` that nothing else has; adds it to `taken`."""
    plain = out / name
    lossless = plain.suffix.lower() in LOSSLESS_SUFFIXES
    suffix = "" if is_video else ".png" if lossless else ".jpg"
    written = ("", *WRITTEN_VIDEO_SUFFIXES) if is_video else ("",)
    for number in count(1):
        tail = "" if number == 1 else f"-{number}"
        target = plain.with_name(f"{plain.stem}{tail}{suffix}")
        files = [target.with_name(target.name + more) for more in written]
        # File systems that ignore case would write A.jpg over a.jpg.
        keys = {str(file).lower() for file in files}
        foreign = any(file.exists() and file not in former for file in files)
        if not foreign and not keys & taken:
            break
    taken |= keys
    return target


def read_pictures(
    sources: Sequence[Source], prepare: Callable[[np.ndarray], Any], *, workers: int
) -> Generator[Future[Picture]]:
    """Images and video frames in order, decoded and resized by `workers` threads.

    The result of a file that cannot be read is a UserError that names it. At most a few pictures
    for each worker are in memory, however long the videos are.
    """
    return run_ahead(_tasks(sources, prepare), workers)


def _tasks(
    sources: Sequence[Source], prepare: Callable[[np.ndarray], Any]
) -> Iterator[Callable[[], Picture]]:
    for source in sources:
        if source.is_video:
            # Frames are decoded one after the other, here; only the resize is shared out.
            for frame, fps, pixels in _frames(source):
                yield partial(_picture, source, prepare, frame, fps, pixels)
        else:
            yield partial(_picture, source, prepare)


def _picture(
    source: Source,
    prepare: Callable[[np.ndarray], Any],
    frame: int | None = None,
    fps: float = 0.0,
    pixels: np.ndarray | None = None,
) -> Picture:
    if pixels is None and source.is_video:
        raise UserError(
            f"{source.path}: no frame can be read; it is damaged or of an unknown codec: convert "
            "it to .mp4"
        )
    pixels = read_image(source.path) if pixels is None else pixels
    return Picture(source, frame, fps, pixels, prepare(pixels))


def _frames(source: Source) -> Iterator[tuple[int, float, np.ndarray | None]]:
    """(number, frames per second, (H, W, 3) uint8 RGB) of each frame; one None if there is none."""
    capture = cv2.VideoCapture(str(source.path))
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < 1000 else 25.0
        number = 0
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        while True:
            good, frame = capture.read()
            if not good:
                break
            yield number, fps, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
        if number == 0:
            yield 0, fps, None
        elif number < announced - 1:
            log.warning("%s: %d of %d frames could be read", source.path, number, announced)
    finally:
        capture.release()


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
