"""COCO's compressed run-length code of masks: what is read, and what is no code.

The libraries that work on it do not ask: they read past its end, or, where its runs are fewer
pixels than the mask has, wait for the rest for ever.

A number is digits of five bits, the lowest first, in characters from 48 on; 0x20 says that more
follow, and 0x10 of the last one is the sign. From the fourth on it is the difference to the run two
before (pycocotools, `rleFrString`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CHARACTERS = bytes(range(48, 112))
_CONTINUES = 0x20
_NEGATIVE = 0x10
_MOST_DIGITS = 7
"""32 bits: no image has more pixels."""
CODES_AT_ONCE = 128
"""What lies in the second cache: twice as quick as 4,096."""


def is_rle_text(code: bytes) -> bool:
    """Whether `code` is one number or more, of any size."""
    return bool(code) and not code.translate(None, _CHARACTERS) and code[-1] - 48 < _CONTINUES


def are_rle_codes(codes: Sequence[bytes], pixels: Sequence[int]) -> bool:
    """Whether each of `codes` is runs that add up to its number of `pixels`."""
    if not all(map(is_rle_text, codes)):
        return False
    for start in range(0, len(codes), CODES_AT_ONCE):
        part = codes[start : start + CODES_AT_ONCE]
        code = np.frombuffer(b"".join(part), np.uint8)
        offsets = np.cumsum([0, *map(len, part)])
        if has_wrong_total(code, offsets, np.array(pixels[start : start + CODES_AT_ONCE])).any():
            return False
    return True


def has_wrong_total(
    code: NDArray[np.uint8], offsets: NDArray[np.int64], pixels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(G,) whose runs do not add up to `pixels` (G,), or are negative; arguments as `read_runs`."""
    if not len(pixels):
        return np.zeros(0, bool)
    runs, bounds = read_runs(code, offsets)
    firsts = bounds[:-1]
    return (np.add.reduceat(runs, firsts) != pixels) | (np.minimum.reduceat(runs, firsts) < 0)


def read_runs(
    code: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Reads the codes of G masks at once.

    Args:
        code: the bytes of all masks, which `is_rle_text`; offsets: (G + 1,) first byte of each.
    Returns:
        The runs of all masks, of 0 and 1 in turn, and (G + 1,) the first run of each.
    """
    digits = code - np.uint8(48)
    ends = np.flatnonzero(digits < _CONTINUES)
    numbers = _numbers(digits, ends)
    bounds = np.searchsorted(ends, offsets)
    firsts, sizes = bounds[:-1], np.diff(bounds)
    # The differences are summed over every second number, from a mask's second and third on.
    sums = np.empty_like(numbers)
    for parity in (0, 1):
        np.cumsum(numbers[parity::2], out=sums[parity::2])
    before_second = np.where(firsts > 0, sums[firsts - 1], 0)
    ranks = np.arange(len(numbers)) - np.repeat(firsts, sizes)
    before = np.where(ranks & 1, np.repeat(before_second, sizes), np.repeat(sums[firsts], sizes))
    runs = sums - before
    runs[firsts] = numbers[firsts]
    return runs, bounds


def _numbers(digits: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers whose last digits are at `ends`; -2⁴⁰ for one of too many digits."""
    starts = np.append(0, ends + 1)[:-1]
    counts = ends - starts + 1
    numbers = (digits[starts] & (_CONTINUES - 1)).astype(np.int64)
    longer = np.flatnonzero(counts > 1)
    for place in range(1, _MOST_DIGITS):
        more = (digits[starts[longer] + place] & (_CONTINUES - 1)).astype(np.int64)
        numbers[longer] += more << (5 * place)
        longer = longer[counts[longer] > place + 1]
    signed = np.flatnonzero(digits[ends] & _NEGATIVE)
    numbers[signed] -= 1 << (5 * np.minimum(counts[signed], _MOST_DIGITS))
    numbers[longer] = -(1 << 40)
    return numbers
