"""Training and validation error of classifiers' runs, read from their log.jsonl."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.config.find import own_path
from resdet.config.strict_yaml import ConfigError, parse
from resdet.errors import UserError
from resdet.files.run_log import read_log
from resdet.interop.loaded import value_at

FINAL_SHARE = 0.05
"""Share of the training lines, at the end, whose mean is the final training error."""


@dataclass
class Curve:
    """The errors of one run over its iterations, in percent."""

    name: str
    network: str
    """Name of the backbone; empty if the run's config can't be read."""
    family: str
    """plain, residual or other."""
    train: NDArray[np.float64]
    """(N, 2): iteration, training error of the batches since the previous line, 0..100."""
    val: NDArray[np.float64]
    """(M, 2): iteration, top-1 error on the validation images, 0..100."""

    @property
    def steps(self) -> int:
        """The last iteration in the log; 0 before the first line."""
        ends = [int(points[-1, 0]) for points in (self.train, self.val) if len(points)]
        return max(ends, default=0)

    @property
    def final_train(self) -> float | None:
        """Mean training error of the last lines; see `FINAL_SHARE`."""
        if not len(self.train):
            return None
        count = max(1, math.ceil(FINAL_SHARE * len(self.train)))
        return float(self.train[-count:, 1].mean())

    @property
    def final_val(self) -> float | None:
        return float(self.val[-1, 1]) if len(self.val) else None

    @property
    def best_val(self) -> float | None:
        return float(self.val[:, 1].min()) if len(self.val) else None


def run_names(runs: Sequence[str]) -> list[str]:
    """Distinct names of runs: the folder's, or the whole path if that is not distinct."""
    short = [_folder(run).resolve().name for run in runs]
    return [name if short.count(name) == 1 else run for name, run in zip(short, runs, strict=True)]


def read_curves(runs: Sequence[str]) -> list[Curve]:
    """The curve of each run folder, or of a checkpoint in it. UserError as in `read_curve`."""
    return [read_curve(run, name) for run, name in zip(runs, run_names(runs), strict=True)]


def read_curve(run: str, name: str) -> Curve:
    """The errors in a classifier's log.jsonl; a truncated line is ignored.

    Raises UserError for a folder without a log.
    """
    records = read_run_log(run)
    train = [(r["step"], r.get("error_percent")) for r in records if "loss" in r]
    top1 = [(r["step"], r["eval"].get("top1_percent")) for r in records if "eval" in r]
    val = [(step, 100 - value if _is_number(value) else None) for step, value in top1]
    network = network_of(run)
    return Curve(name, network, family_of(network or name), points(train), points(val))


def read_run_log(run: str) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl; UserError without one."""
    path = _folder(run) / "log.jsonl"
    try:
        return read_log(path)
    except OSError as error:
        raise UserError(
            f"{run}: {path} cannot be read ({error.strerror}); give the folder of a run"
        ) from None


def family_of(network: str) -> str:
    """plain, residual or other, by the name of a backbone."""
    if "plain" in network:
        return "plain"
    return "residual" if re.search(r"res(net|idual)", network) else "other"


def _folder(run: str) -> Path:
    path = own_path(run)
    return path.parent if path.is_file() else path


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def points(pairs: Sequence[tuple[int, Any]]) -> NDArray[np.float64]:
    """(N, 2): the pairs with a number, in the order of steps."""
    known = sorted((step, float(value)) for step, value in pairs if _is_number(value))
    return np.array(known, dtype=np.float64).reshape(-1, 2)


def network_of(run: str) -> str:
    """`model.backbone.name` of a run's config, whatever else is in it."""
    path = _folder(run) / "config.yaml"
    try:
        values: Any = parse(path.read_text(encoding="utf-8"), path.name).values
    except (OSError, UnicodeDecodeError, ConfigError):
        return ""
    name = value_at(values, "model.backbone.name")
    return name if isinstance(name, str) else ""


def curve_table(curves: Sequence[Curve]) -> tuple[list[str], list[list[str]]]:
    """Header, and per run iterations, final training and validation error, best validation."""
    header = ["run", "network", "iterations", "training error %", "validation error %", "best %"]
    rows = [
        [
            curve.name,
            curve.network or "?",
            f"{curve.steps:,}",
            *(_percent(v) for v in (curve.final_train, curve.final_val, curve.best_val)),
        ]
        for curve in curves
    ]
    return header, rows


def curve_records(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Plain values for a file, in percent; None if a run has none yet."""
    return [
        {
            "run": curve.name,
            "network": curve.network,
            "iterations": curve.steps,
            "train_error_percent": curve.final_train,
            "val_error_percent": curve.final_val,
            "best_val_error_percent": curve.best_val,
        }
        for curve in curves
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
