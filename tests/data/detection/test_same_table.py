"""The same 12 images in every format give the same table: tests/data/formats, by make_formats.py.

Rounding: YOLO's 6 decimals of a side are .0001 pixels here; all others are exact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resdet.data.detection.annotated import read_images
from resdet.data.detection.outlines import BOX
from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import Finding

FORMATS = Path(__file__).resolve().parents[1] / "formats"
TOLERANCE = 1e-4
"""Pixels; 1e-9 but for YOLO."""

WITH_MASKS = {
    "labelme": "labelme",
    "cvat": "cvat/annotations.xml",
    "object_masks": "object_masks",
    "label_masks": "label_masks",
    "class_masks": "class_masks",
    "class_masks of CVAT": "cvat_masks",
    "yolo with polygons": "yolo_polygons/labels",
}
BOXES_ONLY = {"voc": "voc", "yolo": "yolo_boxes/labels", "csv": "boxes.csv"}


def read(annotations: str, format: str | None = None) -> tuple[AnnotationTable, list[Finding]]:
    read = read_images(str(FORMATS / "images"), str(FORMATS / annotations), format=format)
    return read.table, read.findings


@pytest.fixture(scope="module")
def truth() -> AnnotationTable:
    return read("coco.json")[0]


def objects(table: AnnotationTable) -> list[tuple[str, str, list[float]]]:
    """(image, class, box) in one order for all."""
    rows = zip(
        table.image_of.tolist(), table.labels.tolist(), table.boxes_xywh.tolist(), strict=True
    )
    return sorted(
        (Path(table.file_names[image]).stem, table.class_names[label], box)
        for image, label, box in rows
    )


def masks(table: AnnotationTable) -> list[tuple[str, str, bytes]]:
    rows = zip(table.image_of.tolist(), table.labels.tolist(), table.rles, strict=True)
    return sorted(
        (Path(table.file_names[image]).stem, table.class_names[label], rle["counts"])
        for image, label, rle in rows
    )


@pytest.mark.parametrize("format", [*WITH_MASKS, *BOXES_ONLY])
def test_all_formats_give_the_same_table(truth: AnnotationTable, format: str) -> None:
    path = {**WITH_MASKS, **BOXES_ONLY}[format]
    table, findings = read(path)  # the format is recognised
    assert not findings
    assert len(table.image_ids) == 12 and len(table.labels) == 38
    assert table.class_names == truth.class_names == ["long", "round"]
    assert [Path(name).stem for name in table.file_names] == [
        Path(name).stem for name in truth.file_names
    ]
    np.testing.assert_array_equal(table.sizes, truth.sizes)
    expected, found = objects(truth), objects(table)
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    boxes = [np.array([each[2] for each in one]) for one in (found, expected)]
    np.testing.assert_allclose(*boxes, atol=TOLERANCE)
    if format in WITH_MASKS:
        assert masks(table) == masks(truth)
        assert sorted(table.areas) == sorted(truth.areas)
    else:
        assert table.outlines is not None and (table.outlines.kinds == BOX).all()
