"""Ids as annotation and result files write them: 1, 1.0 and "1" stand for one thing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.files.json import whole_number

LARGEST_ID = 10**100
"""Python writes no whole number of thousands of digits."""


def as_id(value: Any) -> int | str | None:
    """The id that a value of a file is: a whole number or text; None for what is neither."""
    if isinstance(value, str):
        return value or None
    own = value if type(value) is int else whole_number(value)
    return own if own is not None and abs(own) < LARGEST_ID else None


class IdRows:
    """Rows by id.

    Args:
        row_of: the row of each id, whole numbers and text.
    """

    def __init__(self, row_of: Mapping[Any, int]) -> None:
        self.row_of = row_of
        self._alike: dict[Any, int] | None = None

    def find(self, keys: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The row of each of n keys, and whether it is written in another form than the id is.

        A key that is not an id as written is compared as a number. Its row is -1 if no id is the
        same number, or several are.
        """
        known: Iterable[Any] = keys
        if not set(map(type, keys)) <= {int, str}:
            known = (key if type(key) in (int, str) else None for key in keys)
        rows = np.fromiter(map(self.row_of.get, known, repeat(-1)), np.int64, len(keys))
        other = np.zeros(len(keys), bool)
        unknown = np.flatnonzero(rows < 0).tolist()
        if unknown:
            alike = self._by_form()
            rows[unknown] = [alike.get(_form(keys[row]), -1) for row in unknown]
            other[unknown] = rows[unknown] >= 0
        return rows, other

    def _by_form(self) -> dict[Any, int]:
        """Rows by the form in which ids are compared; -1 for a form of several."""
        if self._alike is None:
            self._alike = {}
            for key, row in self.row_of.items():
                form = _form(key)
                self._alike[form] = -1 if form in self._alike else row
            self._alike[None] = -1
        return self._alike


def _form(key: Any) -> int | str | None:
    """What an id is compared by: its number, else its text; None for what is not one."""
    number = whole_number(key)
    if number is not None:
        return number
    own = as_id(key)
    return own if own is None else str(own)
