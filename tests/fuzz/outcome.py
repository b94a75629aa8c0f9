"""How a command must end: a result, or an error that a person can read."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

from resdet.cli import main

CODES = (0, 1, 2)
LONGEST = 20_000
"""Characters of the longest message."""


def command(arguments: Sequence[str]) -> int:
    """Run a command of resdet in this process; returns its exit code.

    Any exception but a `SystemExit` goes through. AssertionError for an exit code that no command
    has, and for a message that is empty, endless or would steer a terminal.
    """
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    assert code in CODES, f"exit code {code}"
    if code == 2:
        check_message(errors.getvalue())
    for text in (out.getvalue(), errors.getvalue()):
        check_characters(text)
    return code


def check_message(text: str) -> None:
    """AssertionError for an error message that nobody could use."""
    assert text.strip(), "an error without a message"
    assert len(text) <= LONGEST, f"a message of {len(text)} characters"
    check_characters(text)


def check_characters(text: str) -> None:
    """AssertionError for characters that steer a terminal, or that can't be printed."""
    text.encode("utf-8")
    steering = {c for c in text if ord(c) < 32 and c not in "\n\t\r"}
    assert not steering, f"characters {sorted(map(ord, steering))} in the output"
