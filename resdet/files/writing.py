"""Writing: a file is the old one or the new one, never half, even if a run is killed.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed. What
the system refuses is a `WriteError`, whatever library was writing.
"""

import csv
import errno
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from resdet.errors import UserError, printable

NAME_KEPT = 40
"""Characters of a file's name in that of its temporary file, whose length is limited as well."""


class WriteError(UserError, OSError):
    """The system refused to write: the text names the path, the reason and the remedy."""

    def __init__(
        self,
        path: str | Path,
        error: OSError,
        remedy: str | None = None,
        what: str = "cannot be written",
    ) -> None:
        """`remedy` None is chosen by the reason."""
        remedy = REMEDIES.get(error.errno or 0, OTHER_PLACE) if remedy is None else remedy
        super().__init__(f"{path}: {what}: {reason_of(error)}; {remedy}")
        self.errno, self.strerror, self.filename = error.errno, reason_of(error), str(path)


OTHER_PLACE = "give another folder"
REMEDIES = {
    errno.ENOSPC: "free some space or give another folder",
    errno.EDQUOT: "free some space, raise the quota, or give another folder",
    errno.EFBIG: "raise the limit (ulimit -f), or give a folder on another file system",
    errno.ENOENT: "the folder was removed, or is not there; give a folder that stays",
    errno.ENAMETOOLONG: "give a shorter name",
}


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What only writing can meet."""


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def reason_of(error: OSError) -> str:
    """What the system says, without its number and the path."""
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


class _Raw(io.FileIO):
    """A file that remembers what the system refused: libraries raise errors of their own instead,
    such as torch's `enforce fail at inline_container.cc`."""

    refused: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.refused = error
            raise


@contextmanager
def open_atomic(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A new file ("w" for UTF-8 text, "wb" for bytes) that takes the name `path` at the end.

    Bytes of file names that are not UTF-8 are written as \\udc80 to \\udcff, which JSON reads back.
    After an exception inside, `path` is as it was before. Raises WriteError where the disk refuses.
    """
    assert mode in ("w", "wb"), mode
    path = Path(path)
    # the process, and a token: processes of two containers may have the same number
    token = f"{os.getpid()}.{secrets.token_hex(3)}"
    temporary = path.with_name(f".{path.name[:NAME_KEPT]}.{token}.tmp")
    raw: _Raw | None = None
    try:
        raw = _Raw(temporary, "w")
        with _layers(raw, mode) as file:
            yield file
            file.flush()
            _sync(raw)
        _rename(temporary, path)
    except BaseException as error:
        _remove(temporary)
        refused = error if raw is None or is_full(error) else raw.refused
        if isinstance(refused, OSError) and isinstance(error, Exception):
            raise WriteError(path, refused) from error
        raise
    _sync_folder(path.parent)


def _layers(raw: _Raw, mode: str) -> IO[Any]:
    """What `open` puts around a file: buffers, and UTF-8."""
    buffered = io.BufferedWriter(raw)
    if mode == "wb":
        return buffered
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", newline="")


def _sync(raw: _Raw) -> None:
    try:
        os.fsync(raw.fileno())
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file system that cannot
            return
        raw.refused = error  # a full disk may be noticed only now
        raise


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise WriteError(path, error) from error


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # what made the writing fail makes this fail too
        temporary.unlink(missing_ok=True)


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
        writer.writerow([csv_cell(key) for key in records[0]])
        writer.writerows([csv_cell(record[key]) for key in records[0]] for record in records)
    return Path(path)


def csv_cell(value: Any) -> Any:
    """A cell as `write_csv` writes it."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
    return text


def make_folder(path: str | Path, option: str = "--out") -> Path:
    """The folder, made with those above it where they are not there; WriteError where it cannot be
    made, or is a file. `option` is how the user gives another one."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = f"give another one with {option}"
        raise WriteError(path, error, remedy, "cannot be made a folder") from error
    return path


def check_folder(path: str | Path, option: str = "--out") -> None:
    """WriteError, before anything is computed, where no file can be written in the folder, or in
    what exists of it; makes nothing."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise WriteError(path, error, f"give another folder with {option}") from error


def is_leftover(name: str, of: str = "") -> bool:
    """Whether a file has the name of a temporary one, of any file or of the file `of`."""
    return name.startswith(f".{of[:NAME_KEPT]}{'.' if of else ''}") and name.endswith(".tmp")


def remove_leftovers(folder: Path, names: Sequence[str] = ("",)) -> None:
    """Remove the temporary files of `names`, or all, that killed processes left in the folder; no
    process may be writing one of them."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if any(is_leftover(path.name, name) for name in names):
            _remove(path)


class GrowingFile:
    """A file that grows by whole records. A record that the disk refuses is kept in memory, and
    written before the next one; a folder that was removed is missed until it is there again."""

    def __init__(self, path: Path) -> None:
        """Opens the file at its end. WriteError where it cannot be."""
        self.path = path
        self.waiting = b""
        """Records that are not in the file yet."""
        self._file: io.FileIO | None = None
        self._size = 0
        self._open()

    def append(self, record: bytes) -> None:
        """WriteError where the record has to wait."""
        self.waiting += record
        self.flush()

    def flush(self) -> None:
        """Write what is waiting. WriteError where the disk refuses."""
        if not self.waiting:
            return
        if self._file is None or not self.path.exists():
            self._open()
        assert self._file is not None
        data, self.waiting = self.waiting, b""
        try:
            done = 0
            while done < len(data):
                done += self._file.write(data[done:]) or 0
        except OSError as error:
            self.waiting = data
            self._cut()
            raise WriteError(self.path, error) from error
        self._size += len(data)

    def close(self) -> None:
        """WriteError where something could not be written to the end."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _open(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
            self._file = io.FileIO(self.path, "a")
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise WriteError(self.path, error) from error

    def _cut(self) -> None:
        """Without the part of a record that fitted."""
        assert self._file is not None
        try:
            self._file.truncate(self._size)
        except OSError:
            self._file.close()
            self._file = None


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk; systems without folder handles do it on their own."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # a folder that may be written but not read; the file is there
    try:
        os.fsync(handle)
    except OSError:
        pass  # a file system that cannot
    finally:
        os.close(handle)
