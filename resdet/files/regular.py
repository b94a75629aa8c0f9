"""Opening a user's files without waiting for pipes and devices."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from resdet.files.findings import DataError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(
    path: str | Path, kind: str = "image file", hint: str = "the image folder"
) -> BinaryIO:
    """A regular file, or a link to one, opened for reading.

    Args:
        kind, hint: what it is and what to check where it is missing, for messages.
    Raises:
        DataError: it is missing, not a regular file (opening a pipe would wait for its writer), or
            can't be opened.
    """
    try:
        handle = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such {kind}; check {hint}") from error
    except OSError as error:
        # a socket can't be opened at all, and a folder not on Windows
        other = _other_kind(path)
        raise DataError(other or f"{path}: can't be read ({error.strerror})") from error
    except ValueError as error:  # NUL, or characters that no file name has
        raise DataError(f"{path}: no such {kind} ({error}); check {hint}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DataError(_other_kind(path) or f"{path}: is not a regular file; replace it")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def is_file(path: Path) -> bool:
    """Whether it is a regular file; no for names that no file can have, of whatever length."""
    try:
        return path.is_file()
    except OSError:  # too long a name, a folder that may not be searched
        return False


def is_folder(path: Path) -> bool:
    """Whether it is a folder; no for names that no folder can have."""
    try:
        return path.is_dir()
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Whether anything is there; no for names that nothing can have."""
    try:
        return path.exists()
    except OSError:
        return False


def _other_kind(path: str | Path) -> str | None:
    """The message on something that is not a regular file."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return None
    for is_kind, words in KINDS:
        if is_kind(mode):
            return f"{path}: is {words}, not a regular file; give a file"
    return None
