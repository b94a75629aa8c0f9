"""The one way to print a table: drawn by rich on a terminal, plain aligned columns elsewhere."""

import sys
from collections.abc import Sequence
from typing import TextIO

from resdet.errors import printable


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    file: TextIO | None = None,
) -> None:
    """Print rows of text under `header`; the first column and words left, numbers right.

    An empty `title` prints none. `file` None is standard output.
    """
    stream = sys.stdout if file is None else file
    title, header = printable(title), [printable(name) for name in header]
    rows = [[printable(cell) for cell in row] for row in rows]
    if stream.isatty():
        _print_drawn(title, header, rows, stream)
    else:
        if title:
            print(f"\n{title}", file=stream)
        print("\n".join(plain_table(header, rows)), file=stream)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table without drawing characters, columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = [_is_numeric(rows, column) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [header, *rows]
    ]


def _print_drawn(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO
) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # without padding COCO's 12 numbers fit into 80 columns
    table = Table(title=escape(title) or None, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column, name in enumerate(header):
        justify = "right" if _is_numeric(rows, column) else "left"
        table.add_column(escape(name), justify=justify, no_wrap=column > 0)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(escape, row))
    Console(file=stream).print(table, "")


def _is_numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether a column, other than the first, holds numbers, dashes or nothing."""
    return column > 0 and all(
        not row[column] or row[column] == "NaN" or row[column][0] in "0123456789+-.–"
        for row in rows
    )
