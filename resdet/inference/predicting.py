"""Predictions of many pictures: read ahead of the network, drawn and written behind it."""

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from threading import Event
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from resdet.errors import UserError
from resdet.inference.batches import predict_batch, predict_windows
from resdet.inference.exported import AnyDetector, ExportedDetector
from resdet.inference.live import stopping
from resdet.inference.output import Drawing, Finished, Output, finish
from resdet.inference.pictures import Picture, Unreadable, read_pictures
from resdet.inference.sources import Source
from resdet.inference.tracker import LOW_THRESH, Tracker
from resdet.models.classifier import Classifier
from resdet.models.localizer import Localizer
from resdet.models.predict import inference_mode
from resdet.ops.tiles import Tiling
from resdet.structures import Classification, Detections

log = logging.getLogger("resdet")

Model = AnyDetector | Classifier | Localizer
DETECTION_THRESH = 0.5
"""A detector's score threshold where none is given."""


class Done(NamedTuple):
    """How many there were."""

    pictures: int
    failures: int
    """Files that could not be read or drawn; each was named in the log."""
    detections: int


@dataclass(frozen=True)
class Options:
    """How pictures are predicted, and what is written of them."""

    score_thresh: float | None = None
    """Of detections, or of classes; None is `DETECTION_THRESH`, and all five classes."""
    batch_size: int = 1
    max_pixels: int | None = None
    """Larger images are not read; None is the limit of the model's config."""
    tracks: bool = False
    """Whether detections get the ids of tracks through the frames of each video, and through the
    images of each folder."""
    formats: tuple[str, ...] | None = None
    """Those of `open_results`."""
    draws: Drawing = "all"
    tile: int | None = None
    overlap: float | None = None
    """As in `Predictor.tiling`."""


