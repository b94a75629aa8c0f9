"""Work to be timed, found by its name in a contender's process."""

from __future__ import annotations

import os
from pathlib import Path

from tools.benchmark.turns import Step


def make(*, log: str, name: str) -> tuple[Step, str]:
    """Writes its name at every step."""

    def step() -> None:
        with Path(log).open("a") as file:
            file.write(name + "\n")

    return step, "a note"


def make_failing(*, after: int) -> Step:
    """Fails at its step number `after`, counted from 0."""
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        if number > after:
            raise RuntimeError("out of paper")

    return step


def make_dying() -> Step:
    """Ends its process without a word, as the system does when memory runs out."""
    return lambda: os._exit(3)
