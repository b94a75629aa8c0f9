"""A classifier's confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resdet.errors import printable
from resdet.structures import readable_names
from resdet.viz.plots import plot_text, save_figure

MAX_NUMBERED = 20
"""Up to so many classes their counts fit into the cells."""
MAX_NAMED = 60
"""Up to so many classes their names fit next to the rows."""
MAX_CELLS = 100
"""If there are more classes, neighbours share a cell."""
NUM_CONFUSIONS = 15
NAME_LENGTH = 22


def plot_confusion(
    confusion: NDArray[np.int64], class_names: Sequence[str], path: str | Path, *, title: str
) -> Path:
    """Draw images by true (row) and predicted class (column), (K, K), as shares of each row.

    Up to 20 classes have their counts in the cells, up to 60 their names; with more than 100,
    neighbours share a cell. From 21 classes on, the most frequent confusions are listed next to it.
    """
    names = [_short(name) for name in readable_names(class_names)]
    num_classes = len(names)
    listed = num_classes > MAX_NUMBERED
    side = min(11.0, max(4.6, 2.6 + 0.55 * num_classes)) if not listed else 9.0
    figure = Figure(figsize=(side + (4.2 if listed else 1.0), side), layout="compressed")
    if listed:
        axes, beside = figure.subplots(1, 2, width_ratios=[side, 3.4])
        _list_confusions(beside, confusion, names)
    else:
        axes = figure.subplots()
    shares, group = _row_shares(confusion)
    # half the colours for the first eighth: a few confusions stay visible next to the diagonal
    shown = axes.imshow(shares, cmap=_colors(), norm=PowerNorm(0.33, 0, 1), interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    axes.set_title(plot_text(title), loc="left", fontweight="bold")
    axes.set(xlabel="predicted", ylabel="true")
    if group > 1:
        axes.set(xlabel=f"predicted (cells of {group} classes)", ylabel=f"true (cells of {group})")
    _label_axes(axes, names, group)
    if not listed:
        _write_counts(axes, confusion, shares)
    return save_figure(figure, path)


def _row_shares(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], int]:
    """(cells, cells) shares of each row's images, NaN for empty rows; classes per cell."""
    group = -(-len(confusion) // MAX_CELLS)
    starts = np.arange(0, len(confusion), group)
    cells = np.add.reduceat(np.add.reduceat(confusion, starts, axis=0), starts, axis=1)
    totals = cells.sum(1, keepdims=True)
    return np.where(totals > 0, cells / np.maximum(totals, 1), np.nan), group


def _colors() -> Colormap:
    """White, then ever darker blues; gray for cells without images."""
    stops = np.array([(255, 255, 255), (198, 219, 239), (66, 146, 198), (8, 48, 107)]) / 255
    steps = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(steps, np.arange(len(stops)), stops[:, i]) for i in range(3)]
    return ListedColormap(np.stack(channels, axis=1)).with_extremes(bad="0.88")


def _label_axes(axes: Axes, names: list[str], group: int) -> None:
    if len(names) > MAX_NAMED:
        ticks = np.arange(0, len(names), group * round(len(names) / group / 10))
        # cell i starts at class i · group
        places = ticks / group
        axes.set_xticks(places, [str(tick) for tick in ticks])
        axes.set_yticks(places, [f"{names[tick]} {tick}" for tick in ticks], fontsize=8)
        return
    size = 9 if len(names) <= MAX_NUMBERED else 6.5
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)


def _write_counts(axes: Axes, confusion: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    size = 11 if len(confusion) <= 5 else 8
    for row, column in zip(*np.nonzero(confusion), strict=True):
        color = "white" if shares[row, column] > 0.2 else "black"
        text = str(confusion[row, column])
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def _list_confusions(axes: Axes, confusion: NDArray[np.int64], names: list[str]) -> None:
    """The pairs of true and predicted class with the most images."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
    lines = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[row, column]:
            share = f"{wrong[row, column]} of {confusion[row].sum()}"
            lines.append(f"{share}  {names[row]}\n    → {names[column]}")
    axes.axis("off")
    axes.set_title("Most frequent confusions", loc="left", fontsize=10, fontweight="bold")
    text = "\n".join(lines) if lines else "none"
    axes.text(0, 1, text, va="top", fontsize=8, linespacing=1.35, transform=axes.transAxes)


def _short(name: str) -> str:
    name = printable(name)
    return plot_text(name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…")
