"""Predictions of many pictures: read ahead of the network, drawn and written behind it."""

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from resdet.errors import UserError
from resdet.inference.batches import predict_batch, predict_picture
from resdet.inference.exported import AnyDetector, ExportedDetector
from resdet.inference.output import Finished, Output, finish
from resdet.inference.pictures import Picture, Unreadable, read_pictures
from resdet.inference.sources import Source
from resdet.models.classifier import Classifier
from resdet.models.localizer import Localizer
from resdet.models.predict import inference_mode
from resdet.ops.tiles import Tiling
from resdet.structures import Classification, Detections

log = logging.getLogger("resdet")

DETECTION_THRESH = 0.5
"""A detector's score threshold where none is given."""


class Done(NamedTuple):
    """How many there were."""

    pictures: int
    failures: int
    """Files that could not be read or drawn; each was named in the log."""
    detections: int


def predict_sources(
    model: AnyDetector | Classifier | Localizer,
    sources: Sequence[Source],
    folder: Path,
    *,
    score_thresh: float | None,
    batch_size: int,
    ids: Mapping[Source, int | str | None] | None = None,
    max_pixels: int | None = None,
    tiling: Tiling | None = None,
) -> Done:
    """Write below `folder`, which exists, what `predict_command` writes for `sources`.

    `ids` are those of the records; None counts the pictures from 1. A source whose id is None has
    no records. With `tiling`, `batch_size` tiles are predicted at a time, of one large picture.

    Threads read ahead and draw behind; the main one runs the network. All of them hold a few
    pictures at most. After an error or a signal the pictures before it are complete in `folder`.
    """
    if isinstance(model, AnyDetector) and score_thresh is None:
        score_thresh = DETECTION_THRESH
        if isinstance(model, ExportedDetector):
            score_thresh = max(score_thresh, model.lowest_score)
    workers = 1 if tiling is not None else max(1, min(4, (os.cpu_count() or 1) // 2))
    image_ids, failures = count(1), Failures()
    writing: deque[Future[None]] = deque()
    with (
        _output(folder, detects=not isinstance(model, Classifier)) as output,
        ThreadPoolExecutor(workers, thread_name_prefix="resdet-draw") as drawers,
        # One thread, so that records and frames are written in order.
        ThreadPoolExecutor(1, thread_name_prefix="resdet-write") as writer,
        closing(
            read_pictures(
                sources,
                None if tiling is not None else model.prepare,
                workers=workers,
                max_pixels=max_pixels or model.max_pixels,
            )
        ) as futures,
        inference_mode(model),
        _progress() as bar,
    ):
        total = None if any(source.is_video for source in sources) else len(sources)
        task = bar.add_task("images", total=total)
        pictures = _readable(futures, failures)
        for batch in _answered(model, pictures, score_thresh, batch_size, tiling):
            for picture, answer in batch:
                if isinstance(answer, UserError):
                    failures.add(picture.source, str(answer))
                    continue
                image_id = next(image_ids) if ids is None else ids[picture.source]
                made = drawers.submit(finish, picture, image_id, answer, folder)
                writing.append(writer.submit(_write, output, made, failures))
            while len(writing) > 2 * workers + len(batch):
                writing.popleft().result()
            bar.advance(task, len(batch))
        for future in writing:
            future.result()
        output.end()
    return Done(output.num_pictures, len(failures.sources), output.num_detections)


def _progress() -> Progress:
    """Shown on a terminal alone."""
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)


@contextmanager
def _output(folder: Path, *, detects: bool) -> Iterator[Output]:
    """The files of results, closed at the end; after an error the log has how many there are."""
    output = Output(folder, detects=detects)
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


Answer = tuple[Picture, Detections | Classification | UserError]


def _answered(
    model: AnyDetector | Classifier | Localizer,
    pictures: Iterator[Picture],
    score_thresh: float | None,
    batch_size: int,
    tiling: Tiling | None,
) -> Iterator[list[Answer]]:
    """Pictures with their predictions, batch by batch; with tiles one by one."""
    if tiling is not None:
        for picture in pictures:
            found = predict_picture(model, picture, tiling, score_thresh, batch_size)
            yield [(picture, found)]
        return
    pictures = _large_enough(model, pictures)
    while batch := list(islice(pictures, batch_size)):
        answers = predict_batch(
            model,
            [picture.prepared for picture in batch],
            [picture.size for picture in batch],
            [str(picture.source.path) for picture in batch],
            score_thresh,
        )
        yield list(zip(batch, answers, strict=True))


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


def _large_enough(
    model: AnyDetector | Classifier | Localizer, pictures: Iterator[Picture]
) -> Iterator[Picture]:
    """All of the pictures, with a warning where the network sees objects much smaller than those it
    was trained on."""
    shrunk: set[Source] = set()
    for picture in pictures:
        problem = model.size_problem(picture.size)
        if problem is not None:
            if not shrunk:
                log.warning("%s: %s", picture.source.path, problem)
            shrunk.add(picture.source)
        yield picture
    if len(shrunk) > 1:
        log.warning("%d inputs are shrunk too much, the first is named above", len(shrunk))
