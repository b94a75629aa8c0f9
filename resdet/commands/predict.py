"""What `resdet predict` runs: a model on images, folders and videos, drawn and written."""

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from resdet.errors import UserError
from resdet.files.writing import make_folder
from resdet.hardware import choose_device
from resdet.inference.combined import CombinedDetector
from resdet.inference.loading import load_models
from resdet.inference.output import Finished, Output, finish, former_drawings, open_output
from resdet.inference.sources import Picture, Source, list_sources, read_pictures
from resdet.models.classifier import Classifier
from resdet.models.localizer import Localizer
from resdet.models.predict import inference_mode, precision_of
from resdet.models.rcnn import RCNN
from resdet.models.region_classifier import RegionClassifier, needs_proposals
from resdet.structures import Classification, Detections

log = logging.getLogger("resdet")


DETECTION_THRESH = 0.5
"""A detector's score threshold where none is given."""


def predict_command(
    *,
    run: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    ensemble: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    score_thresh: float | None = None,
    device: str | None = None,
    batch_size: int = 1,
    precision: str | None = None,
) -> int:
    """Draw what the model of `run` detects in images, folders and videos; returns the exit code.

    Below `out`: the drawn pictures under the names of the inputs, videos as a folder of frames and
    a video file. Of a detector, detections.json (COCO results with the original category ids) and
    images.json (id, file_name, width, height, frame, source, drawn for each image or frame); of a
    classifier, predictions.json (the same, and the best five classes with label, name, words and
    score). Scores at or below `score_thresh` are left out; None is .5 for a detector, and leaves a
    classifier its five classes. Detectors in `ensemble` predict together with that of `run`;
    `overrides` go on top of every detector's config. `precision` as in `resdet.load`.
    Exit code 0; 1 when some files could not be read: each is named, the others are done.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; give at least 1")
    folder = Path(out).expanduser().resolve()
    sources, skipped = list_sources(inputs, folder, former_drawings(folder))
    if skipped:
        log.info("%d files are neither image nor video and were skipped", skipped)
    model = load_models([run, *ensemble], overrides=overrides)
    if isinstance(model, RegionClassifier):
        raise needs_proposals()
    model.place(choose_device(device, 0))
    model.precision = precision
    chosen = precision_of(model)
    log.info("%s: precision %s (%s)", run, chosen.name, chosen.reason)
    make_folder(folder)
    done = predict_sources(model, sources, folder, score_thresh=score_thresh, batch_size=batch_size)
    if isinstance(model, Classifier):
        log.info("%d images classified, drawn in %s", done.pictures, out)
    else:
        log.info("%d detections in %d images, drawn in %s", done.detections, done.pictures, out)
    if done.failures:
        log.error("%d of %d inputs could not be read (listed above)", done.failures, len(sources))
    return 1 if done.failures else 0


class Done(NamedTuple):
    """How many there were."""

    pictures: int
    failures: int
    """Files that could not be read; each was named in the log."""
    detections: int


def predict_sources(
    model: RCNN | CombinedDetector | Classifier | Localizer,
    sources: Sequence[Source],
    folder: Path,
    *,
    score_thresh: float | None,
    batch_size: int,
) -> Done:
    """Write below `folder`, which exists, what `predict_command` writes for `sources`.

    Threads read ahead and draw behind; the main one runs the network. All of them hold a few
    pictures at most.
    """
    if isinstance(model, RCNN | CombinedDetector) and score_thresh is None:
        score_thresh = DETECTION_THRESH
    workers = max(1, min(4, (os.cpu_count() or 1) // 2))
    image_ids, failures = count(1), list[UserError]()
    writing: deque[Future[None]] = deque()
    console = Console(stderr=True)
    with (
        open_output(folder, detects=not isinstance(model, Classifier)) as output,
        ThreadPoolExecutor(workers, thread_name_prefix="resdet-draw") as drawers,
        # One thread, so that records and frames are written in order.
        ThreadPoolExecutor(1, thread_name_prefix="resdet-write") as writer,
        closing(read_pictures(sources, model.prepare, workers=workers)) as futures,
        inference_mode(model),
        Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as bar,
    ):
        total = None if any(source.is_video for source in sources) else len(sources)
        task = bar.add_task("images", total=total)
        pictures = _readable(futures, failures)
        while batch := list(islice(pictures, batch_size)):
            predictions: Sequence[Detections | Classification] = model.predict_prepared(
                [picture.prepared for picture in batch],
                [picture.pixels.shape[:2] for picture in batch],
                score_thresh,
            )
            for picture, prediction in zip(batch, predictions, strict=True):
                made = drawers.submit(finish, picture, next(image_ids), prediction, folder)
                writing.append(writer.submit(_write, output, made))
            while len(writing) > 2 * workers + batch_size:
                writing.popleft().result()
            bar.advance(task, len(batch))
        for future in writing:
            future.result()
    return Done(next(image_ids) - 1, len(failures), output.num_detections)


def _write(output: Output, made: Future[Finished]) -> None:
    output.write(made.result())


def _readable(futures: Iterator[Future[Picture]], failures: list[UserError]) -> Iterator[Picture]:
    """The pictures in order; files that cannot be read are named in the log and collected."""
    for future in futures:
        try:
            yield future.result()
        except UserError as error:
            log.error("%s", error)
            failures.append(error)
