"""The content of annotation files with their image folders, before a look at the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.merge import merge_tables
from resdet.data.detection.readers import is_there, read_file
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DataError, Finding, missing_data_error
from resdet.files.image_limits import MAX_PIXELS


@dataclass
class AnnotatedImages:
    """What annotation files hold, before a look at the image files."""

    table: AnnotationTable
    folders: list[str]
    """The image folder of each annotation file."""
    findings: list[Finding]
    """What was left out or repaired so far."""
    max_pixels: int = MAX_PIXELS
    """Larger images are left out."""
    left_out: NDArray[np.int64] | None = None
    """`hash_names` of the images that a resumed run left out at its start."""


def read_images(
    images: str | Sequence[str],
    annotations: str | Sequence[str],
    *,
    format: str = "coco",
    classes: Sequence[str] | None = None,
    extras: Sequence[str] = (),
    outlines: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> AnnotatedImages:
    """The content of one or more annotation files.

    Args:
        images: an image folder, or several; annotations: files, paired with them by position.
        format: a key of `resdet.data.detection.readers.READERS`.
        classes: category names to keep, in label order; None keeps all.
        extras: keys of further values per object, which become `Target.extra`.
        outlines: whether masks are wanted.
        max_pixels: larger images are left out by `check_dataset`.
    Raises:
        DataError: files are missing or not in the format, or categories do not agree.
    """
    folders, files = _paired(images, annotations)
    missing = [p for p in (*folders, *files) if not is_there(p)]
    if missing:
        raise missing_data_error(missing)
    findings: list[Finding] = []
    tables = []
    for folder, file in zip(folders, files, strict=True):
        source = Source(file, folder, tuple(extras), outlines, classes=tuple(classes or ()))
        tables.append(read_file(source, format, findings))
    return AnnotatedImages(merge_tables(tables, classes), folders, findings, max_pixels)


def _paired(
    images: str | Sequence[str], annotations: str | Sequence[str]
) -> tuple[list[str], list[str]]:
    folders, files = (
        [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
        for paths in (images, annotations)
    )
    if len(folders) != len(files) or not files:
        raise DataError(
            f"{len(folders)} image folder(s) and {len(files)} annotation file(s): they are paired "
            "by position, so give as many of one as of the other (a folder may be named twice)"
        )
    return folders, files
