"""Training loss and validation metrics of detectors' and localizers' runs, from their log.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.analysis.curves import FINAL_SHARE, network_of, points, read_run_log, run_names
from resdet.errors import UserError


@dataclass
class DetectorCurve:
    """One run over its iterations."""

    name: str
    network: str
    """Name of the backbone; empty if the run's config can't be read."""
    loss: NDArray[np.float64]
    """(N, 2): iteration, training loss."""
    metrics: dict[str, NDArray[np.float64]]
    """By name, such as bbox AP: (M, 2) iteration, value; higher is better."""

    @property
    def steps(self) -> int:
        """The last iteration in the log; 0 before the first line."""
        every = [self.loss, *self.metrics.values()]
        return max((int(values[-1, 0]) for values in every if len(values)), default=0)

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last lines; see `FINAL_SHARE`."""
        count = max(1, math.ceil(FINAL_SHARE * len(self.loss)))
        return float(self.loss[-count:, 1].mean()) if len(self.loss) else None

    def final(self, metric: str) -> float | None:
        values = self.metrics.get(metric)
        return float(values[-1, 1]) if values is not None and len(values) else None

    def best(self, metric: str) -> float | None:
        values = self.metrics.get(metric)
        return float(values[:, 1].max()) if values is not None and len(values) else None


def are_detectors(runs: Sequence[str]) -> bool:
    """Whether the runs are detectors' or localizers', by what their logs hold.

    UserError if some are and others are classifiers', or a log can't be read.
    """
    logs = [(run, read_run_log(run)) for run in runs]
    named = [run for run, records in logs if any(map(_is_detectors, records))]
    others = [run for run, records in logs if any(map(_is_classifiers, records))]
    if named and others:
        raise UserError(
            f"--curves: {named[0]} is a detector's run and {others[0]} a classifier's; compare "
            "runs of one kind"
        )
    return bool(named)


def _is_classifiers(record: Mapping[str, Any]) -> bool:
    return "error_percent" in record or "top1_percent" in record.get("eval", {})


def _is_detectors(record: Mapping[str, Any]) -> bool:
    return ("loss" in record or "eval" in record) and not _is_classifiers(record)


def read_detector_curves(runs: Sequence[str]) -> list[DetectorCurve]:
    """The curves of run folders, or of checkpoints in them. UserError for one without a log."""
    curves = []
    for run, name in zip(runs, run_names(runs), strict=True):
        records = read_run_log(run)
        values: dict[str, list[tuple[int, Any]]] = {}
        for record in records:
            for metric, value in _main_numbers(record.get("eval") or {}):
                # -1 is COCO's value where there is nothing to find
                values.setdefault(metric, []).append(
                    (record["step"], None if value == -1 else value)
                )
        loss = points([(record["step"], record.get("loss")) for record in records])
        metrics = {metric: points(pairs) for metric, pairs in values.items()}
        curves.append(DetectorCurve(name, network_of(run), loss, metrics))
    return curves


def _main_numbers(summary: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The first number of each group of metrics, or of metrics without groups."""
    groups = {name: each for name, each in summary.items() if isinstance(each, Mapping) and each}
    for name, numbers in groups.items():
        key, value = next(iter(numbers.items()))
        yield f"{name} {key}", value
    if not groups:
        yield from list(summary.items())[:1]


def metric_names(curves: Sequence[DetectorCurve]) -> list[str]:
    """Of all runs, each once."""
    return list(dict.fromkeys(metric for curve in curves for metric in curve.metrics))


def detector_table(curves: Sequence[DetectorCurve]) -> tuple[list[str], list[list[str]]]:
    """Header, and per run iterations, final loss, and the last and best value of each metric."""
    names = metric_names(curves)
    header = ["run", "network", "iterations", "training loss"]
    header += [text for name in names for text in (name, "best")]
    rows = [
        [
            curve.name,
            curve.network or "?",
            f"{curve.steps:,}",
            _number(curve.final_loss),
            *(_number(v) for name in names for v in (curve.final(name), curve.best(name))),
        ]
        for curve in curves
    ]
    return header, rows


def detector_records(curves: Sequence[DetectorCurve]) -> list[dict[str, Any]]:
    """Plain values for a file; None if a run has none yet."""
    return [
        {
            "run": curve.name,
            "network": curve.network,
            "iterations": curve.steps,
            "train_loss": curve.final_loss,
            **{name: curve.final(name) for name in metric_names(curves)},
            **{f"best {name}": curve.best(name) for name in metric_names(curves)},
        }
        for curve in curves
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
