"""The fingerprint of annotated images; see `resdet.data.fingerprint`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.outlines import Outlines
from resdet.data.fingerprint import (
    Fingerprint,
    as_words,
    file_bytes,
    hash_names,
    hash_rows,
    hash_texts,
    sampled_rows,
)

FLAGS = ("crowd", "difficult", "ignored")


def fingerprint_detection(data: DetectionDataset, *, whole: bool = False) -> Fingerprint:
    """Of the targets of training; with `whole` of all that is annotated, as metrics use it."""
    table, images = data.table, data.images
    rows = np.argsort(table.image_of, kind="stable") if whole else data.rows
    columns = [as_words(table.boxes_xywh[rows]), as_words(table.labels[rows])[:, None]]
    if whole:
        columns.append(as_words(table.areas[rows])[:, None])
        columns += [as_words(getattr(table, key)[rows])[:, None] for key in FLAGS]
    if table.outlines is not None and data.with_outlines:
        outlines = _hash_outlines(table.outlines)[rows]
        columns.append(outlines.view(np.uint64)[:, None])
    for values in table.extras.values():
        columns.append(as_words(values[rows]).reshape(len(rows), -1))
    objects = _hash_matrix(np.concatenate(columns, axis=1))
    per_image = np.bincount(table.image_of[rows], minlength=len(table.image_ids))
    annotations = hash_rows(objects.view(np.uint64), np.concatenate([[0], np.cumsum(per_image)]))
    lists = [hash_rows(as_words(v.values), v.offsets) for v in table.image_extras.values()]
    of_image = [as_words(table.sizes), *(v.view(np.uint64)[:, None] for v in (annotations, *lists))]
    names = table.file_names
    if len(images) < len(names):
        names = names.select(images)
    return Fingerprint(
        classes=hash_texts([*table.class_names, *map(str, table.category_ids)]),
        names=hash_names(names),
        annotations=_hash_matrix(np.concatenate(of_image, axis=1)[images]),
        files=file_bytes(data.path, sampled_rows(len(images))),
        left_out=data.left_out,
    )


def _hash_matrix(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) of the rows of (n, k) words."""
    count, width = words.shape
    return hash_rows(words.reshape(-1), np.arange(count + 1, dtype=np.int64) * width)


def _hash_outlines(outlines: Outlines) -> NDArray[np.int64]:
    """(A,) of each object's kind, polygons and run-length code."""
    points = as_words(outlines.points).reshape(-1)
    parts = hash_rows(points, 2 * outlines.point_offsets)
    polygons = hash_rows(parts.view(np.uint64), outlines.part_offsets)
    codes = hash_rows(outlines.rle.astype(np.uint64), outlines.rle_offsets)
    columns = [as_words(outlines.kinds), polygons.view(np.uint64), codes.view(np.uint64)]
    return _hash_matrix(np.stack(columns, axis=1))
