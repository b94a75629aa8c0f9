"""Mistakes that show only in whole sets: class names that nearly agree, images in both sets."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from resdet.data.fingerprint import STAT_THREADS, hash_rows, hash_texts, mix
from resdet.data.names import Names
from resdet.files.findings import SHOWN, Finding, log_findings, strict_error

NEAR_NAMES = 200
"""Of more classes than this, names one letter apart are not a surprise (hammer and hamper)."""

SHORTEST = 5
"""Letters of a word that may be a misspelled other one; bolt and boat are two words."""

LONG = 8
"""Letters of a word that hardly is another one with one letter replaced."""

RARE = 0.2
"""Share of the objects of one name, of those of the other, up to which it may be a slip."""

SAME_CLASS = "they count as two classes; if they are one, give it one name"

LEAKED = (
    "metrics on images that were trained on say nothing about others; validate on images of their "
    "own"
)


def check_class_names(
    file: str, names: Sequence[str], counts: NDArray[np.int64], findings: list[Finding]
) -> None:
    """Adds a finding for each two classes whose names look like one; `counts` (K,) are of what has
    them."""
    plain: dict[str, str] = {}
    for name in names:
        other = plain.setdefault(_plain(name), name)
        if other != name:
            _add_names(file, other, name, "differ by case, spaces or punctuation", findings)
    if len(plain) > NEAR_NAMES:
        return
    count_of = dict(zip(names, counts.tolist(), strict=True))
    for one, two in combinations(plain, 2):
        few, many = sorted((count_of[plain[one]], count_of[plain[two]]))
        if _is_slip(one, two, is_rare=few <= RARE * many):
            _add_names(file, plain[one], plain[two], "differ by one letter", findings)


def _add_names(file: str, one: str, two: str, how: str, findings: list[Finding]) -> None:
    findings.append(Finding(file, f"classes {one!r} and {two!r}", how, SAME_CLASS))


def _plain(name: str) -> str:
    """The name without case, and with one space for whatever is between its words."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\W_]+", " ", text).strip() or name


def _is_slip(one: str, two: str, *, is_rare: bool) -> bool:
    """Whether names differ in one word by one letter behind its first. Numbers never are, and a
    replaced letter is one only in long words or where one name `is_rare`: castle and cattle."""
    words, others = one.split(), two.split()
    if len(words) != len(others):
        return False
    differing = [pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]]
    if len(differing) != 1:
        return False
    short, long = sorted(differing[0], key=len)
    if len(short) < SHORTEST or len(long) - len(short) > 1 or not (short + long).isalpha():
        return False
    start = next((k for k, letter in enumerate(short) if letter != long[k]), len(short))
    if len(short) < len(long):
        is_near = long[start + 1 :] == short[start:]
    else:
        is_near = long[start + 1 :] == short[start + 1 :] and (is_rare or len(long) >= LONG)
    return start > 0 and is_near


@dataclass
class Images:
    """The images of a data set, as `find_shared` compares them."""

    file: str
    """What messages call the set."""
    folders: Sequence[str]
    folder_of: NDArray[np.integer]
    """(N,) position in `folders`."""
    names: Names
    """N names below their folder."""
    name_of: Callable[[int], str]
    open: Callable[[int], BinaryIO]
    bytes_of: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    """(n,) bytes of the files of some images."""

    def keys(self) -> NDArray[np.int64]:
        """(N,) of each image's path, links of folders resolved."""
        if not len(self.names):
            return np.zeros(0, np.int64)
        text, ends = self.names.text, self.names.ends
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        slashes = np.flatnonzero(text == ord("/"))
        last = np.concatenate([np.full(1, -1), slashes])[np.searchsorted(slashes, ends)]
        bases = np.maximum(last + 1, starts)
        offsets = np.append(np.stack([starts, bases], axis=1).reshape(-1), ends[-1])
        below, base = hash_rows(text.astype(np.uint64), offsets).reshape(-1, 2).T
        place = mix(below.view(np.uint64) + mix(self.folder_of.astype(np.uint64)))
        _, firsts, which = np.unique(place, return_index=True, return_inverse=True)
        real = np.array(
            [self._folder_key(row, bases[row] - starts[row]) for row in firsts.tolist()]
        )
        return mix(real[which.reshape(-1)].view(np.uint64) ^ base.view(np.uint64)).view(np.int64)

    def _folder_key(self, row: int, length: int) -> int:
        start = int(self.names.ends[row - 1]) if row else 0
        below = os.fsdecode(self.names.text[start : start + int(length)].tobytes())
        path = os.path.realpath(f"{self.folders[int(self.folder_of[row])]}/{below}")
        return int.from_bytes(bytes.fromhex(hash_texts([path])), "little", signed=True)


