"""What `resdet predict` runs: a model on images, folders and videos, drawn and written."""

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

from resdet.config.find import holds_run, own_path
from resdet.errors import UserError, first_few, printable
from resdet.files.findings import SHOWN
from resdet.files.lock import locked
from resdet.files.writing import check_folder, make_folder
from resdet.hardware import choose_device
from resdet.inference.combined import CombinedDetector
from resdet.inference.image_ids import check_categories, find_ids, read_truth
from resdet.inference.loading import load_models
from resdet.inference.output import Finished, Output, finish
from resdet.inference.sources import (
    Picture,
    Source,
    Sources,
    Unreadable,
    list_sources,
    read_pictures,
)
from resdet.interop.weights import is_published
from resdet.memory import is_out_of_memory
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
    ids_from: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 1,
    precision: str | None = None,
    max_pixels: int | None = None,
) -> int:
    """Draw what the model of `run` detects in images, folders and videos; returns the exit code.

    Below `out`: the drawn pictures under the names of the inputs, videos as a folder of frames and
    a video file. Of a detector, detections.json (COCO results with the original category ids) and
    images.json (id, file_name, width, height, frame, source, drawn for each image or frame); of a
    classifier, predictions.json (the same, and the best five classes with label, name, words and
    score). These are written picture by picture and are whole at any time. Scores at or below
    `score_thresh` are left out; None is .5 for a detector, and leaves a classifier its five
    classes. Ids count from 1, or with `ids_from` are those that annotations give images of the
    same file name. Detectors in `ensemble` predict together with that of `run`; `overrides` go on
    top of every detector's config. `precision` as in `resdet.load`. `max_pixels` as in `predict`.
    Exit code 0; 1 when some inputs could not be read or drawn: each is named, the others are done.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; give at least 1")
    folder = own_path(out).resolve()
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder for the results")
    _check_order(run, inputs)
    sources = list_sources(inputs, folder)
    if sources.others:
        what = "%d files are neither image nor video and were skipped (%s)"
        log.info(what, len(sources.others), printable(first_few(sources.others, SHOWN)))
    truth = None if ids_from is None else read_truth(ids_from)
    ids = None if truth is None else find_ids(truth, sources.files)
    model = load_models([run, *ensemble], overrides=overrides)
    if isinstance(model, RegionClassifier):
        raise needs_proposals()
    if truth is not None:
        check_categories(truth, model.class_names, getattr(model, "category_ids", ()))
    model.place(choose_device(device, 0))
    model.precision = precision
    chosen = precision_of(model)
    log.info("%s: precision %s (%s)", run, chosen.name, chosen.reason)
    check_folder(make_folder(folder))
    with locked(folder, "--out"):
        done = predict_sources(
            model,
            sources.files,
            folder,
            score_thresh=score_thresh,
            batch_size=batch_size,
            ids=ids,
            max_pixels=max_pixels,
        )
    return _report(done, sources, out, classifies=isinstance(model, Classifier))


def _check_order(run: str | Path, inputs: Sequence[str | Path]) -> None:
    """UserError where the model stands among the images, and an image in its place."""
    if holds_run(run) or is_published(str(run)):
        return
    for given in inputs:
        if holds_run(given):
            raise UserError(
                f"{run}: is not a run or checkpoint, and the input {given} is one; give it first, "
                "then the images"
            )


def _report(done: "Done", sources: Sources, out: str | Path, *, classifies: bool) -> int:
    """Counts in the log what was done and what was not; returns the exit code."""
    if classifies:
        log.info("%d images classified, drawn in %s", done.pictures, out)
    else:
        log.info("%d detections in %d images, drawn in %s", done.detections, done.pictures, out)
    failures = done.failures + len(sources.problems)
    if failures:
        total = len(sources.files) + len(sources.problems)
        log.error("%d of %d inputs could not be read or drawn (listed above)", failures, total)
    return 1 if failures else 0


class Done(NamedTuple):
    """How many there were."""

    pictures: int
    failures: int
    """Files that could not be read or drawn; each was named in the log."""
    detections: int


def predict_sources(
    model: RCNN | CombinedDetector | Classifier | Localizer,
    sources: Sequence[Source],
    folder: Path,
    *,
    score_thresh: float | None,
    batch_size: int,
    ids: Mapping[Source, int | str | None] | None = None,
    max_pixels: int | None = None,
) -> Done:
    """Write below `folder`, which exists, what `predict_command` writes for `sources`.

    `ids` are those of the records; None counts the pictures from 1. A source whose id is None has
    no records.

    Threads read ahead and draw behind; the main one runs the network. All of them hold a few
    pictures at most. After an error or a signal the pictures before it are complete in `folder`.
    """
    if isinstance(model, RCNN | CombinedDetector) and score_thresh is None:
        score_thresh = DETECTION_THRESH
    workers = max(1, min(4, (os.cpu_count() or 1) // 2))
    image_ids, failures = count(1), Failures()
    writing: deque[Future[None]] = deque()
    console = Console(stderr=True)
    with (
        _output(folder, detects=not isinstance(model, Classifier)) as output,
        ThreadPoolExecutor(workers, thread_name_prefix="resdet-draw") as drawers,
        # One thread, so that records and frames are written in order.
        ThreadPoolExecutor(1, thread_name_prefix="resdet-write") as writer,
        closing(
            read_pictures(
                sources,
                model.prepare,
                workers=workers,
                max_pixels=max_pixels or model.max_pixels,
            )
        ) as futures,
        inference_mode(model),
        Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as bar,
    ):
        total = None if any(source.is_video for source in sources) else len(sources)
        task = bar.add_task("images", total=total)
        pictures = _large_enough(model, _readable(futures, failures))
        while batch := list(islice(pictures, batch_size)):
            for picture, answer in zip(batch, _answers(model, batch, score_thresh), strict=True):
                if isinstance(answer, UserError):
                    failures.add(picture.source, str(answer))
                    continue
                image_id = next(image_ids) if ids is None else ids[picture.source]
                made = drawers.submit(finish, picture, image_id, answer, folder)
                writing.append(writer.submit(_write, output, made, failures))
            while len(writing) > 2 * workers + batch_size:
                writing.popleft().result()
            bar.advance(task, len(batch))
        for future in writing:
            future.result()
        output.end()
    return Done(output.num_pictures, len(failures.sources), output.num_detections)


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


def _answers(
    model: RCNN | CombinedDetector | Classifier | Localizer,
    batch: Sequence[Picture],
    score_thresh: float | None,
) -> Sequence[Detections | Classification | UserError]:
    """Predictions of a batch; one by one where all do not fit into memory together, and an error
    for a picture that does not fit at all."""
    try:
        return model.predict_prepared(
            [picture.prepared for picture in batch],
            [picture.pixels.shape[:2] for picture in batch],
            score_thresh,
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # not in the handler: the exception holds what the network had computed
    if len(batch) > 1:
        return [answer for each in batch for answer in _answers(model, [each], score_thresh)]
    return [
        UserError(
            f"{batch[0].source.path}: does not fit into memory at the size that the network sees; "
            "lower data.test_resize.short_edge and data.test_resize.max_size"
        )
    ]


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
    model: RCNN | CombinedDetector | Classifier | Localizer, pictures: Iterator[Picture]
) -> Iterator[Picture]:
    """All of the pictures, with a warning where the network sees objects much smaller than those it
    was trained on."""
    shrunk: set[Source] = set()
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        problem = model.size_problem((height, width))
        if problem is not None:
            if not shrunk:
                log.warning("%s: %s", picture.source.path, problem)
            shrunk.add(picture.source)
        yield picture
    if len(shrunk) > 1:
        log.warning("%d inputs are shrunk too much, the first is named above", len(shrunk))