def predict_sources(
    model: Model,
    sources: Sequence[Source],
    folder: Path,
    options: Options,
    ids: Mapping[Source, int | str | None] | None = None,
    tiling: Tiling | None = None,
) -> Done:
    """Write below `folder`, which exists, what `predict_command` writes for `sources`.

    `ids` are those of the records; None counts the pictures from 1. A source whose id is None has
    no records. With `tiling`, which `options` give the model, `batch_size` tiles are predicted at a
    time, of one large picture.

    Threads read ahead and draw behind; the main one runs the network. All of them hold a few
    pictures at most. After an error or a signal the pictures before it are complete in `folder`.
    Ctrl-C ends a live source as its end would.
    """
    workers = 1 if tiling is not None else max(1, min(4, (os.cpu_count() or 1) // 2))
    image_ids, failures, stop = count(1), Failures(), Event()
    writing: deque[Future[None]] = deque()
    with (
        _output(folder, options.formats, detects=not isinstance(model, Classifier)) as output,
        ThreadPoolExecutor(workers, thread_name_prefix="resdet-draw") as drawers,
        # One thread, so that records and frames are written in order.
        ThreadPoolExecutor(1, thread_name_prefix="resdet-write") as writer,
        closing(
            read_pictures(
                sources,
                None if tiling is not None else model.prepare,
                workers=workers,
                max_pixels=options.max_pixels or model.max_pixels,
                scratch=folder,
                stop=stop,
            )
        ) as futures,
        stopping(stop) if any(source.is_live for source in sources) else nullcontext(),
        _progress() as bar,
    ):
        total = None if any(source.is_video for source in sources) else len(sources)
        task = bar.add_task("images", total=total)
        for picture, answer in _predictions(model, _readable(futures, failures), options, tiling):
            bar.advance(task)
            if isinstance(answer, UserError):
                failures.add(picture.source, str(answer))
                continue
            image_id = next(image_ids) if ids is None else ids[picture.source]
            made = drawers.submit(
                finish, picture, image_id, answer, folder, output.results, options.draws
            )
            writing.append(writer.submit(_write, output, made, failures))
            while len(writing) > 2 * workers + options.batch_size:
                writing.popleft().result()
        for future in writing:
            future.result()
        output.end()
    return Done(output.num_pictures, len(failures.sources), output.num_detections)


def _progress() -> Progress:
    """Shown on a terminal alone."""
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)


Answer = tuple[Picture, Detections | Classification | UserError]


def _predictions(
    model: Model, pictures: Iterator[Picture], options: Options, tiling: Tiling | None
) -> Iterator[Answer]:
    """Each picture, in order, with its prediction or why it has none."""
    thresh = options.score_thresh
    least = model.lowest_score if isinstance(model, ExportedDetector) else 0.0
    if isinstance(model, AnyDetector) and thresh is None:
        thresh = max(DETECTION_THRESH, least)
    lowest = max(min(thresh or 0.0, LOW_THRESH), least) if options.tracks else thresh
    tracker, sequence = Tracker(thresh or 0.0), None
    for picture, answer in _answered(model, pictures, lowest, options.batch_size, tiling):
        if options.tracks and isinstance(answer, Detections):
            if _sequence(picture.source) != sequence:
                tracker, sequence = Tracker(thresh or 0.0), _sequence(picture.source)
            answer = tracker.update(answer)
        yield picture, answer


def _answered(
    model: Model,
    pictures: Iterator[Picture],
    score_thresh: float | None,
    batch_size: int,
    tiling: Tiling | None,
) -> Iterator[Answer]:
    """Pictures with their predictions, computed batch by batch; with tiles one by one."""
    if tiling is not None:
        for picture in pictures:
            assert picture.windows is not None, "it was opened for tiles"
            name = picture.source.shown
            with inference_mode(model):
                found = predict_windows(
                    model, picture.windows, tiling, name, score_thresh, batch_size
                )
            yield picture, found
        return
    pictures = _large_enough(model, pictures)
    while batch := list(islice(pictures, batch_size)):
        with inference_mode(model):
            answers = predict_batch(
                model,
                [picture.prepared for picture in batch],
                [picture.size for picture in batch],
                [picture.source.shown for picture in batch],
                score_thresh,
            )
        yield from zip(batch, answers, strict=True)


def _sequence(source: Source) -> object:
    """Equal for pictures that follow each other: frames of a video, images of a folder."""
    return source if source.is_video or source.path is None else source.path.parent


@contextmanager
def _output(folder: Path, formats: Sequence[str] | None, *, detects: bool) -> Iterator[Output]:
    """The files of results, closed at the end; after an error the log has how many there are."""
    output = Output(folder, formats, detects=detects)
    try:
        yield output
    except BaseException:
        if output.num_pictures:
            log.warning("stopped: %d pictures are complete in %s", output.num_pictures, folder)
        raise
    finally:
        output.close()


@dataclass
class Failures:
    """Inputs that could not be read, predicted or drawn."""

    sources: set[Source] = field(default_factory=set)
    """The frames of a video are one input."""

    def add(self, source: Source, problem: str) -> None:
        """Count an input; its first problem is in the log."""
        if source not in self.sources:
            log.error("%s", problem)
            self.sources.add(source)


def _write(output: Output, made: Future[Finished], failures: Failures) -> None:
    finished = made.result()
    output.write(finished)
    if finished.problem is not None:
        failures.add(finished.picture.source, finished.problem)


def _readable(
    futures: Iterator[Future[Picture | Unreadable]], failures: Failures
) -> Iterator[Picture]:
    """The pictures in order; files that cannot be read are named in the log and collected."""
    for future in futures:
        read = future.result()
        if isinstance(read, Unreadable):
            failures.add(read.source, read.problem)
        else:
            yield read


def _large_enough(model: Model, pictures: Iterator[Picture]) -> Iterator[Picture]:
    """All of the pictures, with a warning where the network sees objects much smaller than those it
    was trained on."""
    shrunk: set[Source] = set()
    for picture in pictures:
        problem = model.size_problem(picture.size)
        if problem is not None:
            if not shrunk:
                log.warning("%s: %s", picture.source.shown, problem)
            shrunk.add(picture.source)
        yield picture
    if len(shrunk) > 1:
        log.warning("%d inputs are shrunk too much, the first is named above", len(shrunk))
