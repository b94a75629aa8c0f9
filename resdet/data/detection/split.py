"""Holding out parts of a data set for validation and test, so that each class keeps its share.

The choice is iterative stratification [Sechidis, Tsoumakas and Vlahavas, ECML 2011]: the class with
the fewest images left comes first, and each of its images goes to the part that is shortest of that
class. Images of one group, such as a patient's, go to one part; large groups come first. Everything
is a function of the image ids or groups, the classes and the seed: neither the order of the files
nor the number of processes matters.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.errors import first_few
from resdet.files.findings import DataError
from resdet.files.json import read_json
from resdet.files.writing import write_json

SPLIT_FILE = "split.json"
"""In the run folder."""

PARTS = ("train", "val", "test")
VERBS = ("train", "validate", "test")


@dataclass(frozen=True)
class Split:
    """The images of each part, by id; every image of a data set is in one of them."""

    train: list[int | str]
    val: list[int | str]
    share: float
    """Of the images that was to be held out for validation."""
    seed: int
    test: list[int | str] = field(default_factory=list)
    test_share: float = 0.0
    """Of the images that was to be held out for a test."""
    groups: str | None = None
    """What keeps images together: group_key=NAME or group_pattern=PATTERN."""

    def settings(self) -> str:
        """What the split was made with, for messages."""
        test = f", test {self.test_share:g}" if self.test_share else ""
        groups = f", {self.groups}" if self.groups else ""
        return f"val {self.share:g}{test}{groups} and seed {self.seed}"

    def parts(self, table: AnnotationTable) -> dict[str, AnnotationTable]:
        """The images to train, to validate and to test on, in the order of the table.

        Raises:
            DataError: the table has other images than those that were split.
        """
        ids = table.image_ids.tolist()
        known, part_of = {*self.train, *self.val, *self.test}, self._part_of()
        new, gone = [key for key in ids if key not in known], sorted(known - set(ids), key=str)
        if new or gone:
            raise DataError(
                f"{table.source}: its images are not those of the run's {SPLIT_FILE}: "
                f"{_some('new', new)}{' and ' if new and gone else ''}{_some('missing', gone)}; "
                "restore the files, or give data.split=null and data.val"
            )
        parts = np.array([PARTS.index(part_of[key]) for key in ids], np.int8)
        return {part: table.select_images(parts == row) for row, part in enumerate(PARTS)}

    def check_groups(self, table: AnnotationTable, groups: Sequence[str]) -> None:
        """DataError where images of one of the `groups` (N,) are in several parts, as after their
        names or keys have changed."""
        part_of = self._part_of()
        seen: dict[str, str] = {}
        for key, group in zip(table.image_ids.tolist(), groups, strict=True):
            part = part_of[key]
            if seen.setdefault(group, part) != part:
                raise DataError(
                    f"{table.source}: images of group {group} are in {seen[group]} and in {part} "
                    f"of the run's {SPLIT_FILE}: their groups have changed since; restore the "
                    "files, or start a new run"
                )

    def _part_of(self) -> dict[int | str, str]:
        return {key: part for part in PARTS for key in getattr(self, part)}

    def write(self, path: Path) -> None:
        """Writes the ids as JSON, atomically."""
        keys = ("share", "test_share", "groups", "seed", "val", "test", "train")
        write_json(path, {key: getattr(self, key) for key in keys})


def _some(what: str, ids: Sequence[int | str]) -> str:
    return f"{len(ids)} {what} ({first_few(list(map(repr, ids)), 3)})" if ids else ""


def read_split(path: Path) -> Split:
    """The split that a run has stored.

    Raises:
        DataError: the file can't be read or holds something else.
    """
    content = read_json(path, "the images of a run's split")
    try:
        train, val = ([_id(key) for key in content[part]] for part in PARTS[:2])
        # runs before there were tests and groups have none of the three
        test, groups = [_id(key) for key in content.get("test", [])], content.get("groups")
        if not isinstance(groups, str | None):
            raise TypeError(f"groups {groups!r:.40}")
        shares = float(content["share"]), float(content.get("test_share", 0.0))
        return Split(train, val, shares[0], int(content["seed"]), test, shares[1], groups)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: not a split as a run stores it ({error!r:.80}); restore the file, or remove "
            "it to split the same data again"
        ) from None


def _id(key: object) -> int | str:
    if not isinstance(key, (int, str)):
        raise TypeError(f"image id {key!r:.40}")
    return key


def hold_out(
    table: AnnotationTable,
    share: float,
    seed: int,
    *,
    test: float = 0.0,
    groups: Sequence[str] | None = None,
    grouped_by: str | None = None,
) -> Split:
    """A split with about `share` of the images of each class in `val`, and `test` of them in
    `test`; 0 < share, 0 <= test, and their sum is below 1.

    Images without objects count as a class. A class of one image is trained on. Images of one of
    the `groups` (N,), which `grouped_by` describes, stay together.

    Raises:
        DataError: one of the parts gets no image.
    """
    ids = table.image_ids.tolist()
    units = [repr(key) for key in ids] if groups is None else groups
    keys = [f"{seed}:{unit}" for unit in units]
    # as it was computed before there were tests, bit-exactly
    rest = 1 - share if not test else 1 - share - test
    chosen = stratify(image_classes(table), keys, [rest, share, test]).tolist()
    parts = {
        part: [key for key, own in zip(ids, chosen, strict=True) if own == row]
        for row, part in enumerate(PARTS)
    }
    for part, verb, wanted in zip(PARTS, VERBS, (rest, share, test), strict=True):
        if wanted and not parts[part]:
            key = "val" if part == "train" else part
            of = f"{len(ids)} image(s)" if groups is None else f"{len(set(groups))} group(s)"
            raise DataError(
                f"{table.source}: data.split.{key}: {test if key == 'test' else share:g} of {of} "
                f"leaves none to {verb} on; change the share, or give data.val"
            )
    return Split(parts["train"], parts["val"], share, seed, parts["test"], test, grouped_by)


def image_groups(
    table: AnnotationTable, key: str | None, pattern: str | None
) -> tuple[list[str] | None, str | None]:
    """The group of each of N images, by a key of theirs or a regular expression on their file
    names, and what it is; None for both without either.

    Raises:
        DataError: an image has no group, or the format has no keys of images.
    """
    if pattern is not None:
        found = [re.search(pattern, name) for name in table.file_names]
        groups = [None if each is None else each[1 if each.re.groups else 0] for each in found]
        label, hint = f"group_pattern={pattern}", "a pattern that matches every file name"
    elif key is not None:
        if table.groups is None:
            raise DataError(
                f"{table.source}: data.split.group_key: only images of COCO files have keys; give "
                "data.split.group_pattern, a regular expression on file names"
            )
        groups = [None if text == "null" else text for text in table.groups]
        label, hint = f"group_key={key}", "the key for every image"
    else:
        return None, None
    without = [table.image_name(row) for row, group in enumerate(groups) if group is None]
    if without:
        raise DataError(
            f"{table.source}: data.split.{label}: {len(without)} of {len(groups)} images have no "
            f"group ({first_few(without, 3)}); give {hint}"
        )
    return [group for group in groups if group is not None], label


def image_classes(table: AnnotationTable) -> list[list[int]]:
    """The labels in each of N images, each one once; label K where there is no object."""
    pairs = np.unique(table.image_of * (len(table.class_names) + 1) + table.labels)
    images, labels = np.divmod(pairs, len(table.class_names) + 1)
    starts = np.searchsorted(images, np.arange(len(table.image_ids) + 1)).tolist()
    values, none = labels.tolist(), [len(table.class_names)]
    return [values[first:last] or none for first, last in pairwise(starts)]


def stratify(
    classes: Sequence[Sequence[int]], keys: Sequence[str], shares: Sequence[float]
) -> NDArray[np.int8]:
    """The part (N,) of each image, so that of each class about its share is in each part.

    Args:
        classes: the labels in each image, at least one.
        keys: a text per image; images with the same stay together. Their hashes are the order
            within a class, after the number of images.
        shares: of the parts; they add up to 1. A part of share 0 stays empty.
    """
    rows_of: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    counts = {
        key: Counter(k for row in rows for k in classes[row]) for key, rows in rows_of.items()
    }
    units = sorted(
        rows_of,
        key=lambda key: (-len(rows_of[key]), hashlib.sha256(key.encode()).digest()),
    )
    units_of: dict[int, list[str]] = {}
    left: Counter[int] = Counter()
    for key in units:
        for label, count in counts[key].items():
            units_of.setdefault(label, []).append(key)
            left[label] += count
    # how many images each part still wants: of each class, and in all
    wanted = {label: [share * count for share in shares] for label, count in left.items()}
    total = [share * len(keys) for share in shares]
    parts = [part for part, share in enumerate(shares) if share]
    part_of: dict[str, int] = {}
    while left:
        rarest = min(left, key=lambda label: (left[label], label))
        short = wanted[rarest]
        for key in units_of[rarest]:
            if key in part_of:
                continue
            # of equals, the part that is shorter of images; then the first
            part = part_of[key] = max(parts, key=lambda part: (short[part], total[part]))
            total[part] -= len(rows_of[key])
            for label, count in counts[key].items():
                wanted[label][part] -= count
                left[label] -= count
        del left[rarest]
    return np.array([part_of[key] for key in keys], np.int8)
