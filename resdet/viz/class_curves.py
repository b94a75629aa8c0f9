"""Precision over recall of each class in a panel of its own, as one PNG file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resdet.errors import printable
from resdet.viz.plots import COLORS, plot_text, save_figure

MAX_CLASSES = 240
"""Panels in one picture."""

_CELL = 1.35
"""Inches of one panel's width."""

_STEP = 1.3
"""Distance of the panels in units of recall and precision."""


def plot_class_curves(
    precision: NDArray[np.float64],
    class_names: Sequence[str],
    path: str | Path,
    *,
    title: str,
    values: Mapping[str, float],
) -> Path:
    """Draw a small panel per class with objects, in the order of the names.

    `precision` is (T, R, K) at T IoU thresholds, .50 first, and recalls 0….1; -1 for classes
    without objects. `values` are the AP of classes by name, shown beside the names.
    """
    shown = np.flatnonzero((precision > -1).any(axis=(0, 1)))
    total, shown = len(shown), shown[:MAX_CLASSES]
    columns = max(1, min(len(shown), math.ceil(math.sqrt(1.4 * len(shown)))))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(max(4.0, columns * _CELL), max(1.9, rows * _CELL + 0.5)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    more = f", first {len(shown)} of {total} classes" if total > len(shown) else ""
    lines = "IoU .50 blue, .75 orange" if len(precision) > 5 else "IoU .50"
    axes.set_title(
        plot_text(f"{title}{more} ({lines}; AP)"), loc="left", fontsize=9, fontweight="bold"
    )
    axes.set_axis_off()
    axes.set(xlim=(-0.05, columns * _STEP), ylim=(-rows * _STEP + 0.2, 0.22), aspect="equal")
    for place, label in enumerate(shown.tolist()):
        corner = (place % columns * _STEP, -(place // columns) * _STEP - 1)
        value = values.get(class_names[label], math.nan)
        name = printable(class_names[label])
        text = plot_text(name[:14] + ("…" if len(name) > 14 else ""))
        text += "" if math.isnan(value) else f" {value:.2f}".replace(" 0.", " .")
        _draw_panel(axes, precision[:, :, label], corner, text)
    if not len(shown):
        axes.text(0.5, -0.5, "no objects", ha="center", color="0.4")
    return save_figure(figure, path)


def _draw_panel(
    axes: Axes, precision: NDArray[np.float64], corner: tuple[float, float], text: str
) -> None:
    """One class: the frame, the curve at IoU .50 filled, at .75 where there is one."""
    x, y = corner
    recall = x + np.linspace(0, 1, precision.shape[1])
    curves = [precision[0], *precision[5:6]]
    lines = [np.column_stack([recall, y + curve]) for curve in curves]
    axes.plot([x, x, x + 1], [y + 1, y, y], color="0.6", lw=0.7)
    axes.fill_between(recall, y, y + precision[0], color=COLORS[0], alpha=0.12, lw=0)
    axes.add_collection(LineCollection(lines, colors=COLORS[: len(lines)], linewidths=1.1))
    axes.text(x, y + 1.05, text, fontsize=6.5, va="bottom")
