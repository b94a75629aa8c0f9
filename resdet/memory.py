"""Memory that a process keeps for its next arrays, and the exceptions where it is short."""

import ctypes

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
