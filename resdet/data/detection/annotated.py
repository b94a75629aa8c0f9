"""The content of annotation files with their image folders, before a look at the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.class_map import ClassMap, check_names, map_classes, original_names
from resdet.data.detection.merge import merge_tables
from resdet.data.detection.readers import is_there, read_file
from resdet.data.detection.readers.recognize import ANNOTATIONS, Seen
from resdet.data.detection.table import AnnotationTable, Source
from resdet.errors import naming
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
    key: str = "data"
    """The section of the config that names the files, for messages."""


def read_images(
    images: str | Sequence[str],
    annotations: str | Sequence[str],
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    class_map: ClassMap | None = None,
    extras: Sequence[str] = (),
    outlines: bool = True,
    group_key: str | None = None,
    max_pixels: int = MAX_PIXELS,
    key: str = "data",
) -> AnnotatedImages:
    """The content of one or more annotation files.

    Args:
        images: an image folder, or several; annotations: files, paired with them by position.
        format: a key of `resdet.data.detection.readers.READERS`; None is recognised.
        classes: category names to keep, in label order; None keeps all.
        class_map: new names by old ones, which `classes` then means; None leaves a class out.
            Those of data.train are all there, data.val may lack some.
        extras: keys of further values per object, which become `Target.extra`.
        outlines: whether masks are wanted.
        group_key: a key of the images that is wanted as `AnnotationTable.groups`.
        max_pixels: larger images are left out by `check_dataset`.
        key: the section of the config that names the files, such as data.train, for messages.
    Raises:
        DataError: files are missing or not in the format, or categories do not agree.
    """
    with naming(key):
        folders, files = _paired(images, annotations)
    keys = {"images": folders, "annotations": files}
    missing = {k: [path for path in paths if not is_there(path)] for k, paths in keys.items()}
    if any(missing.values()):
        raise missing_data_error({f"{key}.{k}": paths for k, paths in missing.items() if paths})
    for folder, file in zip(folders, files, strict=True):
        if Path(folder).is_file():
            what = "give the folder of the images"
            if Path(file).is_dir():
                what = f"swap it with {key}.annotations, which is a folder"
            raise DataError(f"{key}.images: {folder}: is a file; {what}")
    findings: list[Finding] = []
    tables = []
    with naming(f"{key}.annotations"):
        for folder, file in zip(folders, files, strict=True):
            source = Source(
                *(file, folder, tuple(extras), outlines),
                classes=tuple(original_names(classes, class_map)),
                format_key=f"{key}.format",
                group_key=group_key,
                part=key.rpartition(".")[2] if "." in key else None,
            )
            tables.append(_read_file(source, format, findings, key))
    if key != "data.val":
        check_names(tables, class_map)
    table = merge_tables([map_classes(one, class_map) for one in tables], classes)
    return AnnotatedImages(table, folders, findings, max_pixels, key=key)


def _read_file(
    source: Source, format: str | None, findings: list[Finding], key: str
) -> AnnotationTable:
    """As `read_file`, with an error for images and annotations that are swapped."""
    try:
        return read_file(source, format, findings)
    except DataError:
        if found := _annotations_in(str(source.images), source.path):
            raise DataError(
                f"{source.path}: holds no annotations, and {key}.images, {source.images}, has "
                f"{found}; swap the two"
            ) from None
        raise


def _annotations_in(folder: str, file: str) -> str | None:
    """An annotation file in the folder of images, where the annotations are a folder without."""
    here, there = Seen(Path(file), None), Seen(Path(folder), None)
    if not here.is_folder or here.named(*ANNOTATIONS):
        return None
    found = there.named(*ANNOTATIONS)
    return str(there.path / found[0]) if found else None


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
