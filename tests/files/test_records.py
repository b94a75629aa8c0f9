"""Arrays of records can be read whenever the program that writes them ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resdet.files.findings import DataError
from resdet.files.records import RecordFile, holds_records, read_records
from resdet.files.writing import write_json


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))


def test_a_file_is_whole_after_every_record(tmp_path: Path) -> None:
    path, name = tmp_path / "a.json", os.fsdecode(b"caf\xe9")
    with RecordFile(path) as file:
        assert read(path) == []
        file.extend([])
        assert read(path) == []
        file.extend([{"a": 1}, {"ä": "größer"}])
        assert read(path) == [{"a": 1}, {"ä": "größer"}]
        file.extend([{"b": name}])
        assert read(path)[2:] == [{"b": name}]
        assert len(path.read_text("utf-8").splitlines()) == 5
    RecordFile(path).close()
    assert read(path) == []


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "mine.json"
    kept.write_text("mine")
    (tmp_path / "a.json").symlink_to(kept)
    with RecordFile(tmp_path / "a.json") as file:
        file.extend([{"a": 1}])
    assert kept.read_text() == "mine" and read(tmp_path / "a.json") == [{"a": 1}]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as far as one file is concerned."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [60, 97, 98, 99, 100, 101, 102, 103, 150])
def test_a_full_disk_leaves_the_records_before(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.json"
    with RecordFile(path) as file:
        written = 0
        with files_of_at_most(size), pytest.raises(OSError, match="File too large"):
            for number in range(100):
                file.extend([{"number": number, "text": "x" * 20}])
                written += 1
        assert [each["number"] for each in read(path)] == list(range(written))
        file.extend([{"number": written}])  # there is room again
        assert len(read(path)) == written + 1


WRITER = """
import sys
from resdet.files.records import RecordFile
with RecordFile(sys.argv[1]) as file:
    for number in range(10**9):
        file.extend([{"number": number, "text": "x" * 3000}] * 2)
"""


@pytest.mark.slow
def test_kills_leave_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for kill in range(30):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while not path.exists() or path.stat().st_size < 10_000:
            time.sleep(0.01)
        time.sleep(0.01 * kill)
        process.kill()
        process.wait()
        records = read_records(path, "records")
        assert [each["number"] for each in records] == [each // 2 for each in range(len(records))]


def test_a_file_that_a_kill_has_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.json"
    with RecordFile(path) as file:
        file.extend([{"number": number} for number in range(3)])
    whole = path.read_bytes()
    for length in range(whole.index(b"}") + 1, len(whole)):
        path.write_bytes(whole[:length])
        records = read_records(path, "records")
        assert records == [{"number": number} for number in range(whole[:length].count(b"}"))]
    path.write_bytes(whole[:-3] + b",]\n")  # the new bytes ended within the old bracket
    assert len(read_records(path, "records")) == 3
    assert "was cut within a record; the 2 complete records before it are read" in caplog.text
    for other in (b"[{", b"", b"[\n", b"[\n{}}\n", b'{"images": ['):
        path.write_bytes(other)
        with pytest.raises(DataError, match="not valid JSON"):
            read_records(path, "records")
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "absent.json", "records")


def test_own_files_are_told_from_others(tmp_path: Path) -> None:
    path, keys = tmp_path / "a.json", ("id", "drawn")
    assert not holds_records(path, keys)
    with RecordFile(path) as file:
        assert holds_records(path, keys)
        file.extend([{"id": 1, "drawn": "a.jpg"}, {"id": 2, "drawn": None}])
    assert holds_records(path, keys) and not holds_records(path, ("score",))
    others = [[{"id": 1, "drawn": "a.jpg"}], {"images": []}, [1], []]
    for other in others:
        write_json(path, other)
        assert not holds_records(path, ("id", "images"))
    for text in ("", "[\n", "[\n]x", "[\n{", "\0\1", "[\n7,\n8\n]\n"):
        path.write_text(text)
        assert not holds_records(path, keys)
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    assert not holds_records(tmp_path / "link.json", keys)
    assert not holds_records(tmp_path, keys)
