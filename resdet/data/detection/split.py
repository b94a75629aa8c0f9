"""Holding out part of a data set for validation, so that each class keeps its share.

The choice is iterative stratification [Sechidis, Tsoumakas and Vlahavas, ECML 2011]: the class with
the fewest images left comes first, and each of its images goes to the part that is shortest of that
class. Everything is a function of the image ids, the classes and the seed: neither the order of
the files nor the number of processes matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Split:
    """The images of each part, by id; every image of a data set is in one of them."""

    train: list[int | str]
    val: list[int | str]
    share: float
    """Of the images that was to be held out."""
    seed: int

    def parts(self, table: AnnotationTable) -> tuple[AnnotationTable, AnnotationTable]:
        """The images to train and to validate on, in the order of the table.

        Raises:
            DataError: the table has other images than those that were split.
        """
        ids = table.image_ids.tolist()
        held_out, known = set(self.val), {*self.train, *self.val}
        new, gone = [key for key in ids if key not in known], sorted(known - set(ids), key=str)
        if new or gone:
            raise DataError(
                f"{table.source}: its images are not those of the run's {SPLIT_FILE}: "
                f"{_some('new', new)}{' and ' if new and gone else ''}{_some('missing', gone)}; "
                "restore the files, or give data.split=null and data.val"
            )
        is_val = np.array([key in held_out for key in ids], bool)
        return table.select_images(~is_val), table.select_images(is_val)

    def write(self, path: Path) -> None:
        """Writes the ids as JSON, atomically."""
        keys = ("share", "seed", "val", "train")
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
        train, val = ([_id(key) for key in content[part]] for part in ("train", "val"))
        return Split(train, val, float(content["share"]), int(content["seed"]))
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a split as a run stores it ({error!r:.80}); restore the file, or remove "
            "it to split the same data again"
        ) from None


def _id(key: object) -> int | str:
    if not isinstance(key, (int, str)):
        raise TypeError(f"image id {key!r:.40}")
    return key


def hold_out(table: AnnotationTable, share: float, seed: int) -> Split:
    """A split with about `share` of the images of each class in `val`, 0 < share < 1.

    Images without objects count as a class. A class of one image is trained on.

    Raises:
        DataError: one of the parts gets no image.
    """
    ids = table.image_ids.tolist()
    is_val = stratify(image_classes(table), [f"{seed}:{key!r}" for key in ids], share)
    train, val = (
        [key for key, own in zip(ids, is_val.tolist(), strict=True) if own is part]
        for part in (False, True)
    )
    if not train or not val:
        raise DataError(
            f"{table.source}: data.split.val: {share:g} of {len(ids)} image(s) leaves none to "
            f"{'train' if val else 'validate'} on; change the share, or give data.val"
        )
    return Split(train, val, share, seed)


def image_classes(table: AnnotationTable) -> list[list[int]]:
    """The labels in each of N images, each one once; label K where there is no object."""
    pairs = np.unique(table.image_of * (len(table.class_names) + 1) + table.labels)
    images, labels = np.divmod(pairs, len(table.class_names) + 1)
    starts = np.searchsorted(images, np.arange(len(table.image_ids) + 1)).tolist()
    values, none = labels.tolist(), [len(table.class_names)]
    return [values[first:last] or none for first, last in pairwise(starts)]


def stratify(
    classes: Sequence[Sequence[int]], keys: Sequence[str], share: float
) -> NDArray[np.bool_]:
    """Whether each of N images is held out, so that of each class about `share` is.

    Args:
        classes: the labels in each image, at least one.
        keys: a text per image, all different, whose hashes are the order within a class.
    """
    order = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).digest())
    images_of: dict[int, list[int]] = {}
    for row in order:
        for label in classes[row]:
            images_of.setdefault(label, []).append(row)
    left = {label: len(rows) for label, rows in images_of.items()}
    # how many images each part still wants: of each class, and in all
    wanted = {label: [(1 - share) * count, share * count] for label, count in left.items()}
    total = [(1 - share) * len(keys), share * len(keys)]
    part_of = np.full(len(keys), -1, np.int8)
    while left:
        rarest = min(left, key=lambda label: (left[label], label))
        for row in images_of[rarest]:
            if part_of[row] >= 0:
                continue
            short = wanted[rarest]
            # of equals, the part that is shorter of images; then training
            part = int((short[1], total[1]) > (short[0], total[0]))
            part_of[row] = part
            total[part] -= 1
            for label in classes[row]:
                wanted[label][part] -= 1
                left[label] -= 1
        del left[rarest]
    return part_of == 1
