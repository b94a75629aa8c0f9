"""COCO files, with all that a table holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resdet.data.detection.outlines import POLYGON, RLE
from resdet.data.detection.table import AnnotationTable
from resdet.files.writing import open_atomic

CHUNK = 8192
"""Objects encoded at a time."""

FLAGS = {"difficult": "difficult", "ignored": "ignore"}
"""Keys of flags, by the field of the table; they are written where some object has them."""


def write(
    table: AnnotationTable, path: Path, images: str | None = None, part: str = "train"
) -> list[str]:
    """Writes a JSON file; nothing is left out.

    Image ids that are not whole numbers become 1 to N, as most evaluators take no others. Numbers
    are written so that reading gives the same ones. Raises WriteError.
    """
    encode = msgspec.json.Encoder().encode
    ids: list[Any] = table.image_ids.tolist()
    notes = []
    if not all(isinstance(key, int) for key in ids):
        ids = list(range(1, len(ids) + 1))
        notes.append(f"{len(ids)} images are numbered from 1: their ids are names")
    with open_atomic(path, "wb") as file:
        file.write(b'{"images":' + encode(_images(table, ids)))
        file.write(b',"categories":' + encode(_categories(table)))
        if table.has_annotations:
            file.write(b',"annotations":[')
            for first, chunk in enumerate(_annotations(table, ids)):
                file.write((b"," if first else b"") + encode(chunk)[1:-1])
            file.write(b"]")
        file.write(b"}")
    return notes


def _images(table: AnnotationTable, ids: list[Any]) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    sizes = table.sizes.tolist()
    for key, name, (height, width) in zip(ids, table.file_names, sizes, strict=True):
        size = {"width": width, "height": height} if width and height else {}
        # names in another encoding than UTF-8 lose the bytes that JSON can't hold
        text = name.encode("utf-8", "replace").decode()
        images.append({"id": key, "file_name": text, **size})
    for key, lists in table.image_extras.items():
        for row, image in enumerate(images):
            image[key] = [table.category_ids[label] for label in lists[row].tolist()]
    return images


def _categories(table: AnnotationTable) -> list[dict[str, Any]]:
    extras = [{k: values[row] for k, values in table.class_extras.items()}
              for row in range(len(table.class_names))]  # fmt: skip
    pairs = zip(table.category_ids, table.class_names, extras, strict=True)
    return [{"id": key, "name": name, **more} for key, name, more in pairs]


def _annotations(table: AnnotationTable, ids: list[Any]) -> Iterator[list[dict[str, Any]]]:
    """The objects, some at a time."""
    category_of = np.array(table.category_ids, np.int64)
    flags = {key: name for name, key in FLAGS.items() if getattr(table, name).any()}
    for first in range(0, len(table.labels), CHUNK):
        own = table.select(np.arange(first, min(first + CHUNK, len(table.labels))))
        columns: dict[str, list[Any]] = {
            "id": own.annotation_ids.tolist(),
            "image_id": [ids[row] for row in own.image_of.tolist()],
            "category_id": category_of[own.labels].tolist(),
            "bbox": own.boxes_xywh.tolist(),
            "area": own.areas.tolist(),
            "iscrowd": own.crowd.astype(int).tolist(),
            **{key: getattr(own, name).astype(int).tolist() for key, name in flags.items()},
            **{key: values.tolist() for key, values in own.extras.items()},
        }
        keys = list(columns)
        records = [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if own.outlines is not None:
            for row, outline in _outlines(own):
                records[row]["segmentation"] = outline
        yield records


def _outlines(table: AnnotationTable) -> Iterator[tuple[int, Any]]:
    """Rows with an outline, and COCO's form of it."""
    outlines = table.outlines
    assert outlines is not None
    for row, kind in enumerate(outlines.kinds.tolist()):
        if kind == POLYGON:
            yield row, [part.reshape(-1).tolist() for part in outlines.polygons(row)]
        elif kind == RLE:
            code = outlines.rle[outlines.rle_offsets[row] : outlines.rle_offsets[row + 1]]
            size = table.sizes[table.image_of[row]].tolist()
            yield row, {"size": size, "counts": code.tobytes().decode()}
