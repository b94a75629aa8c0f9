"""Memory is kept where the C library can, and what is left of it is counted."""

from __future__ import annotations

import ctypes
import platform

import pytest

from resdet.memory import available_memory, give_memory_back, keep_memory, resident_memory


def test_glibc_keeps_memory() -> None:
    assert keep_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_free_between_pieces_in_use_goes_back() -> None:
    keep_memory()
    pieces = [bytearray(b"1") * 2**20 for _ in range(200)]
    pieces[:-1] = [None] * 199  # type: ignore[list-item]
    before = resident_memory()
    assert give_memory_back()
    after = resident_memory()
    assert before is not None and after is not None and before - after > 100 * 2**20


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_libraries_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(name: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert not keep_memory() and not give_memory_back()


@pytest.mark.parametrize(
    ("group", "files", "left"),
    [
        ("0::/job/a", {"job/memory.max": 5000, "job/memory.current": 3000}, 2500),
        ("0::/job/a", {"job/memory.max": "max", "job/memory.current": 3000}, 1_024_000),
        # a container sees its own group as the top one
        ("0::/host/job", {"memory.max": 900, "memory.current": 1000}, 400),
        (
            "4:memory:/job",
            {"memory/job/memory.limit_in_bytes": 7000, "memory/job/memory.usage_in_bytes": 3000},
            4500,
        ),
        ("4:cpuset:/job", {"job/memory.max": 5000, "job/memory.current": 3000}, 1_024_000),
    ],
)
def test_available_memory_is_within_the_limits_of_control_groups(tmp_path, group, files, left):
    for name, value in {
        "proc/meminfo": "MemTotal: 9999 kB\nMemAvailable:   1000 kB\n",
        "proc/self/cgroup": f"9:name=systemd:/\n{group}\n",
        **{f"sys/fs/cgroup/{name}": value for name, value in files.items()},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(value))
        stat = "anon 1\ninactive_file 500\ntotal_inactive_file 500\n"
        (path.parent / "memory.stat").write_text(stat)
    assert available_memory(tmp_path) == left


def test_available_memory_of_this_machine():
    left = available_memory()
    assert left is not None and left > 2**26
