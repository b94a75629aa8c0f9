"""The figure of detectors' runs side by side: training loss, and a panel per metric."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resdet.analysis.detector_curves import DetectorCurve, metric_names
from resdet.viz.plots import COLORS, integer_ticks, plot_text, save_figure, smooth, style


def plot_detector_curves(curves: Sequence[DetectorCurve], path: str | Path) -> Path:
    """One colour per run; the legend has the last value of each metric."""
    names = metric_names(curves)
    count = 1 + len(names)
    figure = Figure(figsize=(5.4 * count + 1.0, 4.6), layout="constrained")
    losses, *others = figure.subplots(1, count, squeeze=False)[0]
    _panel(
        losses,
        "Training loss",
        [(each, each.loss, each.final_loss) for each in curves],
        smoothed=True,
    )
    for axes, name in zip(others, names, strict=True):
        none = np.zeros((0, 2))
        _panel(
            axes, name, [(each, each.metrics.get(name, none), each.final(name)) for each in curves]
        )
    return save_figure(figure, path)


def _panel(
    axes: Axes,
    title: str,
    lines: Sequence[tuple[DetectorCurve, NDArray[np.float64], float | None]],
    *,
    smoothed: bool = False,
) -> None:
    style(axes, title)
    for index, (curve, points, final) in enumerate(lines):
        label = plot_text(curve.name) + ("" if final is None else f": {final:.4f}")
        values = points[:, 1]
        if smoothed and len(values):
            values = smooth(values, len(values) // 50)
        marker = "o" if len(points) == 1 else None
        axes.plot(
            points[:, 0], values, color=COLORS[index % len(COLORS)], marker=marker, label=label
        )
    integer_ticks(axes)
    axes.set(xlabel="iteration")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(framealpha=0.92, fontsize=8.5)
