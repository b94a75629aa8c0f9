"""What a COCO evaluation leaves behind: eval.json, per_class.csv, PR curves, and printed tables."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TextIO

from resdet.errors import UserError
from resdet.evaluation.coco import ClassRow, CocoResult

_NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")


def write_report(result: CocoResult, out_dir: str | Path) -> list[Path]:
    """Write eval.json, per_class.csv and a pr_<kind>.png for each kind; returns their paths.

    eval.json is {"bbox": {"AP": …}, "segm": {…}}, fractions of 1. Raises UserError where the folder
    cannot be written.
    """
    from resdet.viz.plots import plot_pr_curves

    out = Path(out_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [_write_json(result, out / "eval.json"), _write_csv(result, out / "per_class.csv")]
        for kind, precision in result.pr_curves.items():
            path = out / f"pr_{kind}.png"
            plot_pr_curves(precision, path, title=f"Precision and recall, {kind}")
            paths.append(path)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give --out") from None
    return paths


def _write_json(result: CocoResult, path: Path) -> Path:
    """Written beside and renamed, so that a reader never sees half of it."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(result.summary, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
    return path


def _write_csv(result: CocoResult, path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["kind", *(field.name for field in fields(ClassRow))])
        writer.writeheader()
        for kind, rows in result.per_class.items():
            writer.writerows({"kind": kind, **asdict(row)} for row in rows)
    return path


def print_tables(result: CocoResult, file: TextIO | None = None) -> None:
    """The summary and the table per class; drawn on a terminal, plain aligned lines elsewhere."""
    stream = sys.stdout if file is None else file
    tables = [("", *_summary_table(result))]
    tables += [(f"{kind}, each class", *_class_table(rows)) for kind, rows in _shown(result)]
    for title, header, rows in tables:
        if stream.isatty():
            _print_rich(title, header, rows, stream)
        else:
            _print_plain(title, header, rows, stream)


def _shown(result: CocoResult) -> list[tuple[str, list[ClassRow]]]:
    """Rows of the classes that occur on either side."""
    return [
        (kind, [row for row in rows if row.num_gt or row.num_detections])
        for kind, rows in result.per_class.items()
    ]


def _summary_table(result: CocoResult) -> tuple[list[str], list[list[str]]]:
    header = ["kind", *next(iter(result.summary.values()), {})]
    rows = [[kind, *map(_number, numbers.values())] for kind, numbers in result.summary.items()]
    return header, rows


def _class_table(rows: list[ClassRow]) -> tuple[list[str], list[list[str]]]:
    header = ["class", "objects", "found", *_NUMBERS]
    return header, [
        [
            row.name,
            str(row.num_gt),
            str(row.num_detections),
            *(_number(getattr(row, name)) for name in _NUMBERS),
        ]
        for row in rows
    ]


def _number(value: float) -> str:
    return "-1" if value == -1 else f"{value:.3f}"


def _print_rich(title: str, header: list[str], rows: list[list[str]], stream: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Without padding the 12 numbers fit into 80 columns.
    table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        table.add_row(*map(escape, row))
    Console(file=stream).print(table, "")


def _print_plain(title: str, header: list[str], rows: list[list[str]], stream: TextIO) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if title:
        print(f"\n{title}", file=stream)
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells), file=stream)
