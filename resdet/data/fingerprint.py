"""Fingerprints of data sets, image by image: whether a resumed run, or another process, has the
same data, and which images differ where it has not.

They cover names, annotations and the sizes of files. They hold no paths, so that data may move, and
no pixels: a file of another content and the same length passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.names import Names

FILES, SAMPLE = 20_000, 5_000
"""Of a set of more than `FILES` images only a `SAMPLE` of files, evenly spaced, is looked at: a
million takes minutes on a network disk."""

CHUNK = 2**17
"""Words that are hashed at once: their intermediate values stay in the processor's cache."""

STAT_THREADS = 8
"""Waiting for a network disk takes no processor."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ODD = np.uint64(0xFF51AFD7ED558CCD)


@dataclass(frozen=True)
class Fingerprint:
    """Of one data set with N images."""

    classes: str
    """Of the names and ids of the classes, in order."""
    names: NDArray[np.int64]
    """(N,) of the file names, relative to their folders."""
    annotations: NDArray[np.int64]
    """(N,) of all that is annotated: sizes, boxes, outlines, classes."""
    files: NDArray[np.int64]
    """(F,) bytes of the files of `sampled_rows(N)`; −1 for one that can't be looked at. Empty where
    the images are not files."""
    left_out: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(L,) of the names of images that were left out before training, as missing or broken."""

    def digest(self) -> str:
        """One short text for all of it."""
        digest = hashlib.sha256(self.classes.encode())
        for values in (self.names, self.annotations, self.files):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


def sampled_rows(count: int) -> NDArray[np.int64]:
    """The images, of `count`, whose file sizes are part of the fingerprint."""
    number = count if count <= FILES else SAMPLE
    return np.linspace(0, count - 1, number).round().astype(np.int64)


def file_bytes(path_of: Callable[[int], Path], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) bytes of the files of some images; −1 for a file that can't be looked at."""

    def sizes(part: NDArray[np.int64]) -> list[int]:
        return [_file_bytes(path_of(row)) for row in part.tolist()]

    parts = np.array_split(rows, STAT_THREADS)
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return np.array([size for part in pool.map(sizes, parts) for size in part], np.int64)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def hash_names(names: Names) -> NDArray[np.int64]:
    """(N,) of each name."""
    offsets = np.concatenate([np.zeros(1, np.int64), names.ends])
    return hash_rows(names.text.astype(np.uint64), offsets)


def hash_texts(texts: Sequence[str]) -> str:
    """Of texts in order."""
    lengths = ",".join(str(len(text)) for text in texts)
    whole = "".join([lengths, "\n", *texts]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(whole).hexdigest()[:16]


def hash_rows(words: NDArray[np.uint64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R,) of rows of words (n,), row r from `offsets[r]` to `offsets[r + 1]`; order counts.

    A row is the sum of its words, each mixed with its place by MurmurHash3's finalizer.
    """
    rows = np.zeros(len(offsets) - 1, np.uint64)
    first = 0
    while first < len(rows):
        # rows are never cut, so that a long one is a chunk of its own
        last = int(np.searchsorted(offsets, offsets[first] + CHUNK, side="right")) - 1
        last = min(max(last, first + 1), len(rows))
        starts, stop = offsets[first:last], int(offsets[last])
        lengths = np.diff(offsets[first : last + 1])
        places = np.arange(starts[0], stop) - np.repeat(starts, lengths)
        mixed = mix(words[starts[0] : stop] + (places + 1).astype(np.uint64) * _GOLDEN)
        filled = np.flatnonzero(lengths)
        if len(filled):
            begins = (starts[filled] - starts[0]).astype(np.intp)
            rows[first:last][filled] = np.add.reduceat(mixed, begins)
        rows[first:last] += lengths.astype(np.uint64)
        first = last
    return mix(rows).view(np.int64)


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bijective: every bit of a word changes about half the bits of the result."""
    words = words ^ (words >> np.uint64(33))
    words *= _ODD
    words ^= words >> np.uint64(29)
    return words


def as_words(values: NDArray[np.generic]) -> NDArray[np.uint64]:
    """The numbers of an array, one word each."""
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, np.float64).view(np.uint64)
    return values.astype(np.int64).view(np.uint64)
