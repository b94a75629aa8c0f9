"""Experiment trackers that `log.trackers` names: they get what TensorBoard gets, the config, and
the plots."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from resdet.errors import UserError, did_you_mean
from resdet.files.json import read_json
from resdet.files.writing import write_json

logger = logging.getLogger("resdet")

IDS_FILE = "trackers.json"
"""In the run folder: each tracker's own id of the run, which a resumed run continues."""
PROJECT = "resdet"
MAX_PARAMS = 100
"""That MLflow takes at once."""


class Tracker(Protocol):
    """One tracker; an error of any method ends the tracker, never the run."""

    package: str | None
    """What has to be installed."""
    run_id: str
    """By which the tracker finds the run again."""

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        """Start a run, or continue `run_id`. `folder` is the run folder, `config` plain values."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Losses (train/loss), the rate, and metrics (bbox/AP, eval/top1_percent) of a step."""

    def picture(self, name: str, path: Path) -> None:
        """A plot or drawn images, as PNG or JPEG."""

    def close(self) -> None:
        """The run ends, or was stopped."""


class WandbTracker:
    """Weights & Biases; WANDB_PROJECT, WANDB_MODE and so on are its own settings."""

    package: str | None = "wandb"

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(folder),
            dir=str(folder),
            config=dict(config),
            allow_val_change=True,
            id=run_id,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        self.run_id = self._run.id
        # its own count of steps never goes back, as a resumed run's does
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    def picture(self, name: str, path: Path) -> None:
        self._run.log({name: self._image(str(path))})

    def close(self) -> None:
        self._run.finish()


class MlflowTracker:
    """MLflow; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME are its own settings."""

    package: str | None = "mlflow"

    def __init__(self, folder: Path, config: Mapping[str, Any], run_id: str | None) -> None:
        # a store of files has to be allowed, from MLflow 3.7 on; it is the simplest one
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, mlflow.MlflowClient()
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        place = self._client.create_experiment(name) if found is None else found.experiment_id
        self.run_id = self._client.create_run(place, run_name=run_name(folder)).info.run_id
        params = [Param(key, str(value)) for key, value in flat(config).items()]
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=params[first : first + MAX_PARAMS])

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        # names have letters, digits, spaces and these signs only
        named = {re.sub(r"[^\w\-./: ]", "_", name): value for name, value in numbers.items()}
        metrics = [self._metric(name, value, now, step) for name, value in named.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def picture(self, name: str, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path), "plots")

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


TRACKERS: dict[str, type[Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}
"""By name in `log.trackers`; a module in `imports` may add its own."""


def check_trackers(names: Sequence[str]) -> None:
    """UserError for a name without a tracker, and for one whose package is missing."""
    for name in names:
        if name not in TRACKERS:
            known = f"known are {', '.join(TRACKERS)}"
            raise UserError(
                f"log.trackers: no tracker {name!r}; {did_you_mean(name, TRACKERS, known)}"
            )
        package = TRACKERS[name].package
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(
                f"log.trackers: {name} needs the package {package}, which is not installed; "
                f"pip install {package}, or take {name} out of log.trackers"
            )


class Trackers:
    """Those of a run, in its main process. One that fails is left out from there on, with a
    warning."""

    def __init__(self, names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> None:
        """Starts them, or continues the runs whose ids are in the run folder."""
        self.folder = folder
        self.running: dict[str, Tracker] = {}
        self._ids: dict[str, Any] = {}
        self._guarded(IDS_FILE, self._read_ids)
        for name in dict.fromkeys(names):
            self._guarded(name, self._start, name, config)
        self._guarded(IDS_FILE, write_json, folder / IDS_FILE, self._ids)

    def _read_ids(self) -> None:
        if (self.folder / IDS_FILE).is_file():
            self._ids.update(read_json(self.folder / IDS_FILE, "ids of trackers"))

    def _start(self, name: str, config: Mapping[str, Any]) -> None:
        run_id = self._ids.get(name)
        known = run_id if isinstance(run_id, str) else None
        self.running[name] = TRACKERS[name](self.folder, config, known)
        self._ids[name] = self.running[name].run_id

    def log(self, prefix: str, values: Mapping[str, Any], step: int) -> None:
        """The numbers among `values`, each as prefix/name."""
        numbers = {
            f"{prefix}/{name}": float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and name != "step"
        }
        for name, tracker in list(self.running.items()):
            self._guarded(name, tracker.log, numbers, step)

    def close(self) -> None:
        """Hand over the plots of the run folder, and end."""
        plots = self.folder / "plots"
        pictures = sorted(path for path in plots.glob("*.*") if path.suffix in (".png", ".jpg"))
        for name, tracker in list(self.running.items()):
            for path in pictures:
                self._guarded(name, tracker.picture, f"plots/{path.stem}", path)
            self._guarded(name, tracker.close)
        self.running.clear()

    def _guarded(self, name: str, action: Callable[..., object], *arguments: object) -> None:
        """Do it; after an error the tracker of that name gets nothing more."""
        try:
            action(*arguments)
        except Exception as error:
            self.running.pop(name, None)
            reason = f"{type(error).__name__}: {error}"
            logger.warning(f"log.trackers: {name} fails ({reason}). Training continues without it")


def run_name(folder: Path) -> str:
    """What trackers call a run: its folder, and of one of several seeds the folder above it."""
    path = folder.resolve()
    is_seed = re.fullmatch(r"seed_\d+", path.name)
    return f"{path.parent.name}/{path.name}" if is_seed else path.name


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
