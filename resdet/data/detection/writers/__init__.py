"""Annotation files written from a table: one file per format, each with a function `write`."""

from collections.abc import Callable
from pathlib import Path

from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.writers import coco, labelme, voc, yolo

Writer = Callable[[AnnotationTable, Path, "str | None", str], list[str]]

WRITERS: dict[str, Writer] = {
    "coco": coco.write,
    "labelme": labelme.write,
    "voc": voc.write,
    "yolo": yolo.write,
}
"""By format. A writer takes a table, a path where nothing is, the folder of the images or None, and
the name of the part, such as train; it returns a line for each kind of value that it left out or
changed, since the format can't hold it."""
