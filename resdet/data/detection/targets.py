"""Which objects of a table are targets, and which of their outlines give masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import BOX, POLYGON
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import Finding

CLIP_TOLERANCE = 1.0
"""Boxes that pass the image's border by no more pixels than this are clipped without a finding."""

NOT_TRAINED = "it is left out of training; fix or remove it"
CLIPPED = "it is clipped to the image for training"
MASK_FROM_BOX = "training takes its box as its mask"


def find_targets(
    table: AnnotationTable, findings: list[Finding], *, masks: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """All objects but crowd regions and those without a box inside their image.

    Returns:
        Their T rows in the table, ordered by image and then as in the file, and (A,) kinds of the
        table's outlines, BOX where an outline has no part in its box.
    """
    boxes = clip_boxes(table.boxes_xywh, table.sizes[table.image_of])
    objects = ~table.crowd
    sides = table.boxes_xywh[:, 2:]
    flat = objects & (sides <= 0).any(axis=1)
    outside = objects & ~flat & (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    whole = table.boxes_xywh.copy()
    whole[:, 2:] += whole[:, :2]
    past = objects & ~flat & ~outside & (np.abs(whole - boxes) > CLIP_TOLERANCE).any(axis=1)
    for row in np.flatnonzero(flat | outside | past).tolist():
        height, width = table.sizes[table.image_of[row]].tolist()
        box = [int(v) if v.is_integer() else v for v in table.boxes_xywh[row].tolist()]
        what = f"has bbox {box} without {'width' if box[2] <= 0 else 'height'}"
        if not flat[row]:
            place = "outside" if outside[row] else "past"
            what = f"has bbox {box} {place} its image of {width}×{height}"
        _find(table, findings, row, what, CLIPPED if past[row] else NOT_TRAINED)
    rows = np.flatnonzero(objects & ~flat & ~outside)
    rows = rows[np.argsort(table.image_of[rows], kind="stable")]
    kinds = np.zeros(len(boxes), np.uint8)
    if masks and table.outlines is not None:
        kinds = table.outlines.kinds.copy()
        for row in np.intersect1d(_polygons_off_box(table, boxes), rows).tolist():
            kinds[row] = BOX
            _find(table, findings, row, "has polygons that do not touch its bbox", MASK_FROM_BOX)
    return rows, kinds


def clip_boxes(boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n, 4) boxes as xyxy inside images of (n, 2) or (1, 2) sizes."""
    first, last = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    return np.concatenate([np.maximum(first, 0.0), np.minimum(last, sizes[:, ::-1])], axis=1)


def _find(
    table: AnnotationTable, findings: list[Finding], row: int, what: str, remedy: str
) -> None:
    file = table.file_of(int(table.image_of[row]))
    findings.append(Finding(file, f"annotation {table.annotation_ids[row]}", what, remedy))


def _polygons_off_box(table: AnnotationTable, boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of polygons whose extent does not overlap their box (A, 4) xyxy, in float32."""
    outlines = table.outlines
    assert outlines is not None
    rows = np.flatnonzero(outlines.kinds == POLYGON)
    if not len(rows):
        return rows
    starts = outlines.point_offsets[outlines.part_offsets[rows]]
    low = np.minimum.reduceat(outlines.points, starts, axis=0).astype(np.float32)
    high = np.maximum.reduceat(outlines.points, starts, axis=0).astype(np.float32)
    near = boxes[rows].astype(np.float32)
    return rows[((low >= near[:, 2:]) | (high <= near[:, :2])).any(axis=1)]
