"""Strings and ids of whole data sets in flat arrays.

Forked workers share arrays. They would copy a list of Python objects, because reading an object
changes its reference count, and with it the memory page that holds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """File names in order, by position.

    `text` is (bytes,) uint8, all names joined; `ends` (N,) int64, where each of them ends.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # rows: see `select`
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])].tobytes())

    def select(self, rows: NDArray[np.int64]) -> Names:
        """The names of some rows, in the order of `rows`."""
        return pack_names(self[row] for row in rows.tolist())


def pack_names(names: Iterable[str]) -> Names:
    """Packs strings, file names in any encoding included."""
    encoded = [os.fsencode(name) for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return Names(np.frombuffer(b"".join(encoded), np.uint8), ends)


class Ids(Sequence[int | str]):
    """Image ids in order: an int64 array, or each as JSON text where some are not such numbers."""

    def __init__(self, values: NDArray[np.int64] | Names) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> int | str:  # type: ignore[override]  # rows: see `select`
        value = self.values[index]
        return json.loads(value) if isinstance(value, str) else int(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def tolist(self) -> list[int | str]:
        if isinstance(self.values, Names):
            return [json.loads(value) for value in self.values]
        return self.values.tolist()

    def select(self, rows: NDArray[np.int64]) -> Ids:
        """The ids of some rows, in the order of `rows`."""
        values = self.values
        return Ids(values.select(rows) if isinstance(values, Names) else values[rows])


def pack_ids(ids: Sequence[int | str]) -> Ids:
    """Packs whole numbers and strings."""
    if set(map(type, ids)) <= {int}:
        try:
            return Ids(np.array(ids, np.int64))
        except OverflowError:
            pass
    return Ids(pack_names(map(json.dumps, ids)))
