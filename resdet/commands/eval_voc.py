"""What `resdet eval-voc` runs: PASCAL VOC's AP of a run or of result files, and submissions."""

import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resdet.commands.evaluate_run import (
    check_out,
    check_sources,
    evaluate_run_on_val,
    finish_files,
    read_truth,
    write_result,
)
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation import Result
from resdet.evaluation.inclusive import PixelDetections
from resdet.evaluation.result_files import read_coco_results
from resdet.evaluation.voc import evaluate_voc
from resdet.evaluation.voc_files import read_voc_results, write_voc_results
from resdet.files.writing import make_folder

logger = logging.getLogger("resdet")

SUBMISSION = "voc_results.tar.gz"


def eval_voc_command(
    *,
    run: str | Path | Sequence[str | Path] | None = None,
    overrides: Sequence[str] = (),
    detections: str | Path | None = None,
    annotations: str | Path | Sequence[str | Path] | None = None,
    format: str | None = None,
    year: int | None = None,
    overlap: str | None = None,
    submission: bool = False,
    strict: bool = False,
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> Result:
    """Evaluate, print the tables, and write eval.json, per_class.csv and the PR curves.

    Either `run` (several are an ensemble), evaluated on its data.val with config `overrides`, or
    `detections` (a folder or archive of VOC's files, one of them, or COCO records in a .json) with
    `annotations` in `format` (voc by default). `year` 2007 takes the mean over 11 points, 2010 to
    2012 the area; None is the metric of a run if it is VOC's, and for files 2007 where the path of
    the ground truth has that year; else the area. `overlap` is inclusive or exclusive. `submission`
    writes the archive for VOC's server, too. Raises UserError for a wrong combination.
    """
    of_run = {"key=value": overrides, "--device": device, "--precision": precision}
    check_out(out, run)
    check_sources(run, detections, annotations, of_run, {"--format": format})
    if run is not None:
        changes = list(overrides)
        if year is not None:
            changes.append(f"eval.metric={_metric(year)}")
        if overlap is not None:
            changes.append(f"eval.overlap={overlap}")
        result, folder = evaluate_run_on_val(
            run,
            changes,
            metrics=("voc12", "voc07"),
            device=device,
            precision=precision,
            strict=strict,
        )
    else:
        assert detections is not None and annotations is not None
        truth, notes = read_truth(annotations, format or "voc", detections, strict=strict)
        boxes = read_results(detections, truth)
        metric = _metric(year or _year_of(truth))
        result = evaluate_voc(truth, boxes, metric, overlap=overlap or "inclusive")
        folder = finish_files(result, notes, detections, strict=strict)
    folder = Path(out or folder)
    write_result(result, folder, partial(write_submission, result, folder) if submission else None)
    return result


def read_results(path: str | Path, truth: AnnotationTable) -> PixelDetections:
    """VOC's result files, or COCO records in a .json file."""
    if Path(path).suffix == ".json":
        return read_coco_results(path, truth)
    return read_voc_results(path, truth)


def write_submission(result: Result, folder: Path) -> list[Path]:
    """Write the archive for VOC's server into `folder`; returns its path, alone."""
    truth = result.truth
    assert truth is not None, "a detector's metric"
    list_file = Path(truth.files[0])
    subset = list_file.stem if re.fullmatch(r"[A-Za-z0-9]+", list_file.stem) else "test"
    if len(truth.files) > 1:
        raise UserError(
            f"--submission: {truth.source} are several lists, and VOC's files are of one year and "
            "set; give one list"
        )
    make_folder(folder)
    year = _year_of(truth)
    archive = folder / SUBMISSION
    return [write_voc_results(archive, truth, result.detections, year=year, subset=subset)]


def _metric(year: int) -> str:
    return "voc07" if year < 2010 else "voc12"


def _year_of(truth: AnnotationTable) -> int:
    """The year in the path of the ground truth, else 2012."""
    match = re.search(r"VOC(20\d\d)", truth.files[0])
    return int(match[1]) if match else 2012
