"""Annotations with what could be corrected without a doubt, and how often it was."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.checks import clip_boxes
from resdet.data.detection.table import AnnotationTable
from resdet.data.fingerprint import hash_names
from resdet.files.findings import DataError
from resdet.files.image_header import TURNED
from resdet.files.images import open_image

SWAPPED = "annotated sizes with width and height swapped corrected"
LEFT_OUT = "images that can't be used left out"
MERGED = "images listed twice merged"


def keep_usable(
    table: AnnotationTable, folder: str, unusable: NDArray[np.int64]
) -> tuple[AnnotationTable, Counter[str]]:
    """The images but the `unusable` ones, by `hash_names`, and what was done about these.

    One stays if its annotated width and height are only swapped: the file has them the other way
    round, is not turned by EXIF data, and all of its boxes are inside.
    """
    sizes = table.sizes.copy()
    keep: NDArray[np.bool_] = np.isin(hash_names(table.file_names), unusable, invert=True)
    done: Counter[str] = Counter()
    for row in np.flatnonzero(~keep).tolist():
        height, width = table.sizes[row].tolist()
        ends = table.boxes_xywh[np.flatnonzero(table.image_of == row)]
        ends = ends[:, :2] + ends[:, 2:]
        if height != width and bool(np.all(ends <= (height, width))):
            with suppress(DataError):
                header = open_image(Path(folder) / table.file_names[row], sys.maxsize).header
                keep[row] = header.size == (width, height) and header.orientation not in TURNED
                sizes[row] = header.size
        done[SWAPPED if keep[row] else LEFT_OUT] += 1
    return replace(table, sizes=sizes).select_images(keep), done


def repair(table: AnnotationTable) -> tuple[AnnotationTable, Counter[str]]:
    """The table without faults that have one remedy, and the number of each repair by its words.

    An image that is listed twice is one with the objects of both; objects without area or outside
    their image, and copies of others, go; boxes are clipped to their image, and areas that were
    those of the boxes follow. Crowd regions are objects too.

    Args:
        table: of images in one folder that are there and can be read, with sizes.
    """
    done: Counter[str] = Counter()
    table = _merge_images(table, done)
    sizes = table.sizes[table.image_of]
    boxes = clip_boxes(table.boxes_xywh, sizes)
    flat = (table.boxes_xywh[:, 2:] <= 0).any(axis=1)
    outside = ~flat & (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    clipped = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    moved = np.abs(clipped - table.boxes_xywh).max(axis=1)
    past = ~flat & ~outside & (moved > 1e-6)
    of_box = np.isclose(table.areas, table.boxes_xywh[:, 2:].prod(axis=1))
    areas = np.where(past & of_box, clipped[:, 2:].prod(axis=1), table.areas)
    new = np.where(past[:, None], clipped, table.boxes_xywh)
    table = replace(table, boxes_xywh=new, areas=areas)
    done["objects without area left out"] = int(flat.sum())
    done["objects outside their image left out"] = int(outside.sum())
    table = table.select(np.flatnonzero(~flat & ~outside))
    done["boxes clipped to their image"] = int(past.sum())
    fields = [table.image_of, table.labels, table.crowd, *table.boxes_xywh.T]
    rows = np.stack([field.astype(np.float64) for field in fields], axis=1)
    _, firsts = np.unique(rows, axis=0, return_index=True)
    done["copies of objects left out"] = len(rows) - len(firsts)
    return table.select(np.sort(firsts)), +done


def _merge_images(table: AnnotationTable, done: Counter[str]) -> AnnotationTable:
    """Each file as one image, the first of its entries, with the objects of all."""
    first_of: dict[str, int] = {}
    rows = [first_of.setdefault(name, row) for row, name in enumerate(table.file_names)]
    target = np.array(rows, np.int64)
    keep = target == np.arange(len(target))
    done[MERGED] = int((~keep).sum())
    if keep.all():
        return table
    image_of = target[table.image_of]
    order = np.argsort(image_of, kind="stable")
    return replace(table, image_of=image_of).select(order).select_images(keep)
