"""Arrays that grow chunk by chunk, in one piece of memory each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import Outlines
from resdet.data.detection.table import Ragged
from resdet.files.findings import DataError


class Column:
    """An array of unknown length; a list of chunks would take twice its memory at the end."""

    def __init__(self, dtype: type[np.generic], *shape: int) -> None:
        self.dtype, self.shape = dtype, shape
        self.bytes = bytearray()

    def extend(self, values: Any) -> None:
        """Adds (n, *shape) values."""
        self.bytes += np.asarray(values, self.dtype).tobytes()

    def array(self) -> NDArray[Any]:
        """All values so far; afterwards the column must not grow."""
        return np.frombuffer(self.bytes, self.dtype).reshape(-1, *self.shape)


class RaggedColumn:
    """Lists of values."""

    def __init__(self, dtype: type[np.generic], *shape: int) -> None:
        self.values, self.lengths = Column(dtype, *shape), Column(np.int64)

    def extend(self, values: Any, lengths: Sequence[int] | NDArray[np.int64]) -> None:
        """Adds one list per length, their values one after the other."""
        self.values.extend(values)
        self.lengths.extend(lengths)

    def ragged(self) -> Ragged:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths.array())])
        return Ragged(self.values.array(), offsets)


class OutlineColumns:
    """The outlines of objects."""

    def __init__(self) -> None:
        self.kinds, self.parts = Column(np.uint8), Column(np.int64)
        self.points, self.rle = RaggedColumn(np.float64, 2), RaggedColumn(np.uint8)

    def extend(self, outlines: Outlines) -> None:
        self.kinds.extend(outlines.kinds)
        self.parts.extend(np.diff(outlines.part_offsets))
        self.points.extend(outlines.points, np.diff(outlines.point_offsets))
        self.rle.extend(outlines.rle, np.diff(outlines.rle_offsets))

    def outlines(self) -> Outlines:
        points, rle = self.points.ragged(), self.rle.ragged()
        parts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.parts.array())])
        return Outlines(
            self.kinds.array(), parts, points.offsets, points.values, rle.offsets, rle.values
        )


def join_extras(arrays: Sequence[NDArray[Any]], key: str, file: str) -> NDArray[Any]:
    """Further values (n, …) of a key as one array; shape (n, 0), which is none, becomes 0.

    Raises:
        DataError: their shapes do not agree, or no object has a value.
    """
    shape = next((array.shape[1:] for array in arrays if array.shape[1:] != (0,)), (0,))
    filled = [
        np.zeros((len(array), *shape), bool) if array.shape[1:] == (0,) else array
        for array in arrays
    ]
    if shape == (0,) and any(map(len, arrays)):
        what = "no annotation has this key; correct its name or remove it"
    elif {array.shape[1:] for array in filled} > {shape}:
        what = "not equally many numbers per object; make them agree, or remove the key"
    else:
        return np.concatenate(filled) if filled else np.zeros((0, 0))
    raise DataError(f"{file}: data.extras: {key}: {what}")
