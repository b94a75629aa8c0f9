"""What `resdet predict` runs: a model on images, folders and videos, drawn and written."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from resdet.config.find import holds_run, own_path
from resdet.errors import UserError, first_few, printable
from resdet.files.exported import is_exported
from resdet.files.findings import SHOWN
from resdet.files.georeference import check_rasterio
from resdet.files.lock import locked
from resdet.files.writing import check_folder, make_folder, remove_leftovers
from resdet.hardware import choose_device
from resdet.inference.formats import check_formats
from resdet.inference.image_ids import check_categories, find_ids, read_truth
from resdet.inference.loading import load_models
from resdet.inference.predicting import Done, Model, Options, predict_sources
from resdet.inference.sources import Sources, list_sources
from resdet.inference.videos import DOWNLOAD
from resdet.interop.weights import is_published
from resdet.models.classifier import Classifier
from resdet.models.predict import precision_of
from resdet.models.region_classifier import RegionClassifier, needs_proposals

log = logging.getLogger("resdet")

DEFAULTS = Options()


def predict_command(
    *,
    run: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    ensemble: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    ids_from: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    options: Options = DEFAULTS,
) -> int:
    """Draw what the model of `run` detects in `inputs`; returns the exit code.

    Inputs are those of `list_sources`. Below `out`: the drawn pictures under the names of the
    inputs, videos as a folder of frames and a video file, as `options.draws` says. Of a detector,
    images.json (id, file_name, width, height, frame, time_s, source, drawn for each image or frame)
    and the results in `options.formats`; of a classifier, predictions.json (the same, and the best
    five classes with label, name, words and score). These are written picture by picture and can
    be read at any time. Ids count from 1, or with `ids_from` are those that annotations give images
    of the same file name. Detectors in `ensemble` predict together with that of `run`; `overrides`
    go on top of every detector's config. `precision` as in `resdet.load`.
    Exit code 0, also for a live source that the user ends; 1 when some inputs could not be read or
    drawn: each is named, the others are done.
    """
    folder = _check_arguments(run, inputs, out, options)
    sources = list_sources(inputs, folder)
    if sources.others:
        what = "%d files are neither image nor video and were skipped (%s)"
        log.info(what, len(sources.others), printable(first_few(sources.others, SHOWN)))
    truth = None if ids_from is None else read_truth(ids_from)
    ids = None if truth is None else find_ids(truth, sources.files)
    model = _load([run, *ensemble], overrides, device, precision)
    if options.tracks and isinstance(model, Classifier):
        raise UserError(f"--track: {run} is a classifier, which has no boxes; give a detector")
    if truth is not None:
        check_categories(truth, model.class_names, getattr(model, "category_ids", ()))
    tiling = model.tiling(options.tile, options.overlap, ("--tile", "--overlap"))
    if not isinstance(model, Classifier):
        check_rasterio(source.path for source in sources.files if source.path is not None)
    check_folder(make_folder(folder))
    with locked(folder, "--out"):
        remove_leftovers(folder, [DOWNLOAD])
        done = predict_sources(model, sources.files, folder, options, ids, tiling)
    return _report(done, sources, out, classifies=isinstance(model, Classifier))


def _load(
    runs: Sequence[str | Path], overrides: Sequence[str], device: str | None, precision: str | None
) -> Model:
    """The model of one or several runs, on its device."""
    model = load_models(runs, overrides=overrides)
    if isinstance(model, RegionClassifier):
        raise needs_proposals()
    model.place(choose_device(device, 0))
    model.precision = precision
    chosen = precision_of(model)
    log.info("%s: precision %s (%s)", runs[0], chosen.name, chosen.reason)
    return model


def _check_arguments(
    run: str | Path, inputs: Sequence[str | Path], out: str | Path, options: Options
) -> Path:
    """The folder for the results; UserError for what is wrong before anything is read."""
    if options.batch_size < 1:
        raise UserError(f"--batch-size is {options.batch_size}; give at least 1")
    check_formats(options.formats or ())
    folder = own_path(out).resolve()
    if os.path.lexists(folder) and not folder.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder for the results")
    _check_order(run, inputs)
    return folder


def _check_order(run: str | Path, inputs: Sequence[str | Path]) -> None:
    """UserError where the model stands among the images, and an image in its place."""
    if holds_run(run) or is_exported(run) or is_published(str(run)):
        return
    for given in inputs:
        if holds_run(given) or is_exported(given):
            raise UserError(
                f"{run}: is not a run or checkpoint, and the input {given} is one; give it first, "
                "then the images"
            )


def _report(done: Done, sources: Sources, out: str | Path, *, classifies: bool) -> int:
    """Counts in the log what was done and what was not; returns the exit code."""
    if classifies:
        log.info("%d images classified, results in %s", done.pictures, out)
    else:
        log.info("%d detections in %d images, results in %s", done.detections, done.pictures, out)
    failures = done.failures + len(sources.problems)
    if failures:
        total = len(sources.files) + len(sources.problems)
        log.error("%d of %d inputs could not be read or drawn (listed above)", failures, total)
    return 1 if failures else 0
