"""Images that show the same: equal files, and files that were scaled, brightened or stored again.

Candidates are images whose structure hashes differ in few bits. They are looked up in four tables
of 16 bits each, so that no image is compared with every other one. A candidate counts if the small
gray images agree as well once their coarse light is taken out, which images of one scene, of one
microscope or of one X-ray machine have in common without being the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from resdet.data.looks import THUMB, Looks

BITS = 7
"""Of 64 in which the structure hashes of candidates may differ. Of so many bits one of the four
tables has at most one, and all neighbours at one bit are looked up."""

AGREEMENT = 0.8
"""Correlation of the fine structure of two small images from which they show the same."""

PLAIN = 3.0
"""Deviation of the luminance, 0..255, below which an image has no structure to compare."""

MOST_IN_A_CELL = 64
"""Images that are taken from one cell of a table; a cell with more holds one scene."""

MOST_CANDIDATES = 16
"""Earlier images with which one is compared at most: frames of a video resemble thousands."""

CHUNK = 1 << 16
"""Pairs whose small images are compared at once."""


@dataclass(frozen=True)
class Pairs:
    """Images that show the same."""

    first: NDArray[np.int64]
    """(P,) rows; each image is paired with one image before it."""
    second: NDArray[np.int64]
    """(P,) rows after `first`, each once."""
    equal: NDArray[np.bool_]
    """(P,) whether the files are equal byte for byte."""


def find_alike(looks: Looks) -> Pairs:
    """Each image that shows the same as an earlier one, with the first such image; equal files are
    preferred."""
    count = len(looks)
    _, firsts, which = np.unique(looks["digest"], return_index=True, return_inverse=True)
    first_of = firsts[which.reshape(-1)]
    equal = first_of != np.arange(count)
    alone = np.flatnonzero(~equal & (looks["spread"] >= PLAIN))
    one, two = _candidates(looks["hash"][alone])
    agree = _agree(looks["thumb"], alone[one], alone[two])
    first_of = first_of.astype(np.int64)
    # of several partners the first one counts
    order = np.argsort(-one[agree], kind="stable")
    first_of[alone[two[agree][order]]] = alone[one[agree][order]]
    second = np.flatnonzero(first_of != np.arange(count))
    return Pairs(first_of[second], second, equal[second])


def _candidates(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows (P,) and later rows (P,) of hashes that differ in at most `BITS` bits."""
    found = [np.zeros((2, 0), np.int64)]
    number = np.zeros(len(hashes), np.int64)
    for shift in (0, 16, 32, 48):
        keys = ((hashes >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=1 << 16)
        starts = np.cumsum(counts) - counts
        for flipped in (0, *(1 << bit for bit in range(16))):
            cells = keys ^ flipped
            for place in range(min(int(counts.max(initial=0)), MOST_IN_A_CELL)):
                rows = np.flatnonzero((counts[cells] > place) & (number < MOST_CANDIDATES))
                others = order[starts[cells[rows]] + place]
                near = (others < rows) & (_differing(hashes[rows], hashes[others]) <= BITS)
                number[rows[near]] += 1
                found.append(np.stack([others[near], rows[near]]))
    pairs = np.unique(np.concatenate(found, axis=1), axis=1)
    return pairs[0], pairs[1]


_COUNTS = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def _differing(one: NDArray[np.uint64], two: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) bits in which words (n,) differ."""
    words = (one ^ two).view(np.uint16).reshape(len(one), 4)
    return _COUNTS[words].sum(axis=1, dtype=np.int64)


def _agree(
    thumbs: NDArray[np.uint8], one: NDArray[np.int64], two: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(P,) whether the small images of two rows have the same fine structure."""
    results = [np.zeros(0, bool)]
    for start in range(0, len(one), CHUNK):
        rows = [each[start : start + CHUNK] for each in (one, two)]
        used, places = np.unique(np.concatenate(rows), return_inverse=True)
        fine = np.stack([_fine(thumbs[row]) for row in used.tolist()])
        first, second = np.split(places.reshape(-1), 2)
        results.append((fine[first] * fine[second]).sum(axis=1) >= AGREEMENT)
    return np.concatenate(results)


def _fine(thumb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(THUMB²,) what a blur takes from a small image, with mean 0 and norm 1."""
    values = thumb.astype(np.float32)
    values -= cv2.GaussianBlur(values, (0, 0), THUMB / 10)
    values -= values.mean()
    return (values / max(float(np.linalg.norm(values)), 1e-6)).reshape(-1)
