"""Reads the devkits' text files of results, with errors that name file and line."""

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.files.findings import DataError

_OPENERS = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
_FAULTS = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tar\.(gz|xz|bz2))$", re.IGNORECASE)


def read_text(path: str | Path) -> str:
    """The text of a file, unpacked where its name ends in .gz, .xz, .bz2 or .zip (of one file)."""
    path = Path(path)
    if path.suffix.lower() == ".zip":
        members = read_archive(path)
        if len(members) != 1:
            raise DataError(f"{path}: {len(members)} files in it; give an archive of one file")
        return members[0][1]
    try:
        content = path.read_bytes()
        content = _OPENERS.get(path.suffix.lower(), bytes)(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; correct the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give a file in it") from None
    except (*_FAULTS, MemoryError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy or write it again") from None
    return _decode(content, str(path))


def is_archive(path: str | Path) -> bool:
    """Whether the name is that of a zip or tar archive."""
    return _ARCHIVE.search(str(path)) is not None


def read_archive(path: str | Path, suffix: str = "") -> list[tuple[str, str]]:
    """Names and texts of an archive's files that end in `suffix`, in its order."""
    path, members = Path(path), list[tuple[str, bytes]]()
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as zipped:
                for name in zipped.namelist():
                    if not name.endswith("/") and name.endswith(suffix):
                        members.append((name, zipped.read(name)))
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.name.endswith(suffix) else None
                    if member.isfile() and file is not None:
                        members.append((member.name, file.read()))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give the path of the results") from None
    # a damaged archive fails in many ways: struct.error, KeyError, RuntimeError (encrypted), …
    except Exception as error:
        # tarfile lists what it tried in lines of their own
        what = " ".join(str(error).splitlines()[:1]).removesuffix(":")
        raise DataError(f"{path}: cannot be unpacked ({what}); pack it again") from None
    return [(name, _decode(content, f"{path}: {name}")) for name, content in members]


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: not a text file ({error.reason} at byte {error.start}); give a file of "
            "results, one per line"
        ) from None


def split_lines(text: str) -> list[tuple[int, list[str]]]:
    """Numbers, from 1, and words of the lines that have any."""
    rows = (line.split() for line in text.split("\n"))
    return [(number, row) for number, row in enumerate(rows, 1) if row]


def check_lengths(
    lines: Sequence[tuple[int, list[str]]], length: int, source: str, columns: str
) -> None:
    """DataError for the first line that does not have `length` words; `columns` names them."""
    if all(len(row) == length for _, row in lines):
        return
    number, row = next((n, row) for n, row in lines if len(row) != length)
    raise DataError(
        f"{source}: line {number}: {len(row)} values instead of {length}; write `{columns}`"
    )


def to_numbers(
    lines: Sequence[tuple[int, list[str]]], first: int, source: str
) -> NDArray[np.float64]:
    """All words from the `first` of each line on, one after the other, as finite numbers.

    DataError names the line of a word that is none.
    """
    words = list(chain.from_iterable(row[first:] for _, row in lines))
    try:
        values = np.array(list(map(float, words)), np.float64)
        if np.isfinite(values).all() and "_" not in "".join(words):
            return values
    except (ValueError, OverflowError):
        pass
    for number, row in lines:
        for word in row[first:]:
            if not _is_finite(word):
                raise DataError(
                    f"{source}: line {number}: {word[:40]!r} is not a finite number; correct or "
                    "remove the line"
                )
    raise AssertionError("some word is no number")


def _is_finite(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word))) and "_" not in word
    except (ValueError, OverflowError):
        return False


def check_whole(
    values: NDArray[np.float64], numbers: Sequence[int], source: str, what: str
) -> None:
    """DataError for the first of (N,) `values`, in lines `numbers`, that has a fraction."""
    for row in np.flatnonzero((values != np.round(values)) | (abs(values) > 1e9))[:1].tolist():
        raise DataError(
            f"{source}: line {numbers[row]}: {what} {values[row]:g} is not a whole number; correct "
            "the line"
        )


def note_negative(corners: NDArray[np.float64], numbers: Sequence[int], source: str) -> list[str]:
    """A note if some of (N, 4) inclusive boxes x1 y1 x2 y2, in lines `numbers`, have a negative
    size: they overlap nothing, and the devkits' own demo file has such."""
    wrong = np.flatnonzero((corners[:, 2:] - corners[:, :2] < -1).any(axis=1)).tolist()
    if not wrong:
        return []
    lines = ", ".join(str(numbers[row]) for row in wrong[:5])
    return [
        f"{source}: {len(wrong)} boxes have a negative size and match nothing (line {lines}"
        f"{', …' if len(wrong) > 5 else ''}); write x1 y1 x2 y2 with x2 >= x1 and y2 >= y1"
    ]
