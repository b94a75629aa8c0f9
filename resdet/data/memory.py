"""Memory that a loader's worker keeps for its next images."""

from __future__ import annotations

import ctypes

KEEP = 2**30
"""Bytes that may lie free before any are given back; a worker's images need a part of it."""

LARGE = 2**25
"""Bytes from which an array is fetched from the system by itself: the most that glibc takes."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's names for these two (malloc.h)."""


def keep_memory() -> bool:
    """Keep what this process frees, if its C library is glibc; returns whether it is.

    By default arrays of megabytes go back to the system, and their pages are fetched anew for the
    next image, a few kilobytes each time: up to half of the time of a sample.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEEP) and mallopt(MMAP_THRESHOLD, LARGE))
