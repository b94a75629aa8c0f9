"""Results of a benchmark: a table in the terminal, a JSON file and a bar chart."""

from __future__ import annotations

import json
import logging
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import MaxNLocator

from resdet.viz.plots import new_figure, save_figure
from tools.benchmark.limits import Limits
from tools.benchmark.turns import Timing

logger = logging.getLogger("resdet")

OURS, THEIRS = "#0072B2", "0.6"


@dataclass
class Row:
    """A contender in the table."""

    timing: Timing
    items: float
    """Pieces of work in a step, such as its images."""
    flops: float | None = None
    """Floating-point operations of a step (two a multiply-add); None where others are the limit."""
    limit: float | None = None
    """What the machine does of them a second at most, in this contender's number format."""
    is_ours: bool = True

    @property
    def rate(self) -> float | None:
        """Items processed per second."""
        return self.items / self.timing.seconds if self.timing.seconds else None

    @property
    def share(self) -> float | None:
        """Of the machine's limit, 0..1."""
        if not (self.timing.seconds and self.flops and self.limit):
            return None
        return self.flops / self.timing.seconds / self.limit


def network_row(timing: Timing, items: float, flops: float, limits: Limits) -> Row:
    """The row of a network; its name says whose it is and in which number format."""
    limit = limits.flops["bf16" if "bf16" in timing.name else "fp32"]
    return Row(timing, items, flops, limit, is_ours=timing.name.startswith("resdet"))


def report(
    rows: Sequence[Row],
    *,
    title: str,
    unit: str,
    name: str,
    out: str | Path | None,
    details: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Print the table; with `out` write benchmark_<name>.json and .png there. Returns the rows.

    Ratios are of rates, to the first row that did not fail. `unit` names what a step is made of,
    such as images; `details` go into the JSON as they are.
    """
    base = next((row.rate for row in rows if row.rate), None)
    found = [_values(row, base) for row in rows]
    print(f"\n{title}")
    width = max(len(row.timing.name) for row in rows)
    for row, values in zip(rows, found, strict=True):
        print(f"{row.timing.name:{width}}  {_words(row, values, unit)}")
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"benchmark_{name}.json"
        written = {"title": title, **machine(), **details, "unit": unit, "rows": found}
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        draw_bars(rows, folder / f"benchmark_{name}.png", title=title, unit=unit)
        logger.info(f"written: {path} and the chart beside it")
    return found


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
        return next(names).strip()
    except (OSError, StopIteration):
        return platform.processor()


def _values(row: Row, base: float | None) -> dict[str, Any]:
    return {
        **asdict(row.timing),
        "items": row.items,
        "per_s": row.rate,
        "ratio": row.rate / base if row.rate and base else None,
        "flops": row.flops,
        "share_of_limit": row.share,
    }


def _words(row: Row, values: Mapping[str, Any], unit: str) -> str:
    timing = row.timing
    if timing.error:
        return f"failed: {timing.error}"
    words = [
        f"{timing.seconds:.4f} s ({timing.fastest_s:.4f}–{timing.slowest_s:.4f})",
        f"{row.rate:8.2f} {unit}/s",
        f"{values['ratio']:5.2f} ×",
        f"{timing.peak_mb:6.0f} MiB",
    ]
    if row.share is not None:
        words.append(f"{100 * row.share:3.0f} % of the limit")
    if timing.note:
        words.append(timing.note)
    return "  ".join(words)


def draw_bars(rows: Sequence[Row], path: Path, *, title: str, unit: str) -> None:
    """Rates as horizontal bars, the others' grey, with the ratio to the first at each end."""
    shown = [row for row in rows if row.rate]
    if not shown:
        return
    lines = textwrap.wrap(title, 58)
    height = 1 + 0.2 * len(lines) + 0.42 * len(shown)
    figure, axes = new_figure("\n".join(lines), width=8, height=height)
    base = shown[0].rate or 1.0
    rates = [row.rate or 0.0 for row in shown]
    axes.barh(
        [row.timing.name for row in shown],
        rates,
        color=[OURS if row.is_ours else THEIRS for row in shown],
    )
    for place, rate in enumerate(rates):
        axes.text(rate, place, f" {rate:.3g}  ({rate / base:.2f} ×)", va="center", fontsize=8)
    axes.set_xlim(0, max(rates) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} per second")
    save_figure(figure, path)
