"""Many strings in two arrays, which forked workers share: a list is copied as it is counted."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Names:
    """File names in order, by position.

    `text` is (bytes,) uint8, all names on end; `ends` (N,) int64, where each of them ends.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())

    def select(self, rows: NDArray[np.int64]) -> Names:
        """The names of some rows, in their order."""
        return pack_names(self[row] for row in rows.tolist())


def pack_names(names: Iterable[str]) -> Names:
    """Names of strings that a file system gave, in whatever encoding."""
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return Names(np.frombuffer(b"".join(encoded), np.uint8), ends)
