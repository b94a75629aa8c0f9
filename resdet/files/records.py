"""A JSON array on disk that grows record by record and can be read at any time."""

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from resdet.files.findings import DataError
from resdet.files.json import read_json
from resdet.files.writing import write_text

log = logging.getLogger("resdet")

OPENING, CLOSING = "[", "\n]\n"


class RecordFile:
    """A JSON array with one record per line, which replaces the file at `path`.

    After every `extend` the file is complete: new records are written over the closing bracket
    together with the next one, in one write. A program that is killed leaves what it has written; a
    full disk leaves the records before the last `extend`. Only a kill within a write, which takes
    microseconds, can cut the last line short, and `read_records` reads the file without that line.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises OSError where the disk refuses."""
        self.path = write_text(path, OPENING + CLOSING)
        self._separator = "\n"
        self._end = len(OPENING)
        """Bytes before the closing bracket."""
        self._file = self.path.open("r+b", buffering=0)

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def extend(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds records; after an OSError the file holds those of the calls before."""
        text = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        if not text:
            return
        # a lone surrogate of a file name becomes an escape, which JSON reads back
        body = (self._separator + text).encode("utf-8", "backslashreplace")
        try:
            self._write(body + CLOSING.encode())
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._end)
                self._write(CLOSING.encode())
            raise
        self._separator = ",\n"
        self._end += len(body)

    def _write(self, data: bytes) -> None:
        self._file.seek(self._end)
        while data:
            data = data[self._file.write(data) or 0 :]

    def close(self) -> None:
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()


def read_records(path: str | Path, what: str) -> Any:
    """The content of a JSON file, as `read_json`; of a `RecordFile` that was cut within a write the
    complete records, with a warning."""
    try:
        return read_json(path, what)
    except DataError:
        records = _complete_records(Path(path))
        if records is None:
            raise
    log.warning(
        "%s: was cut within a record; the %d complete records before it are read",
        path,
        len(records),
    )
    return records


def _complete_records(path: Path) -> list[Any] | None:
    try:
        data = path.read_bytes()
    except (OSError, ValueError):  # ValueError: what no path can hold
        return None
    if not data.startswith(f"{OPENING}\n{{".encode()):
        return None
    # what was cut is the bracket alone, or the last record
    for body in (data.rstrip(b",]\n"), data[: max(data.rfind(b",\n"), len(OPENING))]):
        try:
            records: list[Any] = json.loads(body + CLOSING.encode())
        except (ValueError, RecursionError):
            continue
        return records or None
    return None


def holds_records(path: Path, keys: Iterable[str]) -> bool:
    """Whether `path` is a `RecordFile`, empty or with these keys in its first record, and no
    link."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        first, second = file.readline(8), file.readline(1 << 26)
    if first != f"{OPENING}\n".encode():
        return False
    try:
        record = json.loads(second.rstrip(b",\n"))
    except ValueError:
        return second == b"]\n"
    return isinstance(record, dict) and set(keys) <= record.keys()
