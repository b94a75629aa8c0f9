"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resdet.files.writing import open_atomic, write_bytes, write_csv, write_json, write_text


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
