"""Curves as PNG files: training (losses, learning rate, metrics) and precision–recall.

They do not use pyplot and its global state, so that training loops can draw them.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resdet.errors import printable
from resdet.files.writing import make_folder, open_atomic

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", "#000000")
"""Okabe & Ito's palette, which colour-blind people can distinguish too."""
_MAX_CLASS_CURVES = 30


def plot_training(log_records: Sequence[Mapping[str, Any]], out_dir: str | Path) -> list[Path]:
    """Draw losses.png, lr.png and metrics.png from the lines of log.jsonl; returns what was
    written.

    Training records have step, loss, each named loss_…, lr and, of classifiers, error_percent;
    evaluation records have step, eval (numbers by name, or by group and name) and perhaps val_loss.
    A plot without any record is not written.
    """
    out = make_folder(out_dir)
    written = []
    train = [record for record in log_records if "loss" in record]
    evals = [r for r in log_records if r.get("eval") or _val_loss(r) is not None]
    if train:
        written.append(_plot_losses(train, evals, out / "losses.png"))
    if any("lr" in record for record in train):
        written.append(_plot_lr(train, out / "lr.png"))
    metrics = [record for record in evals if record.get("eval")]
    if metrics:
        written.append(_plot_metrics(train, metrics, out / "metrics.png"))
    return written


