"""Standard output and error of a command, which may be closed, full, ASCII only, or without a
reader: a command does its work and writes its files all the same."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

HANDLER = "resdet.plain"
PLAIN = {
    "→": "->",
    "×": "x",
    "…": "...",
    "–": "-",
    "—": "-",
    "−": "-",
    "µ": "u",
    "≤": "<=",
    "≥": ">=",
    "±": "+-",
    "·": "*",
    "’": "'",
}
"""What stands for the characters of our messages where the encoding of a stream lacks them."""


class Outlet(io.FileIO):
    """A file descriptor that takes everything; what the system refuses is left out."""

    refused: OSError | None = None
    """Why something was left out first."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, data: Any, /) -> int:
        while True:
            try:
                done = super().write(data)
            except OSError as error:
                self.refused = self.refused or error
                return memoryview(data).nbytes
            if done is not None:
                return done
            # a pipe that does not block, and is full
            select.select([], [self.fileno()], [])


def open_streams() -> tuple[Outlet | None, Outlet | None]:
    """Replace sys.stdout and sys.stderr by streams that raise no error; returns what is below
    them, None for a stream that is not a plain file, such as the console of Windows."""
    _fill_closed()
    codecs.register_error(HANDLER, _spell)
    sys.stdout, out = _open(sys.stdout, 1)
    sys.stderr, err = _open(sys.stderr, 2)
    return out, err


def close_streams(out: Outlet | None, command: str, code: int) -> int:
    """The exit code of a command after its last line: 1 instead of 0 where output was lost on a
    full disk, unless the command trains and has its files. A reader that has gone, such as `head`,
    has had what it wanted."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    refused = None if out is None else out.refused
    if refused is not None and refused.errno not in (errno.EPIPE, errno.EIO):
        reason = os.strerror(refused.errno or 0).lower()
        print(f"warning: some lines of the output are lost: {reason}", file=sys.stderr)
        code = code or int(not command.startswith("train-"))
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    return code


def _fill_closed() -> None:
    """Open the null device in place of a closed stream: else the next file that is opened would
    get its number, and whatever a library prints."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _open(former: TextIO | None, number: int) -> tuple[TextIO, Outlet | None]:
    encoding, errors = getattr(former, "encoding", "utf-8"), getattr(former, "errors", "strict")
    # what the user chose by PYTHONIOENCODING, such as replace, stays
    if errors in ("strict", "surrogateescape", "backslashreplace"):
        errors = HANDLER
    if former is not None:
        with suppress(OSError, ValueError):
            former.flush()
        buffer = getattr(former, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if type(raw) not in (io.FileIO, Outlet) or former.fileno() != number:
            if isinstance(former, io.TextIOWrapper):
                former.reconfigure(errors=errors)
            return former, None
    outlet = Outlet(number)
    stream = io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding=encoding,
        errors=errors,
        line_buffering=number == 2 or outlet.isatty(),
        write_through=getattr(former, "write_through", False),
    )
    return stream, outlet


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(map(lambda c, e: PLAIN.get(c, e), lacking, escaped)), error.end
