"""Memory that a process keeps for its next arrays."""

from __future__ import annotations

import ctypes

KEEP = 2**31 - 1
"""Bytes that may lie free before any are given back: the most that glibc takes."""

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""glibc's names for these two (malloc.h)."""


def keep_memory() -> bool:
    """Keep what this process frees, if its C library is glibc; returns whether it is.

    By default arrays of megabytes are fetched from the system one by one and go back to it, and
    their pages, four kilobytes each, are made anew for the next ones: up to half of the time of a
    sample in a worker, an eighth of that of an image through a detector on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEEP) and mallopt(MMAP_MAX, 0))
