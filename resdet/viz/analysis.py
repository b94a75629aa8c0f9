"""Figures of `resdet analyze`: training curves, layer responses, and networks side by side."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from resdet.analysis.compare import Compared
from resdet.analysis.curves import Curve
from resdet.analysis.responses import RunResponses
from resdet.viz.plots import COLORS, integer_ticks, plot_text, save_figure, smooth, style

FAMILIES = {"plain": "Plain", "residual": "Residual", "other": "Others"}
DATA_SETS = {"imagenet": "ImageNet", "cifar10": "CIFAR-10"}
CIFAR_MAX_ERROR = 20.0
"""The limit of the paper's CIFAR-10 figures, in percent."""


def plot_curves(
    curves: Sequence[Curve], path: str | Path, *, max_error: float | None = None
) -> Path:
    """Training (thin, dashed) and validation error (bold) over iterations, one colour per run.

    If there are plain and residual networks, each kind has a panel (He et al. 2016, figure 6). The
    axis ends at `max_error` percent; without it at 20, or higher if a run ends above that.
    """
    split = {"plain", "residual"} <= {curve.family for curve in curves}
    panels = {
        title: [curve for curve in curves if curve.family == family]
        for family, title in FAMILIES.items()
    }
    panels = {title: own for title, own in panels.items() if own} if split else {"": [*curves]}
    figure = Figure(figsize=(5.4 * len(panels) + 1.0, 4.6), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    top = _error_limit(curves) if max_error is None else max_error
    for axes, (title, own) in zip(all_axes, panels.items(), strict=True):
        style(axes, title or "Training and validation error")
        for index, curve in enumerate(own):
            _draw_curve(axes, curve, COLORS[index % len(COLORS)])
        axes.plot([], [], color="0.4", lw=1.0, ls="--", label="training")
        axes.plot([], [], color="0.4", lw=2.0, label="validation")
        integer_ticks(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.set(xlabel="iteration", ylim=(0, top))
        axes.set_xlim(left=0)
        axes.legend(loc="upper right", framealpha=0.92, fontsize=8.5)
    all_axes[0].set_ylabel("error (%)")
    return save_figure(figure, path)


def _draw_curve(axes: Axes, curve: Curve, color: str) -> None:
    name = plot_text(curve.name)
    label = name if curve.final_val is None else f"{name}: {curve.final_val:.1f} %"
    if len(curve.train):
        smoothed = smooth(curve.train[:, 1], len(curve.train) // 50)
        axes.plot(curve.train[:, 0], smoothed, color=color, lw=1.0, ls="--")
    marker = "o" if len(curve.val) == 1 else None
    axes.plot(curve.val[:, 0], curve.val[:, 1], color=color, lw=2.0, marker=marker, label=label)


def _error_limit(curves: Sequence[Curve]) -> float:
    """20, or 1.5 times the highest final error, rounded up to tens."""
    ends = [v for curve in curves for v in (curve.final_train, curve.final_val) if v is not None]
    highest = max(ends, default=0.0)
    if highest < CIFAR_MAX_ERROR:
        return CIFAR_MAX_ERROR
    return min(100.0, float(np.ceil(highest * 1.5 / 10) * 10))


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def plot_responses(runs: Sequence[RunResponses], path: str | Path) -> Path:
    """Standard deviation of each 3×3 layer's response: in the order of the layers, and by size.

    As figure 7 of He et al. (2016); see `resdet.analysis.responses.measure_responses`.
    """
    figure = Figure(figsize=(9, 7), layout="constrained")
    by_layer, by_size = figure.subplots(2, 1, sharex=True)
    for index, run in enumerate(runs):
        std = np.array([layer.std for layer in run.layers])
        numbers = np.arange(1, len(std) + 1)
        color = COLORS[index % len(COLORS)]
        # plain networks dashed, as in the paper's figure
        line = "--" if "plain" in run.name else "-"
        name = plot_text(run.name)
        label = name if run.after_norm else f"{name} (output of the convolutions)"
        for axes, values in ((by_layer, std), (by_size, np.sort(std)[::-1])):
            axes.plot(
                numbers, values, color=color, lw=1.6, ls=line, marker="o", ms=2.5, label=label
            )
    where = "after the norm" if all(run.after_norm for run in runs) else "see the legend"
    for axes, order, title in (
        (by_layer, "in order", f"Responses of the 3×3 layers, {where}"),
        (by_size, "by magnitude", "The same, sorted by magnitude"),
    ):
        style(axes, title)
        axes.set(xlabel=f"layer, {order}", ylabel="standard deviation")
        axes.set_ylim(bottom=0)
        axes.tick_params(labelbottom=True)
        integer_ticks(axes, 12)
    # outside, because the lines fill the panels
    figure.legend(*by_layer.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return save_figure(figure, path)


def plot_compare(rows: Sequence[Compared], path: str | Path) -> Path:
    """Depth and parameters of every network, and CIFAR-10's test error over parameters."""
    figure = Figure(figsize=(13, max(4.6, 0.27 * len(rows) + 1.5)), layout="constrained")
    depth, parameters, error = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    places = _places(rows)
    _bars(depth, "Weighted layers", rows, places, [float(row.depth) for row in rows])
    _bars(parameters, "Parameters (millions)", rows, places, [r.parameters / 1e6 for r in rows])
    depth.set_yticks(places, [row.published.label for row in rows])
    parameters.set_yticks(places, [])
    for data, title in DATA_SETS.items():
        own = [place for row, place in zip(rows, places, strict=True) if row.published.data == data]
        if own:
            depth.text(0.99, max(own), title, color="0.45", ha="right", va="center",
                       transform=depth.get_yaxis_transform())  # fmt: skip
    _plot_error([row for row in rows if row.published.data == "cifar10"], error)
    return save_figure(figure, path)


def _places(rows: Sequence[Compared]) -> list[float]:
    """The height of each row, the first on top, with a gap between data sets."""
    places = [0.0]
    for above, row in pairwise(rows):
        places.append(places[-1] - (1.0 if above.published.data == row.published.data else 1.7))
    return places


def _bars(
    axes: Axes,
    title: str,
    rows: Sequence[Compared],
    places: Sequence[float],
    values: Sequence[float],
) -> None:
    style(axes, title)
    axes.barh(places, values, color=[_color(row) for row in rows], height=0.7)
    axes.set_xscale("log")
    _plain_numbers(axes)
    # From a power of ten below all: bars on a logarithmic axis can't start at zero.
    axes.set_xlim(10 ** np.floor(np.log10(min(values))), max(values) * 3)
    axes.set_ylim(places[-1] - 0.6, places[0] + 0.6)
    for place, value in zip(places, values, strict=True):
        text = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
        axes.text(value * 1.08, place, text, va="center", fontsize=8)


def _plain_numbers(axes: Axes) -> None:
    """Labels 0.1, 1, 10 on a logarithmic axis instead of powers of ten."""
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plot_error(rows: Sequence[Compared], axes: Axes) -> None:
    """CIFAR-10 test error over parameters, one line per family."""
    style(axes, "CIFAR-10 test error, as published")
    by_family: dict[str, list[Compared]] = {}
    for row in rows:
        if row.published.error is not None:
            by_family.setdefault(row.published.label.split("-")[0], []).append(row)
    for name, family in by_family.items():
        x = [row.parameters / 1e6 for row in family]
        y = [float(row.published.error or 0) for row in family]
        axes.plot(x, y, "o-", color=_color(family[0]), lw=1.6, ms=6, label=name)
        for row, place in zip(family, zip(x, y, strict=True), strict=True):
            note = axes.annotate(f"{row.depth}", place, xytext=(6, 6), textcoords="offset points")
            note.set_bbox({"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.5})
    axes.set_xscale("log")
    _plain_numbers(axes)
    axes.set(xlabel="parameters (millions); numbers are layers", ylabel="test error (%)")
    axes.margins(0.14, 0.1)
    if by_family:
        axes.legend(loc="best", framealpha=0.92)


def _color(row: Compared) -> str:
    """One colour per family."""
    label = row.published.label
    if label.startswith("ResNet"):
        return COLORS[0]
    kinds = ("plain", "GoogLeNet", "VGG", "FitNet", "Highway")
    return COLORS[1 + next(k for k, kind in enumerate(kinds) if label.startswith(kind))]
