"""The plot of a learning rate range test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resdet.viz.plots import COLORS, new_figure, save_figure


def plot_lr_find(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    marks: Mapping[str, float | None],
    path: str | Path,
    *,
    xlabel: str,
) -> Path:
    """Losses over the rate on a logarithmic axis; `marks` are rates by what they are, None for one
    that does not exist."""
    figure, axes = new_figure("Learning rate range test", width=7.2, height=4.4)
    axes.plot(rates, losses, color=COLORS[0], alpha=0.3, lw=0.9, label="loss of each step")
    axes.plot(rates, smoothed, color=COLORS[0], lw=2.2, label="smoothed")
    styles = zip(COLORS[1:], ("-", "--", ":"), strict=False)
    for (color, style), (name, rate) in zip(styles, marks.items(), strict=False):
        if rate is not None:
            axes.axvline(rate, color=color, ls=style, lw=1.6, label=f"{name}: {rate:.2g}")
    # the last steps, where it diverges, must not flatten the rest
    low, high = np.percentile(losses, [2, 80])
    low, high = min(low, *smoothed), max(high, *smoothed)
    margin = 0.05 * max(high - low, 1e-3 * abs(high), 1e-9)
    axes.set(xscale="log", xlabel=xlabel, ylabel="loss", ylim=(low - margin, high + margin))
    axes.legend(loc="best", framealpha=0.92)
    return save_figure(figure, path)
