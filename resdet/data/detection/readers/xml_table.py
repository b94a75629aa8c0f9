"""The table of images whose objects were read from XML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import box_outlines
from resdet.data.detection.readers.xml_files import Report, XmlColumns, continuous_xywh
from resdet.data.detection.table import AnnotationTable, Source, join_extras
from resdet.data.names import pack_ids, pack_names
from resdet.files.findings import DataError
from resdet.files.images import read_sizes

NO_XML = "it is left out; add the file, or remove the image from the list"


def is_unannotated(path: str, folder: Path, columns: XmlColumns) -> bool:
    """Whether a list holds test images, which may have XML files of other tasks (layout).

    Raises:
        DataError: no image has an XML file, and the list is not called test….
    """
    missing = int(columns.missing.sum())
    if Path(path).name.startswith("test") and 2 * missing > len(columns.missing):
        return True
    if missing == len(columns.missing):
        raise DataError(
            f"{path}: none of its {missing} images has an XML file in {folder}; check that list "
            "and folder belong together"
        )
    return False


def report_missing(
    files: Sequence[str], missing: NDArray[np.bool_], remedy: str, report: Report
) -> None:
    """Findings for images without an XML file, those where `missing` (N,) is true."""
    for row in np.flatnonzero(missing).tolist():
        report(f"image {files[row].removesuffix('.xml')!r}", f"has no file {files[row]}", remedy)


def xml_table(
    source: Source,
    columns: XmlColumns,
    *,
    ids: Sequence[str],
    file_names: Sequence[str],
    keep: NDArray[np.bool_],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    label_of: Mapping[str, int],
    first: int,
    has_annotations: bool = True,
    class_extras: dict[str, list[Any]] | None = None,
) -> AnnotationTable:
    """The images where `keep` (N,) is true, and their objects of known classes.

    Args:
        columns: the objects of all N images; sizes that no file states are read from the images.
        ids, file_names: N each; unique ids, and paths below the image folder.
        class_names, category_ids: K each.
        label_of: label by the name that the XML files give a class; objects of others are left out.
        first: number of the first pixel: 1 in VOC, 0 in ImageNet.
    """
    sizes = columns.sizes
    unsized, measured = columns.unsized & keep, None
    if source.images is not None and unsized.any():
        sizes = sizes.copy()
        names = [file_names[row] for row in np.flatnonzero(unsized).tolist()]
        sizes[unsized] = read_sizes(Path(source.images), names)
        measured = unsized & sizes.all(axis=1)
    of_name = np.array([label_of.get(name, -1) for name in columns.names], np.int64)
    labels = of_name[columns.name_of]
    boxes = continuous_xywh(columns.corners, first)
    count, no = len(labels), np.zeros(len(labels), bool)
    table = AnnotationTable(
        files=[source.path],
        class_names=list(class_names),
        category_ids=list(category_ids),
        image_ids=pack_ids(ids),
        file_of_image=np.zeros(len(ids), np.int32),
        file_names=pack_names(file_names),
        sizes=sizes,
        image_of=columns.image_of,
        boxes_xywh=boxes,
        labels=labels,
        areas=boxes[:, 2:].prod(axis=1),
        crowd=no,
        difficult=columns.difficult,
        ignored=no,
        annotation_ids=np.arange(1, count + 1),
        outlines=box_outlines(count) if source.outlines else None,
        extras={
            key: join_extras([values], key, source.path) for key, values in columns.extras.items()
        },
        class_extras=class_extras or {},
        has_annotations=has_annotations,
        measured=measured,
    )
    known = labels >= 0
    return (table if known.all() else table.select(np.flatnonzero(known))).select_images(keep)
