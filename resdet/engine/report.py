"""The report of a run at its end: report.html in its folder."""

import logging
from typing import Any

from resdet.config.loading import config_from_dict
from resdet.engine.setup import Training
from resdet.engine.signals import StopRequest
from resdet.errors import UserError, command_line
from resdet.evaluation.stored import FILE as PREDICTIONS
from resdet.evaluation.stored import read_stored

logger = logging.getLogger("resdet")


def report_run(training: Training, stop: StopRequest) -> None:
    """Write the page, in the main process, where `log.report` asks for it. Whatever fails is a
    warning, as is a signal, which ends the writing: the run is complete without it."""
    t = training
    if not t.config.log.report or not t.processes.is_main:
        return
    later = f"the run is complete, and {command_line('report')} {t.folder} writes it later"
    try:
        with stop.heeded_at_once():
            _write(t)
    except KeyboardInterrupt:
        if not stop:
            raise
        logger.warning(f"{t.folder}: a signal ends the writing of the report; {later}")
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        logger.warning(f"{t.folder}: the report cannot be written ({reason}); {later}")


def _write(training: Training) -> None:
    from resdet.report.build import FILE, write_report
    from resdet.report.source import RunSource

    t = training
    stored = read_stored(t.folder) if (t.folder / PREDICTIONS).is_file() else None
    evaluated = t.config
    if stored is not None:
        evaluated = config_from_dict(stored.config, str(stored.path))
    train_data = _train_data(t.task.train_data)
    source = RunSource(t.folder, t.config, evaluated, stored, t.task.val_data, train_data)
    write_report([source], t.folder / FILE)


def _train_data(data: Any) -> Any:
    """The annotations of a detector's or localizer's images, or a classifier's labels."""
    # the crops of a localizer's R-CNN are cut from images
    for each in (data, getattr(data, "images", None)):
        table = getattr(each, "table", None)
        if table is not None:
            return table
    return data.labels
