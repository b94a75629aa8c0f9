"""Several annotation files as one table: classes agree by name, ids become unique."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import (
    OBJECT_FIELDS,
    AnnotationTable,
    OutlineColumns,
    Ragged,
    RaggedColumn,
    join_extras,
)
from resdet.data.names import Ids, pack_ids, pack_names
from resdet.errors import did_you_mean, first_few
from resdet.files.findings import DataError
from resdet.files.json import some

logger = logging.getLogger("resdet")

MOST_COMPARED = 2000
"""Names among which a hint looks for one that is alike; it takes 20 µs for each."""


def merge_tables(
    tables: Sequence[AnnotationTable], classes: Sequence[str] | None = None
) -> AnnotationTable:
    """One table of one or more files, each with one entry in `files`.

    Args:
        tables: one per file.
        classes: names to keep, in label order; None keeps all, by the category ids of the first.
    Raises:
        DataError: the files' classes do not agree, or lack one of `classes`.
    """
    first = tables[0]
    names = first.class_names if classes is None else list(classes)
    if len(set(names)) != len(names) or not names:
        raise DataError(f"data.classes: [{some(names)}] is empty or has a name twice")
    for table in tables:
        own = table.class_names
        lacks, more = sorted(set(names) - set(own)), sorted(set(own) - set(names))
        if classes is None and (lacks or more):
            raise DataError(
                f"{table.source}: its categories differ from those of {first.source}: missing "
                f"{some(lacks) or 'none'}, extra {some(more) or 'none'}; make the names agree, or "
                "set data.classes to names that every file has"
            )
        for name in lacks:
            hint = did_you_mean(name, own[:MOST_COMPARED], f"it has {first_few(own)}")
            raise DataError(f"{table.source}: data.classes: no category {name!r}; {hint}")
    id_of = dict(zip(first.class_names, first.category_ids, strict=True))
    ids = [id_of[name] for name in names]
    tables = [table if table.class_names == names else _relabel(table, names) for table in tables]
    merged = tables[0] if len(tables) == 1 else _concatenate(tables)
    return replace(merged, class_names=names, category_ids=ids)


def _relabel(table: AnnotationTable, names: Sequence[str]) -> AnnotationTable:
    """The objects of the classes `names`, labelled by their positions."""
    label_of = {name: label for label, name in enumerate(names)}
    new = np.array([label_of.get(name, -1) for name in table.class_names], np.int64)
    labels = new[table.labels]
    kept = table
    if (labels < 0).any():
        kept = table.select(np.flatnonzero(labels >= 0))
        left_out = len(labels) - len(kept.labels)
        logger.info("%s: %d objects of other classes left out", table.source, left_out)
    own = {name: label for label, name in enumerate(table.class_names)}
    order = [own[name] for name in names]
    return replace(
        kept,
        class_names=list(names),
        labels=labels[labels >= 0],
        image_extras={key: _relabel_lists(v, new) for key, v in kept.image_extras.items()},
        class_extras={key: [v[row] for row in order] for key, v in kept.class_extras.items()},
    )


def _relabel_lists(lists: Ragged, new: NDArray[np.int64]) -> Ragged:
    labels = new[lists.values]
    counts = np.concatenate([[0], np.cumsum(labels >= 0)])
    return Ragged(labels[labels >= 0], counts[lists.offsets])


def _concatenate(tables: Sequence[AnnotationTable]) -> AnnotationTable:
    first = tables[0]
    images = np.cumsum([0, *(len(table.image_ids) for table in tables)])
    files = np.cumsum([0, *(len(table.files) for table in tables)])
    objects = {
        key: np.concatenate([getattr(table, key) for table in tables]) for key in OBJECT_FIELDS
    }
    objects["image_of"] += np.repeat(images[:-1], [len(table.labels) for table in tables])
    objects["annotation_ids"] = unique_ids(objects["annotation_ids"])
    file_of_image = np.concatenate([table.file_of_image for table in tables])
    file_of_image += np.repeat(files[:-1], np.diff(images)).astype(np.int32)
    outlines, lists = OutlineColumns(), {key: RaggedColumn(np.int64) for key in first.image_extras}
    for table in tables:
        if table.outlines is not None:
            outlines.extend(table.outlines)
        for key in [key for key in lists if key not in table.image_extras]:
            del lists[key]
        for key, column in lists.items():
            column.extend(table.image_extras[key].values, table.image_extras[key].lengths)
    source = ", ".join(table.source for table in tables)
    extras = {k: join_extras([t.extras[k] for t in tables], k, source) for k in first.extras}
    return replace(
        first,
        files=[file for table in tables for file in table.files],
        image_ids=_unique_image_ids(tables),
        file_of_image=file_of_image,
        file_names=pack_names(name for table in tables for name in table.file_names),
        sizes=np.concatenate([table.sizes for table in tables]),
        outlines=None if first.outlines is None else outlines.outlines(),
        extras=extras,
        image_extras={key: column.ragged() for key, column in lists.items()},
        has_annotations=all(table.has_annotations for table in tables),
        measured=_measured(tables),
        groups=None
        if any(table.groups is None for table in tables)
        else pack_names(name for table in tables for name in table.groups or ()),
        **objects,  # type: ignore[arg-type]
    )


def _measured(tables: Sequence[AnnotationTable]) -> NDArray[np.bool_] | None:
    if all(table.measured is None for table in tables):
        return None
    return np.concatenate(
        [
            np.zeros(len(table.image_ids), bool) if table.measured is None else table.measured
            for table in tables
        ]
    )


def _unique_image_ids(tables: Sequence[AnnotationTable]) -> Ids:
    """The ids of all files; one that an earlier file has becomes a new number or FILE:id."""
    ids: list[int | str] = []
    taken: set[int | str] = set()
    for table in tables:
        own = table.image_ids.tolist()
        largest = max((key for key in [*taken, *own] if isinstance(key, int)), default=0)
        for key in own:
            if key in taken:
                largest += 1
                key = largest if isinstance(key, int) else f"{table.source}:{key}"
            ids.append(key)
        taken.update(ids)
    return pack_ids(ids)


def unique_ids(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Annotation ids with new ones for those that are 0 or were there before."""
    _, firsts = np.unique(ids, return_index=True)
    is_new = np.ones(len(ids), bool)
    is_new[firsts] = False
    is_new |= ids == 0
    result = ids.copy()
    result[is_new] = np.arange(is_new.sum()) + ids.max(initial=0) + 1
    return result
