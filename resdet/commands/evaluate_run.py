"""What the commands that evaluate detectors share: the run, the tables, the files written.

Files alone are evaluated without torch.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resdet.config.detection import DetectionConfig
from resdet.config.localization import LocalizationConfig
from resdet.data.detection.plausibility import check_annotations
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import Incomplete, UserError
from resdet.evaluation import Result
from resdet.evaluation.conventions import XYWH, XYXY, describe_results
from resdet.evaluation.inclusive import PixelDetections
from resdet.files.exported import is_exported
from resdet.files.findings import DataError, Finding, strict_error, summarize_findings
from resdet.files.lock import held_by
from resdet.files.writing import check_folder

logger = logging.getLogger("resdet")


def evaluate_run_on_val(
    run: str | Path | Sequence[str | Path],
    overrides: Sequence[str],
    *,
    metrics: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    device: str | None = None,
    precision: str | None = None,
    strict: bool = False,
) -> tuple[Result, Path]:
    """A run on its data.val, its validation loss printed; and the folder of its results. Several
    runs are an ensemble, on the data.val of the first.

    `metrics` are those that a command evaluates, the run's own if it is among them, else the first;
    None is the run's own.
    """
    from resdet.engine.evaluate_detection import evaluate_run

    config, validation = evaluate_run(
        run,
        overrides,
        metrics=metrics,
        kinds=kinds,
        device=device,
        precision=precision,
        strict=strict,
    )
    if validation.loss is not None:
        parts = "  ".join(f"{name} {value:.4f}" for name, value in validation.losses.items())
        print(f"validation loss {validation.loss:.4f}  ({parts})\n")
    return validation.result, folder_of_part(run, config)


def folder_of(run: str | Path | Sequence[str | Path]) -> Path:
    """Where results go by default: a run's own folder, else a folder of their name below runs/."""
    from resdet.interop.weights import is_published

    runs = [run] if isinstance(run, str | Path) else list(run)
    if len(runs) == 1 and not is_published(str(runs[0])) and not is_exported(runs[0]):
        return Path(runs[0]) if Path(runs[0]).is_dir() else Path(runs[0]).parent
    names = []
    for each in runs:
        path = Path(each).resolve()
        if is_published(str(each)):
            names.append(str(each))
        else:
            names.append(path.name if path.is_dir() else f"{path.parent.name}_{path.stem}")
    plain = [re.sub(r"[^-.A-Za-z0-9]+", "_", name) for name in names]
    return Path("runs") / ("eval_" + "+".join(plain))[:100]


def folder_of_part(
    run: str | Path | Sequence[str | Path], config: DetectionConfig | LocalizationConfig
) -> Path:
    """`folder_of`, with a folder of its own for the test part of data.split."""
    folder, split = folder_of(run), config.data.split
    return folder if split is None or split.evaluate == "val" else folder / split.evaluate


def check_out(out: str | Path | None, run: str | Path | Sequence[str | Path] | None = None) -> None:
    """UserError where the results can't be written, before they are computed: `out`, or the default
    of a run, is a file or may not be written."""
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"--out {out}: is a file; give a folder, which is made if it is not there")
    if out is not None or run is not None:
        check_folder(out if out is not None else folder_of(run or ()))


def check_sources(
    run: str | Path | Sequence[str | Path] | None,
    detections: str | Path | None,
    annotations: Any,
    of_run: Mapping[str, Any],
    of_files: Mapping[str, Any],
) -> None:
    """UserError unless there is either a run, or detections with annotations.

    `of_run` and `of_files` are the arguments, by the names users know, that need the one or other.
    """
    if (run is None) == (detections is None):
        raise UserError(
            "give a run folder or checkpoint, or --detections RESULTS --annotations TRUTH"
        )
    if run is not None:
        if annotations is not None:
            raise UserError(
                "--annotations needs --detections; for a run set data.val.annotations=… "
                "and data.val.images=…"
            )
        for name in (name for name, given in of_files.items() if given):
            raise UserError(f"{name} needs --detections; a run has its config")
    else:
        for name in (name for name, given in of_run.items() if given):
            raise UserError(f"{name} needs a run; --detections are computed already")
        if annotations is None:
            raise UserError("--detections needs --annotations, the ground truth")


