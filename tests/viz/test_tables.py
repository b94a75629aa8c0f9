"""Tables on a terminal and elsewhere."""

from __future__ import annotations

import io

from resdet.viz.tables import print_table

HEADER = ["name", "kind", "count"]
ROWS = [["a [b] c", "conv", "1,200"], ["x", "", "–"]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_words_stand_left_and_numbers_right() -> None:
    file = io.StringIO()
    print_table("Layers", HEADER, ROWS, file)
    assert file.getvalue().splitlines() == [
        "",
        "Layers",
        "name     kind  count",
        "a [b] c  conv  1,200",
        "x                  –",
    ]


def test_a_terminal_gets_the_same_cells_drawn() -> None:
    file = Terminal()
    print_table("", HEADER, ROWS, file)
    assert all(cell in file.getvalue() for row in [HEADER, *ROWS] for cell in row)


def test_cells_cannot_act_on_the_terminal() -> None:
    for file in (io.StringIO(), Terminal()):
        print_table("a\x1b[2J", ["name", "x\ny"], [["b\nc\x1b[31m", "1"]], file)
        text = file.getvalue()
        assert r"a\x1b[2J" in text and r"b\nc\x1b[31m" in text and r"x\ny" in text
