"""`data.class_map`: classes merged, renamed and left out before anything else looks at them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable, Ragged
from resdet.errors import did_you_mean, first_few
from resdet.files.findings import DataError

logger = logging.getLogger("resdet")

ClassMap = Mapping[str, str | None]
"""New names by old ones; None leaves a class out. Other classes keep their names."""

ABSENT = "neg_category_ids"
"""LVIS's list of classes that are not in an image: a merged class is absent if all of it are."""


def original_names(classes: Sequence[str] | None, class_map: ClassMap | None) -> list[str]:
    """The names in the files of `classes`, which are given by their new names."""
    wanted, given = list(classes or ()), class_map or {}
    kept = [name for name in wanted if name not in given and name not in given.values()]
    return kept + [old for old, new in given.items() if new in wanted]


def check_names(tables: Sequence[AnnotationTable], class_map: ClassMap | None) -> None:
    """DataError where a class of the map is in none of the tables."""
    known = {name for table in tables for name in table.class_names}
    for name in class_map or ():
        if name not in known:
            hint = did_you_mean(name, sorted(known), f"they have {first_few(sorted(known))}")
            files = first_few([table.source for table in tables], 3)
            raise DataError(f"data.class_map: {name!r}: no such class in {files}; {hint}")


def map_names(
    names: Sequence[str], ids: Sequence[int], class_map: ClassMap
) -> tuple[list[str], list[int], NDArray[np.int64]]:
    """The new names, each once, their category ids, and the new label of each old class, -1 for
    those that are left out.

    A new class has the place and the id of the old class with its name, if that keeps it, else of
    the first of its classes.
    """
    label_of = {name: label for label, name in enumerate(names)}
    new_of = [class_map.get(name, name) for name in names]
    first: dict[str, int] = {}
    for label, new in enumerate(new_of):
        if new is not None:
            first.setdefault(new, label)
    for new in first:
        if new in label_of and new_of[label_of[new]] == new:
            first[new] = label_of[new]
    order = sorted(first, key=first.__getitem__)
    position = {new: label for label, new in enumerate(order)}
    labels = [-1 if new is None else position[new] for new in new_of]
    return order, [ids[first[new]] for new in order], np.array(labels, np.int64)


def map_classes(table: AnnotationTable, class_map: ClassMap | None) -> AnnotationTable:
    """The table with its classes merged, renamed and left out; objects of those that are left out
    are left out too.

    Raises:
        DataError: no class is left.
    """
    if not class_map or not any(name in class_map for name in table.class_names):
        return table
    names, ids, new = map_names(table.class_names, table.category_ids, class_map)
    if not names:
        raise DataError(f"data.class_map: leaves out every class of {table.source}; keep one")
    labels = new[table.labels]
    kept = table
    if (labels < 0).any():
        kept = table.select(np.flatnonzero(labels >= 0))
        dropped = first_few([name for name in table.class_names if class_map.get(name, "") is None])
        logger.info("%s: left out %d objects of %s", table.source, (labels < 0).sum(), dropped)
    old = {old: label for label, old in enumerate(table.category_ids)}
    return replace(
        kept,
        class_names=names,
        category_ids=ids,
        labels=labels[labels >= 0],
        image_extras={k: _map_lists(v, new, k == ABSENT) for k, v in kept.image_extras.items()},
        class_extras={k: [v[old[key]] for key in ids] for k, v in kept.class_extras.items()},
    )


def _map_lists(lists: Ragged, new: NDArray[np.int64], all_of: bool) -> Ragged:
    """Lists of labels per image with each new label once: if one of its old labels is there, or
    with `all_of` if all of them are."""
    count = int(new.max()) + 1
    rows = np.repeat(np.arange(len(lists)), lists.lengths)
    labels = new[lists.values]
    known = labels >= 0
    keys, found = np.unique(rows[known] * count + labels[known], return_counts=True)
    if all_of:
        keys = keys[found >= np.bincount(new[new >= 0], minlength=count)[keys % count]]
    lengths = np.bincount(keys // count, minlength=len(lists))
    return Ragged(keys % count, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
