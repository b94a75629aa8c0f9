"""What `resdet eval-imagenet` runs: ImageNet's AP and localization error, and submissions.

Localization runs, whose guesses have a classifier's labels, are in `localization_run.py`.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from resdet.commands.evaluate_run import (
    check_out,
    check_sources,
    evaluate_run_on_val,
    finish_files,
    read_truth,
    write_result,
)
from resdet.commands.loc_options import LocOptions
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation import Result
from resdet.evaluation.imagenet_det import evaluate_det
from resdet.evaluation.imagenet_files import (
    class_numbers,
    read_det_blacklist,
    read_det_predictions,
    read_loc_blacklist,
    read_loc_predictions,
    write_det_predictions,
    write_kaggle_guesses,
    write_loc_predictions,
)
from resdet.evaluation.imagenet_loc import evaluate_loc
from resdet.evaluation.inclusive import PixelDetections
from resdet.evaluation.result_files import read_coco_results
from resdet.files.writing import make_folder

Runs = str | Path | Sequence[str | Path]
"""A run folder or checkpoint, or several."""

FORMATS = {"det": "imagenet_det", "loc": "imagenet_loc"}
"""By task: the metric, and the format that ground truth is expected in."""

SUBMISSIONS = {"det": "det_predictions.txt", "loc": "loc_predictions.txt"}
KAGGLE = "loc_kaggle.csv"
WNID = re.compile(r"n\d{8}")


def eval_imagenet_command(
    *,
    task: str,
    run: Runs | None = None,
    overrides: Sequence[str] = (),
    loc: LocOptions | None = None,
    detections: str | Path | None = None,
    annotations: str | Path | Sequence[str | Path] | None = None,
    format: str | None = None,
    ground_truth: str | Path | None = None,
    blacklist: str | Path | None = None,
    submission: bool = False,
    strict: bool = False,
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> Result:
    """Evaluate, print the tables, and write eval.json, per_class.csv and the PR curves of DET.

    `task` is det or loc. Either `run`, evaluated on its data.val with config `overrides`; runs of
    loc need `loc`, and several are an ensemble. Or `detections`, a prediction file of the devkit
    (for det also COCO records in a .json), with `annotations` in `format` (imagenet_det or
    imagenet_loc by default). `ground_truth` is the devkit's file of class numbers, which number the
    classes of loc; None takes category ids. `blacklist` is the devkit's list of what is not
    evaluated. `submission` writes a prediction file, too. Raises UserError for a wrong combination.
    """
    loc = loc or LocOptions()
    of_run = {"key=value": overrides, "--device": device, "--precision": precision, **loc.given()}
    check_out(out, run)
    check_sources(run, detections, annotations, of_run, {"--format": format})
    only_loc = {**loc.given(), "--ground-truth": ground_truth}
    for name in (name for name, given in only_loc.items() if given and task == "det"):
        raise UserError(f"{name} is for --task loc; leave it out")
    if run is not None and ground_truth is not None and not submission:
        raise UserError(
            "--ground-truth numbers the classes of files: of --detections, or of the --submission "
            "of a run; leave it out, or add --submission"
        )
    if run is not None:
        changes = [*overrides, *([] if blacklist is None else [f"eval.blacklist={blacklist}"])]
        on: dict[str, Any] = {"device": device, "precision": precision, "strict": strict}
        evaluate = partial(_evaluate_loc, options=loc) if task == "loc" else _evaluate_det
        result, folder = evaluate(run, changes, **on)
    else:
        assert detections is not None and annotations is not None
        truth, notes = read_truth(annotations, format or FORMATS[task], detections, strict=strict)
        if task == "det":
            result = _evaluate_det_file(truth, detections, blacklist)
        else:
            result = _evaluate_loc_file(truth, detections, blacklist, ground_truth)
        folder = finish_files(result, notes, detections, strict=strict)
    folder = Path(out or folder)
    submit = partial(write_submission, result, task, folder, ground_truth)
    write_result(result, folder, submit if submission else None)
    return result


def _evaluate_loc(
    run: Runs, overrides: Sequence[str], *, options: LocOptions, **on: Any
) -> tuple[Result, Path]:
    from resdet.commands.localization_run import evaluate_loc_runs

    runs = [run] if isinstance(run, str | Path) else run
    return evaluate_loc_runs(runs, overrides, options=options, **on)


def _evaluate_det(run: Runs, overrides: Sequence[str], **on: Any) -> tuple[Result, Path]:
    return evaluate_run_on_val(run, overrides, metrics=("imagenet_det",), **on)


def _evaluate_det_file(
    truth: AnnotationTable, detections: str | Path, blacklist: str | Path | None
) -> Result:
    if Path(detections).suffix == ".json":
        boxes = read_coco_results(detections, truth)
    else:
        boxes = read_det_predictions(detections, truth)
    banned = None if blacklist is None else read_det_blacklist(blacklist, truth)
    return evaluate_det(truth, boxes, banned)


def _evaluate_loc_file(
    truth: AnnotationTable,
    detections: str | Path,
    blacklist: str | Path | None,
    ground_truth: str | Path | None,
) -> Result:
    numbers = None if ground_truth is None else class_numbers(ground_truth, truth)
    guesses = read_loc_predictions(detections, truth, numbers)
    banned = None if blacklist is None else read_loc_blacklist(blacklist, truth)
    return evaluate_loc(truth, guesses, banned)


def write_submission(
    result: Result, task: str, folder: Path, ground_truth: str | Path | None = None
) -> list[Path]:
    """Write a prediction file of the devkit into `folder` and, of loc with wnids for classes, one
    for Kaggle; returns their paths.

    `ground_truth` is the devkit's file of class numbers, which number the classes of loc; None
    writes category ids.
    """
    truth, detections = result.truth, result.detections
    if truth is None or not isinstance(detections, PixelDetections):
        raise UserError(
            "--submission: the metric of this run is not ImageNet's; set "
            f"eval.metric={FORMATS[task]}"
        )
    make_folder(folder)
    if task == "det":
        return [write_det_predictions(folder / SUBMISSIONS["det"], truth, detections)]
    numbers = None
    if ground_truth is not None:
        known = class_numbers(ground_truth, truth).items()
        numbers = {label: number for number, label in known if label >= 0}
    paths = [write_loc_predictions(folder / SUBMISSIONS["loc"], truth, detections, numbers)]
    if all(WNID.fullmatch(name) for name in truth.class_names):
        paths.append(write_kaggle_guesses(folder / KAGGLE, truth, detections))
    return paths
