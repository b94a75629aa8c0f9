"""Atomic writing: a file is the old one or the new one, never half, even if a run is killed.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from resdet.errors import printable


@contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A new file ("w" for UTF-8 text, "wb" for bytes) that takes the name `path` at the end.

    Bytes of file names that are not UTF-8 are written as \\udc80 to \\udcff, which JSON reads back.
    After an exception inside, `path` is as it was before. Raises OSError where the disk refuses.
    """
    assert mode in ("w", "wb"), mode
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = (
        {} if mode == "wb" else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    )
    try:
        with open(temporary, mode, **text) as file:  # type: ignore[call-overload]  # noqa: PTH123
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """A whole file of bytes, atomically; returns its path, as the functions below do."""
    with open_atomic(path, "wb") as file:
        file.write(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """A whole UTF-8 text file, atomically."""
    with open_atomic(path) as file:
        file.write(text)
    return Path(path)


def write_json(path: str | Path, values: Any) -> Path:
    """Plain values as indented JSON, atomically; ValueError for NaN and infinity."""
    return write_text(
        path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def write_csv(path: str | Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Records with the same keys as CSV with a header, atomically; at least one record.

    Text that a spreadsheet would run as a formula gets an apostrophe in front, numbers stay as they
    are; control characters are shown as escapes.
    """
    with open_atomic(path) as file:
        writer = csv.writer(file)
        writer.writerow([_cell(key) for key in records[0]])
        writer.writerows([_cell(record[key]) for key in records[0]] for record in records)
    return Path(path)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
    return text


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk; systems without folder handles do it on their own."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
