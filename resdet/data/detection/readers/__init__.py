"""Annotation formats: one file per format, each with a function that reads it into a table."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resdet.data.detection.class_map import ClassMap, map_classes, original_names
from resdet.data.detection.merge import merge_tables
from resdet.data.detection.readers import (
    class_masks,
    coco,
    csv,
    cvat,
    imagenet_det,
    imagenet_loc,
    label_masks,
    labelme,
    object_masks,
    voc,
    yolo,
)
from resdet.data.detection.readers.image_lists import expand
from resdet.data.detection.readers.recognize import Seen, only_coco, recognize
from resdet.data.detection.table import AnnotationTable, Source
from resdet.errors import NotRegistered
from resdet.files.findings import DataError, Finding

logger = logging.getLogger("resdet")

READERS: dict[str, Callable[[Source, list[Finding]], AnnotationTable]] = {
    "coco": coco.read,
    "voc": voc.read,
    "yolo": yolo.read,
    "csv": csv.read,
    "imagenet_det": imagenet_det.read,
    "imagenet_loc": imagenet_loc.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "object_masks": object_masks.read,
    "label_masks": label_masks.read,
    "class_masks": class_masks.read,
    "cityscapes": label_masks.read_cityscapes,
}
"""By the name that `data.train.format` gives. A reader takes a `Source` and a list, to which it
adds a `Finding` for each object that it drops or repairs; it raises `DataError` where the whole
file is unusable. A module that a config names in `imports` may add a row."""

WITHOUT_JSON = ("voc", "yolo", "csv", "imagenet_det", "imagenet_loc")
"""Formats of which no file is JSON."""


def read_annotations(
    source: str | Path | dict[str, Any] | Sequence[str | Path],
    findings: list[Finding],
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    extras: Sequence[str] = (),
    outlines: bool = True,
    format_key: str = "format",
) -> AnnotationTable:
    """The table of one or more annotation files, or of a COCO dict, which is left unchanged.

    Args:
        source: a path, several, or a dict in COCO's layout.
        findings: gets what was dropped or repaired.
        format: a key of `READERS`; None is the one that `recognize` finds.
        classes: category names to keep, in label order; None keeps all.
        extras: keys of further values per object.
        outlines: whether outlines are wanted; without them reading is faster.
        format_key: what messages call the option that gives the format; empty where none does.
    Raises:
        DataError: a file is missing or not in this format, or the files' classes do not agree.
    """
    if isinstance(source, (str, Path, dict)):
        source = [source]  # type: ignore[list-item]
    if not isinstance(source, Sequence) or not source:
        raise DataError(f"the ground truth is {source!r:.60}; give a file, several, or COCO's dict")
    tables = []
    for one in source:
        path, data = ("ground truth", one) if isinstance(one, dict) else (str(one), None)
        given = Source(path, None, tuple(extras), outlines, data, format_key=format_key)
        given = replace(given, classes=tuple(classes or ()))
        tables.append(read_file(given, format, findings))
    return merge_tables(tables, classes)


def is_there(path: str) -> bool:
    """Whether a file or folder exists; for a pattern, whether it names some file."""
    return any(file.exists() for file in expand(path))


def read_file(source: Source, format: str | None, findings: list[Finding]) -> AnnotationTable:
    """The table of one file, by the reader of its format; None is the one that is recognised."""
    path = Path(source.path)
    images = None if source.images is None else Path(source.images)
    if format is None:
        format = "coco"
        if source.data is None:
            format = recognize(images, path, key=source.format_key)
            logger.info("%s: format %s", path, format)
    if format not in READERS:
        raise NotRegistered(
            f"{source.path}: {source.format_key}: no reader for {format!r}; the choices are "
            f"{', '.join(READERS)}"
        )
    if format == "coco" and source.data is None and (path.is_file() or path.is_dir()):
        source = _coco_file(source, images)
    if format in WITHOUT_JSON and path.suffix.lower() == ".json" and path.is_file():
        raise DataError(
            f"{path}: a JSON file, and {source.format_key} is {format}; set {source.format_key} to "
            "coco, or give what this format takes"
        )
    return READERS[format](source, findings)


def _coco_file(source: Source, images: Path | None) -> Source:
    """The source of the one file of a folder; DataError for what is in another format."""
    path = Path(source.path)
    found = recognize(images, path, key=source.format_key)
    if found != "coco":
        raise DataError(
            f"{path}: not a JSON file as COCO's are; it looks like {found}: set "
            f"{source.format_key} to {found}, or to null to have formats recognised"
        )
    one = only_coco(Seen(path, images)) if path.is_dir() else None
    return source if one is None else replace(source, path=str(one))


def read_classes(
    path: str,
    format: str | None,
    classes: Sequence[str] | None,
    images: str | None = None,
    class_map: ClassMap | None = None,
) -> tuple[list[str], list[int]]:
    """Names and category ids of a file's classes in label order; `classes` as `read_annotations`,
    `images` the folder of the images where it is known, `class_map` as `map_classes`.

    Raises:
        DataError: the file is not in this format, or lacks one of `classes`.
    """
    wanted = tuple(original_names(classes, class_map))
    source = Source(path, images, classes_only=True, classes=wanted)
    table = merge_tables([map_classes(read_file(source, format, []), class_map)], classes)
    return table.class_names, table.category_ids
