"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from resdet.errors import UserError
from resdet.files.writing import (
    GrowingFile,
    WriteError,
    check_folder,
    make_folder,
    open_atomic,
    remove_leftovers,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_whole_and_leave_nothing_beside_them(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "größer\n").read_bytes() == "größer\n".encode()
    assert write_bytes(tmp_path / "b", b"\r\n\0").read_bytes() == b"\r\n\0"
    assert write_json(tmp_path / "c.json", {"ä": [1]}).read_text("utf-8").startswith('{\n  "ä"')
    write_csv(tmp_path / "d.csv", [{"x": 1, "y": "a,b"}])
    assert (tmp_path / "d.csv").read_bytes() == b'x,y\r\n1,"a,b"\r\n'
    assert names(tmp_path) == ["a.txt", "b", "c.json", "d.csv"]


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    cells = ["=HYPERLINK(1)", "+x", "-x", "@SUM(A1)", " =1+1", "\t=1", "-1.5", "a=b", "a\nb\x1b"]
    path = write_csv(tmp_path / "a.csv", [{"=name": cell, "AP": -0.5} for cell in cells])
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["'=name", "AP"]
    assert [row[0] for row in rows] == [
        *("'=HYPERLINK(1)", "'+x", "'-x", "'@SUM(A1)", "' =1+1", r"\t=1"),
        *("-1.5", "a=b", r"a\nb\x1b"),
    ]
    assert {row[1] for row in rows} == {"-0.5"}


def test_names_that_are_not_utf8_survive_in_json(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    path = write_json(tmp_path / "a.json", {"file_name": name, "ä": 1})
    assert json.loads(path.read_text("utf-8")) == {"file_name": name, "ä": 1}


def test_an_exception_keeps_the_former_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), open_atomic(path) as file:
        file.write("half of the n")
        raise ZeroDivisionError
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_killed_writer_keeps_the_former_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    code = (
        "import os, signal, sys\nfrom resdet.files.writing import open_atomic\n"
        "with open_atomic(sys.argv[1]) as file:\n"
        "    file.write('new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.glob(".a.txt.*.tmp"))) == 1


def limited(folder: Path, write: Callable[[IO[Any]], object]) -> WriteError:
    """What `open_atomic` raises where a file may have 100,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(WriteError) as caught, open_atomic(folder / "a.bin", "wb") as file:
            write(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return caught.value


@pytest.mark.parametrize("library", ["bytes", "pickle", "numpy", "zip", "torch"])
def test_what_the_disk_refuses_is_named_whatever_was_writing(tmp_path: Path, library: str) -> None:
    """torch raises its own RuntimeError, zipfile hides the first error by a second."""
    big = np.zeros(50_000)

    def zipped(file: IO[Any]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", big.tobytes())

    writers: dict[str, Callable[[IO[Any]], object]] = {
        "bytes": lambda file: file.write(big.tobytes()),
        "pickle": lambda file: pickle.dump(big, file),
        "numpy": lambda file: np.savez(file, a=big),
        "zip": zipped,
        "torch": lambda file: torch.save({"a": torch.from_numpy(big)}, file),
    }
    write_text(tmp_path / "a.bin", "old")
    error = limited(tmp_path, writers[library])
    assert isinstance(error, UserError) and isinstance(error, OSError)
    assert error.errno == errno.EFBIG and "\n" not in str(error)
    assert str(error).startswith(f"{tmp_path}/a.bin: cannot be written: file too large; raise the")
    assert names(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_text() == "old"


def test_remedies_follow_the_reason(tmp_path: Path) -> None:
    for number, words in (
        (errno.ENOSPC, "no space left on device; free some space or give another folder"),
        (errno.EDQUOT, "disk quota exceeded; free some space, raise the quota, or give"),
        (errno.EROFS, "read-only file system; give another folder"),
    ):
        assert words in str(WriteError(tmp_path / "a", OSError(number, os.strerror(number))))
    with pytest.raises(WriteError, match="no such file or directory; the folder was removed"):
        write_text(tmp_path / "gone" / "a.txt", "")
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file: cannot be made a folder: file exists; .* --out"):
        make_folder(tmp_path / "file")


def test_a_folder_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    check_folder(tmp_path / "is" / "made" / "later")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/runs: cannot be written: not a directory; .*--out"):
        check_folder(tmp_path / "file" / "runs")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_folder_of_somebody_else_is_refused() -> None:
    """By a process that is not root, which may write anywhere."""
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from resdet.files.writing import check_folder, write_text\n"
        "from resdet.files.lock import FolderLock\n"
        "os.setgid(65534); os.setuid(65534)\nrun = Path(sys.argv[1])\n"
        "for refused in (lambda: check_folder(run), lambda: write_text(run / 'a', ''),\n"
        "                lambda: check_folder(run / 'b' / 'c'), FolderLock(run).acquire):\n"
        "    try:\n        refused()\n    except ValueError as error:\n        print(error)\n"
    )
    with tempfile.TemporaryDirectory() as run:  # tmp_path is in a folder of root alone
        Path(run).chmod(0o755)
        done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all("permission denied; give another" in line for line in lines)


def test_errors_of_something_else_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_atomic(tmp_path / "a.txt"):
        (tmp_path / "input").read_text()


def test_a_name_as_long_as_the_system_takes_is_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127):
        assert write_text(tmp_path / name, "x").read_text() == "x"


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    for name in (".last.pt.12.tmp", ".last.pt.12.ab12cd.tmp", ".eval.json.12.tmp", "last.pt"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, ["last.pt", "best.pt"])
    assert names(tmp_path) == [".eval.json.12.tmp", "last.pt"]


def test_a_growing_file_keeps_what_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = GrowingFile(tmp_path / "log")
    file.append(b"one\n")
    room = [2]

    class Full(io.FileIO):
        """Takes half of a record, and refuses the other half."""

        def write(self, data: Any, /) -> int:
            if room[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = super().write(data[: room[0]])
            room[0] -= written
            return written

    monkeypatch.setattr(file, "_file", Full(tmp_path / "log", "a"))
    for record in (b"two\n", b"three\n"):
        with pytest.raises(WriteError, match="no space left"):
            file.append(record)
        assert (tmp_path / "log").read_bytes() == b"one\n"
    room[0] = 100
    file.append(b"four\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\nthree\nfour\n"
    file.close()


def test_a_growing_file_waits_for_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = GrowingFile(folder / "log")
    file.append(b"one\n")
    shutil.rmtree(folder)
    with pytest.raises(WriteError, match="the folder was removed"):
        file.append(b"two\n")
    folder.mkdir()
    file.append(b"three\n")
    file.close()
    assert (folder / "log").read_bytes() == b"two\nthree\n"
