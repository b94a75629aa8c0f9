"""Libraries that convert networks: their refusals as errors that a user can read."""

from __future__ import annotations

import io
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from resdet.errors import UserError
from resdet.files.writing import WriteError, is_full

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = Path(sysconfig.get_paths()["purelib"]), Path(sysconfig.get_paths()["stdlib"])


@contextmanager
def refusing(what: str, remedy: str, out: Path | None = None) -> Iterator[None]:
    """Whatever a library raises inside as UserError: `what` does not work, the library's first line
    of reason, and `remedy`; of a full disk, a WriteError of `out`.

    Libraries raise errors of every kind here, and some wrap them several times: the reason is that
    of the first.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        first = _first(error)
        if out is not None and is_full(first):
            assert isinstance(first, OSError)
            raise WriteError(out, first) from error
        lines = [line.strip() for line in str(first).splitlines()]
        reason = next(filter(None, lines), type(first).__name__)
        raise UserError(f"{what} ({reason:.300}{_place(first)}); {remedy}") from error


def _first(error: BaseException) -> BaseException:
    """The error that the others were raised from."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _place(error: BaseException) -> str:
    """Where in the user's own modules it was raised; empty where none was involved."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(map(file.is_relative_to, (PACKAGE, *LIBRARIES))):
            return f", in {file.name} line {frame.lineno}"
    return ""


@contextmanager
def without_notes() -> Iterator[None]:
    """Without what torch's exporters report on their own workings, in logs, warnings and on stderr;
    users can do nothing about it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