def find_repeated(images: Images) -> list[Finding]:
    """A finding for each image whose file an earlier image of the same set has, by its path."""
    keys = images.keys()
    _, firsts, which = np.unique(keys, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(firsts[which] != np.arange(len(keys)))
    remedy = (
        "both are used, each with its own objects, and the other's count as background; list each "
        "file once, with all of its objects"
    )
    return [
        Finding(
            images.file,
            images.name_of(row),
            f"has the file of {images.name_of(int(firsts[which[row]]))}",
            remedy,
        )
        for row in repeated.tolist()
    ]


def check_sets(
    train: Images,
    val: Images,
    findings: list[Finding],
    *,
    what: str,
    classes: Sequence[str],
    counts: tuple[NDArray[np.int64], NDArray[np.int64]],
    contents: bool,
    strict: bool,
) -> None:
    """Logs and adds to `findings` what is wrong with `val` as the validation set of `train`.

    Args:
        what: objects or images, whose `counts` per class (K,) are those of train and val.
        contents: compare the files' contents too, where their sizes are equal.
        strict: raise an error for findings.
    """
    found = find_shared(train, val, contents=contents)
    found += find_untrained(val.file, what, classes, *counts)
    if found and strict:
        raise strict_error(found)
    log_findings(found)
    findings += found


def find_shared(train: Images, val: Images, *, contents: bool) -> list[Finding]:
    """Findings for images of `val` that `train` has too: the same files, and with `contents` equal
    files, of which those with equal sizes are read."""
    shared = np.isin(val.keys(), train.keys())
    findings = [_leak(val, shared, f"also in {train.file}")] if shared.any() else []
    if contents:
        equal = _equal_files(train, val) & ~shared
        if equal.any():
            findings.append(_leak(val, equal, f"byte for byte equal to files of {train.file}"))
    return findings


def _leak(val: Images, which: NDArray[np.bool_], what: str) -> Finding:
    rows = np.flatnonzero(which)
    names = ", ".join(val.name_of(row) for row in rows[:SHOWN].tolist())
    more = ", …" if len(rows) > SHOWN else ""
    number = f"all {len(rows)}" if which.all() else f"{len(rows)} of {len(which)}"
    return Finding(val.file, f"{number} images ({names}{more})", f"are {what}", LEAKED)


def _equal_files(train: Images, val: Images) -> NDArray[np.bool_]:
    """(N of val,) whether an image's file has the content of one in `train`."""
    sizes = [images.bytes_of(np.arange(len(images.names))) for images in (train, val)]
    of_equal_size = [
        np.flatnonzero(np.isin(own, other) & (own > 0))
        for own, other in ((sizes[0], sizes[1]), (sizes[1], sizes[0]))
    ]
    in_train, in_val = (
        _contents(images, rows) for images, rows in zip((train, val), of_equal_size, strict=True)
    )
    equal = np.zeros(len(val.names), bool)
    known = set(in_train) - {b""}
    equal[of_equal_size[1]] = [content in known for content in in_val]
    return equal


def _contents(images: Images, rows: NDArray[np.int64]) -> list[bytes]:
    """SHA-256 of the files of some images; empty for one that can't be read."""

    def digest(row: int) -> bytes:
        try:
            with images.open(row) as file:
                return hashlib.sha256(file.read()).digest()
        except OSError:
            return b""

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return list(pool.map(digest, rows.tolist()))


def find_untrained(
    file: str,
    what: str,
    class_names: Sequence[str],
    in_train: NDArray[np.int64],
    in_val: NDArray[np.int64],
) -> list[Finding]:
    """A finding where `in_val` (K,) counts objects of classes of which `in_train` (K,) has none."""
    labels = np.flatnonzero((in_train == 0) & (in_val > 0))
    if not len(labels):
        return []
    names = ", ".join(repr(class_names[label]) for label in labels[:SHOWN].tolist())
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return [
        Finding(
            file,
            f"{in_val[labels].sum()} of {in_val.sum()} {what}",
            f"are of classes that data.train has none of ({names}{more})",
            "they can't be learned and lower the metric; train on some, or set data.classes",
        )
    ]