def plot_pr_curves(precision: np.ndarray, path: str | Path, *, title: str) -> Path:
    """Draw precision over recall at IoU .50, .75 and the mean of .50….95, averaged over classes.

    `precision` is (10, 101, K) at IoU .50….95 and recall 0….1, or (1, 101, K) at IoU .50 alone; -1
    for classes without objects, which are left out. Up to 30 classes have their own curve at IoU
    .50 behind them in gray.
    """
    present = precision[:, :, (precision > -1).any(axis=(0, 1))]
    recall = np.linspace(0, 1, precision.shape[1])
    figure, axes = new_figure(title, width=6.4, height=5.2)
    if present.shape[2]:
        if 1 < present.shape[2] <= _MAX_CLASS_CURVES:
            alpha = min(0.6, 4 / present.shape[2])
            for index in range(present.shape[2]):
                label = "each class, IoU .50" if index == 0 else None
                curve = present[0, :, index]
                axes.plot(recall, curve, color="0.45", lw=0.8, alpha=alpha, label=label)
        curves = {"IoU .50": present[0].mean(axis=1)}
        if len(present) > 1:
            curves["IoU .75"] = present[5].mean(axis=1)
            curves["mean of .50 to .95"] = present.mean(axis=(0, 2))
        for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
            # of one threshold the metric has its own way to take the area
            label = f"{name}: AP {curve.mean():.3f}" if len(present) > 1 else "mean over classes"
            axes.plot(recall, curve, color=color, lw=2.2, label=label)
        axes.fill_between(recall, curve, color=color, alpha=0.10, lw=0)
        legend = axes.legend(loc="lower left", framealpha=0.92)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    else:
        axes.text(0.5, 0.5, "no ground-truth objects", ha="center", color="0.4")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    return save_figure(figure, path)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` of (N,) values, fewer at the ends.

    Values that are not finite are ignored, and spikes are clipped at 1.5 times the 98th percentile,
    so that they do not hide the course of the rest.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return np.full(len(values), np.nan)
    known = values[finite]
    clipped = np.where(finite, np.minimum(values, 1.5 * np.percentile(known, 98)), 0.0)
    kernel = np.ones(min(window, len(values)) | 1)
    start = len(kernel) // 2
    total = np.convolve(clipped, kernel)[start : start + len(values)]
    count = np.convolve(finite.astype(np.float64), kernel)[start : start + len(values)]
    return np.where(count > 0.5, total / np.maximum(count, 1), np.nan)


def _plot_losses(
    train: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    names = list(dict.fromkeys(k for r in train for k in r if k.startswith("loss_")))
    if len(names) == 1:  # the same as the total
        names = []
    figure = Figure(figsize=(11 if names else 6.4, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if names else 1, squeeze=False)[0]
    window = len(train) // 20
    style(panels[0], "Total loss")
    tops = [_plot_smoothed(panels[0], train, "loss", "training", COLORS[0], window)]
    val = [(r["step"], v) for r in evals if (v := _val_loss(r)) is not None]
    if val:
        steps, values = zip(*val, strict=True)
        panels[0].plot(steps, values, "o-", color=COLORS[1], ms=4, lw=1.6, label="validation")
        tops.append(np.nanmax(values) if np.isfinite(values).any() else 0.0)
    _finish_losses(panels[0], max(tops))
    if names:
        style(panels[1], "Its terms")
        tops = [
            _plot_smoothed(panels[1], train, name, name, COLORS[i % len(COLORS)], window)
            for i, name in enumerate(names)
        ]
        _finish_losses(panels[1], max(tops))
    return save_figure(figure, path)


def _plot_smoothed(
    axes: Axes,
    records: Sequence[Mapping[str, Any]],
    key: str,
    label: str,
    color: str,
    window: int,
) -> float:
    """A faint raw line under a bold smoothed one; returns a height at which both are visible."""
    steps = [record["step"] for record in records if key in record]
    values = np.array([record[key] for record in records if key in record], dtype=np.float64)
    smoothed = smooth(values, window)
    axes.plot(steps, values, color=color, alpha=0.25, lw=0.9)
    axes.plot(steps, smoothed, color=color, lw=1.8, label=plot_text(label))
    finite = values[np.isfinite(values)]
    # A single spike must not flatten the rest.
    return float(max(np.percentile(finite, 98), np.nanmax(smoothed))) if finite.size else 0.0


def _finish_losses(axes: Axes, top: float) -> None:
    integer_ticks(axes)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, top * 1.08 if top > 0 else 1))
    axes.legend(loc="upper right", framealpha=0.92)


def _plot_lr(train: Sequence[Mapping[str, Any]], path: Path) -> Path:
    figure, axes = new_figure("Learning rate", width=6.4, height=3.6)
    points = [(record["step"], _float(record["lr"])) for record in train if "lr" in record]
    steps, rates = zip(*points, strict=True)
    axes.plot(steps, rates, color=COLORS[0], lw=2, marker="o" if len(points) == 1 else None)
    axes.set(xlabel="step", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
    return save_figure(figure, path)


def _plot_metrics(
    train: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    """The first number (bold) and the second (dashed) of each group over steps, the best marked;
    of classifiers also the accuracy in training."""
    figure, axes = new_figure("Validation", width=6.4, height=4.4)
    known = [record for record in train if record.get("error_percent") is not None]
    if known:
        values = [100 - record["error_percent"] for record in known]
        steps = [record["step"] for record in known]
        axes.plot(steps, values, color=COLORS[2], alpha=0.7, lw=1.2, label="accuracy in training")
    series = [(record["step"], _groups(record["eval"])) for record in evals]
    names = list(dict.fromkeys(group for _, groups in series for group in groups))
    for color, group in zip(COLORS, names, strict=False):
        first = next(groups[group] for _, groups in series if group in groups)
        for name, line in zip(first, ("-", "--"), strict=False):
            points = [(step, _float(groups.get(group, {}).get(name))) for step, groups in series]
            points = [(step, value) for step, value in points if value > -1]
            if not points:
                continue
            steps, values = map(list, zip(*points, strict=True))
            best = int(np.argmax(values))
            label = f"{group} {name.removesuffix('_percent')}: best {values[best]:.4g}"
            label = plot_text(label.strip())
            width = 2 if line == "-" else 1.4
            axes.plot(steps, values, "o", ls=line, lw=width, color=color, ms=3.5, label=label)
            if line == "-":
                axes.plot(steps[best], values[best], "o", ms=9, mfc="none", mec=color, mew=1.6)
    integer_ticks(axes)
    is_percent = any(
        name.endswith("_percent") for _, groups in series for name in groups.get("", ())
    )
    axes.set(xlabel="step", ylabel="percent" if is_percent else "fraction of 1")
    if axes.get_lines():
        axes.legend(loc="best", framealpha=0.92)
    return save_figure(figure, path)


def _groups(metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """A log line's metrics by group; numbers without one are group "", counts are left out."""
    groups = {name: dict(each) for name, each in metrics.items() if isinstance(each, Mapping)}
    plain = {name: each for name, each in metrics.items() if isinstance(each, float | None)}
    return {"": plain, **groups} if plain else groups


def _val_loss(record: Mapping[str, Any]) -> float | None:
    """The total validation loss of a record that has one."""
    value = record.get("val_loss")
    return None if value is None else float(value)


def _float(value: float | None) -> float:
    """A number of a log; NaN where it has none."""
    return math.nan if value is None else float(value)


def plot_text(text: str) -> str:
    """Text of a user's data for a plot: `printable`, and a $ is a $ and no formula."""
    return printable(text).replace("$", r"\$")


def new_figure(title: str, *, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` × `height` inches with one styled panel, `title` of one line or more."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    style(axes, title)
    return figure, axes


def style(axes: Axes, title: str) -> None:
    """The look of every panel."""
    lines = (plot_text(line) for line in title.split("\n"))
    axes.set_title("\n".join(lines), loc="left", fontweight="bold")
    axes.grid(color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def integer_ticks(axes: Axes, most: int = 7) -> None:
    """At most so many ticks on the x axis, at integers."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True))


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG atomically, so that a viewer never opens half a picture."""
    with open_atomic(path, "wb") as file:
        figure.savefig(file, dpi=130, format="png")
    return Path(path)
