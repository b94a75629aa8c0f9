"""Trained models from disk, and the function behind tools/predict.py."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from resdet.errors import UserError
from resdet.inference.loading import load
from resdet.inference.output import Finished, Output, finish, former_drawings
from resdet.inference.sources import Failure, Picture, Source, list_sources, read_pictures
from resdet.models import predict_classification as classify
from resdet.models import predict_detection as predictor
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN
from resdet.structures import Classification, Detections

log = logging.getLogger("resdet")


DETECTION_THRESH = 0.5
"""A detector's score threshold where none is given."""


def predict_command(
    *,
    run: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    score_thresh: float | None = None,
    device: str | None = None,
    batch_size: int = 1,
) -> int:
    """Draw what the model of `run` finds in images, folders and videos; returns the exit code.

    Below `out`: the drawn pictures under the names of the inputs, videos as a folder of frames and
    a video file. Of a detector, detections.json (COCO results with the original category ids) and
    images.json (id, file_name, width, height, frame, source, drawn for each image or frame); of a
    classifier, predictions.json (the same, and the best five classes with label, name, words and
    score). Scores at or below `score_thresh` are left out; None is .5 for a detector, and leaves a
    classifier its five classes.
    Exit code 0; 1 when some files could not be read: each is named, the others are done.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; give at least 1")
    folder = Path(out).expanduser().resolve()
    sources, skipped = list_sources(inputs, folder, former_drawings(folder))
    if skipped:
        log.info("%d files are neither image nor video and were skipped", skipped)
    model = load(run, device=device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made a folder ({error})") from error
    done = predict_sources(model, sources, folder, score_thresh=score_thresh, batch_size=batch_size)
    if isinstance(model, Classifier):
        log.info("%d images classified, drawn in %s", done.pictures, out)
    else:
        log.info("%d detections in %d images, drawn in %s", done.detections, done.pictures, out)
    if done.failures:
        log.error("%d of %d inputs could not be read (named above)", done.failures, len(sources))
    return 1 if done.failures else 0


@dataclass
class _Steps:
    """What is done with each picture, by the kind of model."""

    prepare: Callable[[np.ndarray], Tensor]
    """(H, W, 3) uint8 RGB to the (3, h, w) uint8 that the network sees."""
    infer: Callable[[list[Picture]], Sequence[Detections | Classification]]
    mode: Callable[[], AbstractContextManager[None]]
    """The context that `infer` runs in."""
    detects: bool


def _detector_steps(model: RCNN, score_thresh: float | None) -> _Steps:
    threshold = DETECTION_THRESH if score_thresh is None else score_thresh

    def infer(batch: list[Picture]) -> list[Detections]:
        shapes = [picture.pixels.shape[:2] for picture in batch]
        return predictor.infer(model, [picture.prepared for picture in batch], shapes)

    mode = partial(predictor.inference_mode, model, threshold)
    return _Steps(partial(predictor.prepare, model), infer, mode, detects=True)


def _classifier_steps(model: Classifier, score_thresh: float | None) -> _Steps:
    def infer(batch: list[Picture]) -> list[Classification]:
        found = classify.infer(model, [picture.prepared for picture in batch])
        return found if score_thresh is None else [each.above(score_thresh) for each in found]

    prepare = partial(classify.prepare, classify.centre_crop(model))
    return _Steps(prepare, infer, partial(classify.inference_mode, model), detects=False)


class Done(NamedTuple):
    """How many there were."""

    pictures: int
    failures: int
    """Files that could not be read; each was named in the log."""
    detections: int


def predict_sources(
    model: RCNN | Classifier,
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
    if isinstance(model, Classifier):
        steps = _classifier_steps(model, score_thresh)
    else:
        steps = _detector_steps(model, score_thresh)
    workers = max(1, min(4, (os.cpu_count() or 1) // 2))
    image_ids, failures = count(1), 0
    writing: deque[Future[None]] = deque()
    console = Console(stderr=True)
    with (
        Output(folder, detects=steps.detects) as output,
        ThreadPoolExecutor(workers, thread_name_prefix="resdet-draw") as drawers,
        # One thread, so that records and frames are written in order.
        ThreadPoolExecutor(1, thread_name_prefix="resdet-write") as writer,
        closing(read_pictures(sources, steps.prepare, workers=workers)) as pictures,
        steps.mode(),
        Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as bar,
    ):
        total = None if any(source.is_video for source in sources) else len(sources)
        task = bar.add_task("images", total=total)
        for batch in _batches(pictures, batch_size):
            if isinstance(batch, Failure):
                failures += 1
                log.error("%s", batch.message)
                continue
            for picture, each in zip(batch, steps.infer(batch), strict=True):
                made = drawers.submit(finish, picture, next(image_ids), each, folder)
                writing.append(writer.submit(_write, output, made))
            while len(writing) > 2 * workers + batch_size:
                writing.popleft().result()
            bar.advance(task, len(batch))
        for future in writing:
            future.result()
    return Done(next(image_ids) - 1, failures, output.num_detections)


def _write(output: Output, made: Future[Finished]) -> None:
    output.write(made.result())


def _batches(
    pictures: Iterator[Picture | Failure], batch_size: int
) -> Iterator[list[Picture] | Failure]:
    """Up to `batch_size` pictures in a row; failures between them are passed on at once."""
    batch: list[Picture] = []
    for picture in pictures:
        if isinstance(picture, Failure):
            yield picture
            continue
        batch.append(picture)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch
