"""Memory: what is left of it, what a process keeps of it, and the exceptions where it is short."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KEEP = 2**31 - 1
"""Bytes that may be free before any are given back: the most that glibc takes."""

LARGE = 2**25
"""Bytes from which an array is fetched from the system by itself: the most that glibc takes.
Keeping the larger ones too would save more time, and needs a fifth more memory in training."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for these two (malloc.h)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the machine or of a GPU does not suffice."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's allocator of the CPU has no exception of its own
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of RAM that this process can still take, within the limits of its control groups; all
    RAM where the system does not count what is free (macOS), None where it tells neither.

    `root` is the folder that holds /proc and /sys.
    """
    lines = {}
    with suppress(OSError):
        text = (root / "proc/meminfo").read_text()
        lines = {line.split(":")[0]: line.split() for line in text.splitlines()}
    if "MemAvailable" in lines:
        return min([int(lines["MemAvailable"][1]) * 1024, *_left_in_groups(root)])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """Of each control group around this process that has a limit: bytes up to it. What caches of
    files take counts as left."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = "sys/fs/cgroup/memory"
        else:
            continue
        # in a container its own group may be mounted as the top one
        own = Path(path.lstrip("/"))
        for folder in (root / top / group for group in (own, *own.parents)):
            with suppress(OSError, ValueError):  # no such group, or "max"
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                rows = (folder / "memory.stat").read_text().splitlines()
                stat = dict(row.split() for row in rows)
                yield max(0, limit - used + int(stat.get(names[2], 0)))


def resident_memory() -> int | None:
    """Bytes of RAM that this process has now; None where the system does not count them."""
    try:
        words = Path("/proc/self/status").read_text().split()
    except OSError:
        return None
    return int(words[words.index("VmRSS:") + 1]) * 1024 if "VmRSS:" in words else None


def forget_peak() -> bool:
    """Count the peak of this process's memory from here on; whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def give_memory_back() -> bool:
    """Return what this process has freed and kept, if its C library is glibc; whether it could.

    What is free between pieces in use goes back as well: in a server, whose images have all sizes,
    it grows for hours otherwise.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))


def keep_memory() -> bool:
    """Keep what this process frees, if its C library is glibc; returns whether it is.

    By default arrays of megabytes are fetched from the system one by one and go back to it, and
    their pages, four kilobytes each, are mapped again for the next ones: up to half of the time of
    a sample in a worker, a fourteenth of a training step of a detector on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEEP) and mallopt(MMAP_THRESHOLD, LARGE))
