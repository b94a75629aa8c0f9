"""What `resdet report` runs: one page on a run, or on several side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from resdet.commands.eval_cls import evaluate_classifier, write_scores
from resdet.commands.evaluate_run import folder_of
from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.find import own_path
from resdet.config.loading import AnyConfig, config_from_dict, load_any_config, override_config
from resdet.data.detection.split import Split
from resdet.engine.evaluate_detection import evaluate_run, val_data_of_run
from resdet.engine.localization_runs import evaluate_localization_run
from resdet.engine.run_folder import stored_split
from resdet.errors import Incomplete, UserError, first_few
from resdet.evaluation.stored import FILE as PREDICTIONS
from resdet.evaluation.stored import Stored, read_stored
from resdet.factory import (
    build_classification_train_data,
    build_classification_val_data,
    build_val_data,
)
from resdet.factory.detection_data import read_train_table
from resdet.factory.localization_data import build_localization_val_data
from resdet.files.exported import is_exported, needs_run
from resdet.files.writing import check_folder, make_folder
from resdet.report.build import FILE, write_report
from resdet.report.source import RunSource

logger = logging.getLogger("resdet")

CHECKPOINTS = ("best.pt", "last.pt")


def report_command(
    *,
    runs: Sequence[str | Path],
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> Path:
    """Write the page on some run folders; returns its path.

    A run whose predictions are not stored is evaluated first, on `device` and in `precision`, and
    its results are written as eval-coco and eval-cls do. `overrides` go on top of the config of the
    evaluation, such as paths of data that has moved. `out` is the run's report.html, or
    runs/report_<names>.html. UserError for what is not a run; Incomplete, after the page is
    written, where something of a run could not be computed.
    """
    folders = [_folder(run) for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder} is given twice; name each run once")
    path = _out(folders, out)
    sources = [_open(folder, overrides, device, precision) for folder in folders]
    make_folder(path.parent)
    write_report(sources, path)
    print(f"written: {path}")
    reasons = [reason for source in sources for reason in source.notes]
    if reasons:
        raise Incomplete("; ".join(reasons))
    return path


def _folder(run: str | Path) -> Path:
    """The run's folder, of which one of its checkpoints may be given; UserError without one."""
    path = own_path(run)
    if is_exported(path):
        raise UserError(needs_run(run))
    folder = path.parent if path.is_file() else path
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{run}: is not a run folder, as it has no config.yaml; give a trained run")
    return folder


def _out(folders: Sequence[Path], out: str | Path | None) -> Path:
    """Where the page goes; UserError where it can't be written, before anything is computed."""
    if out is None and len(folders) == 1:
        path = folders[0] / FILE
    elif out is None:
        name = folder_of(list(folders)).name.replace("eval_", "report_", 1)
        path = Path("runs") / f"{name}.html"
    else:
        path = Path(out)
        if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
            raise UserError(f"--out {out}: give the file of the page, such as runs/report.html")
    check_folder(path.parent)
    return path


def _open(
    folder: Path, overrides: Sequence[str], device: str | None, precision: str | None
) -> RunSource:
    """A run with its predictions and data; what of them is missing is a note."""
    config = load_any_config(folder / "config.yaml")
    notes: list[str] = []
    stored, evaluated, val = None, override_config(config, overrides, str(folder)), None
    try:
        stored = _stored(folder, evaluated, overrides, device, precision)
        if stored is not None:
            evaluated = config_from_dict(stored.config, str(stored.path))
            evaluated = override_config(evaluated, overrides, str(stored.path))
            val = _val_data(evaluated, folder, stored)
    except UserError as error:
        notes.append(f"{folder}: no errors and images are shown: {error}")
    train = None
    try:
        train = _train_data(override_config(config, overrides, str(folder)), folder, stored)
    except UserError as error:
        notes.append(f"{folder}: no statistics of data.train are shown: {error}")
    return RunSource(folder, config, evaluated, stored, val, train, notes)


def _stored(
    folder: Path,
    config: AnyConfig,
    overrides: Sequence[str],
    device: str | None,
    precision: str | None,
) -> Stored | None:
    """The run's predictions, made now where there are none or damaged ones; None for a run without
    validation data or of a metric of the user's own, whose predictions are not kept."""
    if (folder / PREDICTIONS).is_file():
        with suppress(UserError):
            return read_stored(folder)
        logger.warning(f"{folder / PREDICTIONS}: is damaged, and made again")
    data: Any = config.data
    if data.val is None and getattr(data, "split", None) is None:
        return None
    if not any((folder / name).is_file() for name in CHECKPOINTS):
        raise UserError(f"it has neither {' nor '.join(CHECKPOINTS)} to be evaluated")
    logger.info(f"{folder}: has no stored predictions; it is evaluated first")
    if isinstance(config, DetectionConfig):
        _, validation = evaluate_run(folder, overrides, device=device, precision=precision)
        validation.result.write(folder)
    elif isinstance(config, ClassificationConfig):
        scores, views = evaluate_classifier(
            str(folder), overrides, device=device, precision=precision, folder=folder
        )
        write_scores(scores, views, folder, folder.name, weights=str(folder))
    else:
        _, validation = evaluate_localization_run(
            [folder], overrides, device=device, precision=precision
        )
        validation.result.write(folder)
    return read_stored(folder) if (folder / PREDICTIONS).is_file() else None


def _val_data(config: AnyConfig, folder: Path, stored: Stored) -> Any:
    """The data set of the evaluation."""
    if isinstance(config, ClassificationConfig):
        return build_classification_val_data(config, classes=stored.class_names)

    def build(split: Split | None) -> Any:
        if isinstance(config, DetectionConfig):
            return build_val_data(config, stored=split)
        return build_localization_val_data(config, stored=split)

    return val_data_of_run(config, folder, str(folder), build)[0]


def _train_data(config: AnyConfig, folder: Path, stored: Stored | None) -> Any:
    """The annotations that the run trained on, or the labels of a classifier's images; UserError
    where these are of other classes than the predictions."""
    if isinstance(config, ClassificationConfig):
        data = build_classification_train_data(config)
        if stored is not None and list(data.class_names) != stored.class_names:
            raise UserError(
                f"its classes are {first_few(data.class_names)}, and those of the run are "
                f"{first_few(stored.class_names)}; give the folder that it was trained on"
            )
        return data.labels
    split = stored_split(folder) if config.data.split is not None else None
    return read_train_table(config, split)
