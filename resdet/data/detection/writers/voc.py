"""PASCAL VOC's layout: Annotations/NAME.xml, a list in ImageSets/Main, and JPEGImages as a link."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.writers.layout import (
    NOTED,
    check_classes,
    counted,
    image_stems,
    inside,
    left_out,
    link_images,
    lost,
    objects_of,
    write_files,
)

FOLDERS = ("Annotations", "JPEGImages")


def write(
    table: AnnotationTable, folder: Path, images: str | None = None, part: str = "train"
) -> list[str]:
    """Writes one XML file per image and a list of the images, named by the part.

    Boxes are clipped to their image and rounded to whole pixels, counted from 1 with the last one
    inside. Returns what was left out. Raises UserError for names that no file can have, WriteError.
    """
    stems = image_stems(table)
    check_classes(table)
    boxes, rows = inside(table)
    # at least one pixel, inside of the image as the box is
    left_top = np.minimum(np.floor(boxes[:, :2] + 0.5), np.ceil(boxes[:, 2:]) - 1)
    corners = np.concatenate(
        [left_top + 1, np.maximum(np.floor(boxes[:, 2:] + 0.5), left_top + 1)], axis=1
    ).astype(np.int64)
    write_files(folder, _files(table, stems, corners, rows))
    listed = "".join(f"{stem}\n" for stem in stems)
    write_files(folder, iter([(f"ImageSets/Main/{part}.txt", listed)]))
    notes = link_images(folder / FOLDERS[1], images)
    moved = int((np.abs(corners - np.array([1, 1, 0, 0]) - boxes)[rows] > NOTED).any(axis=1).sum())
    notes += counted(
        [
            *left_out(table, boxes, rows, "VOC"),
            (moved, "boxes are rounded to whole pixels"),
        ]
    )
    if table.has_masks:
        assert table.outlines is not None
        count = int((table.outlines.kinds > 0).sum())
        notes.append(f"{count} outlines are left out: VOC's XML has boxes only")
    return notes + lost(table, "VOC", ("ignored",))


def _files(
    table: AnnotationTable,
    stems: list[str],
    corners: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> Iterator[tuple[str, str]]:
    """The path and the text of each image's file."""
    sizes, names = table.sizes.tolist(), [escape(name) for name in table.class_names]
    for image, objects in enumerate(objects_of(table, rows)):
        height, width = sizes[image]
        place = Path(table.file_names[image])
        lines = [
            "<annotation>",
            f"  <folder>{escape(place.parent.name or FOLDERS[1])}</folder>",
            f"  <filename>{escape(place.name)}</filename>",
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
            "  <segmented>0</segmented>",
        ]
        for row in objects.tolist():
            x1, y1, x2, y2 = corners[row].tolist()
            lines += [
                f"  <object><name>{names[table.labels[row]]}</name><pose>Unspecified</pose>"
                f"<truncated>0</truncated><difficult>{int(table.difficult[row])}</difficult>",
                f"    <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
                f"<ymax>{y2}</ymax></bndbox></object>",
            ]
        yield f"{FOLDERS[0]}/{stems[image]}.xml", "\n".join([*lines, "</annotation>", ""])
