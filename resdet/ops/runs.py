"""COCO's compressed run-length codes, read without a dense mask of the whole image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels, the last two outside."""

CONTINUES = 0x20
"""The bit of a digit that another one of the same number follows."""
_NEGATIVE = 0x10
_MOST_DIGITS = 7
"""32 bits: no image has more pixels."""
_ONE_DIGIT = np.arange(64) % 32 - 32 * (np.arange(64) % 32 >= _NEGATIVE)
"""The number that a single digit stands for: five bits, the highest of them the sign."""


def read_runs(
    code: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Reads the codes of G masks at once.

    Args:
        code: the bytes of all masks, none malformed; offsets: (G + 1,) first byte of each.
    Returns:
        The runs of all masks, of 0 and 1 in turn, and (G + 1,) the first run of each.
    """
    digits = code - np.uint8(48)
    ends = np.flatnonzero(digits < CONTINUES)
    numbers = _numbers(digits, ends)
    bounds = np.searchsorted(ends, offsets)
    # A mask's first three runs are given whole, later ones as the difference to the second before:
    # two chains of sums, which take back what came before wherever a run is whole.
    whole = bounds[:-1, None] + np.arange(3)
    whole = whole[whole < bounds[1:, None]]
    runs = np.empty_like(numbers)
    for parity in (0, 1):
        chain, begins = numbers[parity::2], whole[whole % 2 == parity] // 2
        if len(begins):
            chain[begins[1:]] -= np.add.reduceat(chain, begins)[:-1]
            np.cumsum(chain, out=runs[parity::2])
    return runs, bounds


def _numbers(digits: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers whose last digits are at `ends`; -2⁴⁰ for one of too many digits."""
    numbers = _ONE_DIGIT[digits[ends]]
    counts = np.diff(ends, prepend=-1)
    long = np.flatnonzero(counts > 1)
    if not len(long):
        return numbers
    starts, sizes = ends[long] - counts[long] + 1, counts[long]
    values = np.zeros(len(long), np.int64)
    for place in range(min(_MOST_DIGITS, sizes.max())):
        more = (digits[starts + np.minimum(place, sizes - 1)] & (CONTINUES - 1)).astype(np.int64)
        values += np.where(place < sizes, more << (5 * place), 0)
    is_negative = (digits[ends[long]] & _NEGATIVE) > 0
    values -= is_negative * (1 << (5 * np.minimum(sizes, _MOST_DIGITS)))
    numbers[long] = np.where(sizes > _MOST_DIGITS, -(1 << 40), values)
    return numbers


def decode_window(rle: dict[str, Any]) -> tuple[Window, NDArray[np.bool_]]:
    """The mask of a compressed RLE as (h, w) in the window around its pixels; an empty one has no
    pixels.

    Takes time and memory by the window, not by the image. A mask with a run over several columns
    gets a window of the whole height.
    """
    height, counts = int(rle["size"][0]), rle["counts"]
    code = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8)
    runs, _ = read_runs(code, np.array([0, len(code)]))
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    some = ends > starts
    return _filled(starts[some], ends[some], height)


def _filled(
    starts: NDArray[np.int64], ends: NDArray[np.int64], height: int
) -> tuple[Window, NDArray[np.bool_]]:
    """The mask of pixels, counted down the columns of an image, from each start up to its end."""
    if not len(starts):
        return (0, 0, 0, 0), np.zeros((0, 0), np.bool_)
    columns, last_columns = starts // height, (ends - 1) // height
    x1, x2 = int(columns[0]), int(last_columns[-1]) + 1
    y1, y2 = 0, height
    if (columns == last_columns).all():
        y1, y2 = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
    tall = y2 - y1
    changes = np.zeros((x2 - x1) * tall + 1, np.int8)
    first = (columns - x1) * tall + starts % height - y1
    changes[first] += 1
    # an end may be where the next column starts, so it is counted from its start
    changes[first + ends - starts] -= 1
    inside = np.cumsum(changes[:-1], dtype=np.int8).view(np.bool_)
    return (x1, y1, x2, y2), inside.reshape(x2 - x1, tall).T