def read_truth(
    annotations: str | Path | Sequence[str | Path],
    format: str,
    detections: str | Path,
    *,
    strict: bool,
) -> tuple[AnnotationTable, list[str]]:
    """Ground truth without outlines, and notes on what was left out of it.

    `detections` are looked at where it can't be read: the two may be swapped.
    """
    files = [annotations] if isinstance(annotations, str | Path) else list(annotations)
    for file in (file for file in files if files.count(file) > 1):
        raise UserError(
            f"--annotations {file}: it is given twice, and its objects would count twice; give "
            "each file once"
        )
    findings: list[Finding] = []
    try:
        truth = read_annotations(annotations, findings, format=format, outlines=False)
    except DataError:
        if _is_truth(Path(detections)):
            raise UserError(
                f"--detections {detections} looks like ground truth, and --annotations {files[0]} "
                "can't be read as it; swap the two"
            ) from None
        raise
    check_annotations(truth, findings)
    if strict and findings:
        raise strict_error(findings)
    if not len(truth.image_ids):
        raise UserError(f"{truth.source}: it lists no images, so there is nothing to evaluate")
    return truth, summarize_findings(findings)


def _is_truth(path: Path) -> bool:
    """Whether a file or folder looks like XML annotations, or an object of COCO's, and not like
    detections."""
    if path.is_dir():
        return next(path.glob("*.xml"), None) is not None
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    return path.suffix.lower() == ".xml" or (path.suffix == ".json" and start[:1] == b"{")


def finish_files(
    result: Result, notes: Sequence[str], detections: str | Path, *, strict: bool
) -> Path:
    """Log the notes of an evaluation of files, those of the ground truth first; returns the default
    folder of its results. With `strict` whatever was left out of the detections is an error."""
    boxes = result.detections
    if strict and boxes.notes:
        raise UserError(f"{boxes.notes[0]} (--strict)")
    if isinstance(boxes, PixelDetections) and result.truth is not None:
        numbers, own = boxes.corners, XYXY
        if Path(detections).suffix == ".json":  # as the records of COCO have them
            sides = numbers[:, 2:] - numbers[:, :2] + 1
            numbers, own = np.concatenate([numbers[:, :2], sides], axis=1), XYWH
        columns = (boxes.images, boxes.labels, boxes.scores, numbers)
        result.notes[:0] = describe_results(result.truth, *columns, own)
    result.notes[:0] = notes
    result.log_notes()
    return Path("runs") / f"eval_{Path(detections).name.split('.')[0]}"


def note_training(folder: Path) -> None:
    """A warning where the results go into a run folder that a training writes to as well."""
    if (holder := held_by(folder)) is not None:
        logger.warning(
            f"{folder}: {holder} is training this run, and its next best validation replaces "
            "eval.json; give --out to keep these results"
        )


def write_result(
    result: Result, folder: Path, submission: Callable[[], Sequence[Path]] | None = None
) -> None:
    """Write eval.json, per_class.csv and the PR curves, and print the tables, even on a full disk.
    The files of `submission` come last, so that an error of it loses no result; after them comes
    Incomplete for a result that is a failure."""
    note_training(folder)
    paths: list[Path] = []
    try:
        paths += result.write(folder)
    finally:
        result.print_tables()
    try:
        paths += [] if submission is None else submission()
    finally:
        names = (str(path.relative_to(folder)) for path in paths)
        print(f"\nwritten to {folder}: {', '.join(names)}")
    if result.failure is not None:
        raise Incomplete(result.failure)
