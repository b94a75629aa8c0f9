"""YOLO data sets as Ultralytics, Roboflow, Label Studio, CVAT and darknet's tools lay them out.

The annotation file is data.yaml, obj.data, a list of images, or a folder of label files (see
`yolo_files` and `yolo_labels`). Boxes are fractions of the image, so sizes are read from
the images. [Ultralytics, docs.ultralytics.com/datasets]
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.file_names import sizes_of
from resdet.data.detection.outlines import BOX, POLYGON, Outlines, ragged_rows
from resdet.data.detection.readers.xml_files import Report
from resdet.data.detection.readers.yolo_description import YAML, describe, is_description
from resdet.data.detection.readers.yolo_files import YoloFiles, find_files, is_label
from resdet.data.detection.readers.yolo_labels import Labels, plain_text, read_labels
from resdet.data.detection.table import AnnotationTable, Source, outline_areas
from resdet.data.names import pack_ids, pack_names
from resdet.errors import first_few
from resdet.files.findings import DataError, Finding
from resdet.files.images import is_image

if TYPE_CHECKING:
    from resdet.data.detection.readers.recognize import Seen

logger = logging.getLogger("resdet")

MOSTLY = 0.5
"""Share of images without a label file, or of rows with other numbers than fractions, from which
it is a mistake."""

ROW = re.compile(rb"\d+(?:\.0*)?(?:[ \t]+-?\d*\.?\d+(?:[eE][-+]?\d+)?){4,}[ \t]*(?:[\r\n]|$)")
"""A row of a label file."""

DESCRIPTIONS = (*YAML, ".data")


def looks_like(seen: Seen) -> bool:
    """Whether this is data.yaml, obj.data or a list of images, or a folder with one of the first
    two or with label files."""
    if not seen.is_folder:
        if seen.path.suffix.lower() in DESCRIPTIONS:
            return True
        first = seen.head().splitlines()[:1]
        return seen.path.suffix.lower() == ".txt" and any(
            is_image(line.decode(errors="replace").strip()) for line in first
        )
    if any(
        "/" not in name and is_description(seen.path / name) for name in seen.named(*DESCRIPTIONS)
    ):
        return True
    labels = [name for name in seen.named(".txt") if is_label(name)]
    first = [head for head in map(seen.head, labels[:20]) if head][:1]
    return bool(labels) and all(map(is_row, first))


def is_row(text: bytes) -> bool:
    """Whether a text begins with a row of a label file."""
    return ROW.match(plain_text(text).lstrip()) is not None


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads the images of a part and their label files; see `READERS`.

    Classes are those of data.yaml or a list of names, in the folder or up to two above it, else the
    numbers in the files. Images without a label file, or with an empty one, have no objects. Image
    ids are file names below the folder of images, sorted unless a list has them.

    Raises:
        DataError: there are no images or labels, or most rows are not fractions.
    """

    def report(item: str, what: str, remedy: str) -> None:
        findings.append(Finding(source.path, item, what, remedy))

    if source.extras:
        raise DataError(f"{source.path}: data.extras: {source.extras[0]}: YOLO's files have none")
    path = Path(source.path)
    about = describe(path, report)
    if source.classes_only and about.names:
        return _table(source, YoloFiles(), about.names, None, np.zeros((0, 2), np.int32))
    images = None if source.images is None else Path(source.images)
    files = find_files(path, images, source.part, about)
    _check_files(source, files, report)
    labels = read_labels(
        Path(),
        files.labels,
        report,
        numbers=list(about.names) or None,
        keypoints=about.keypoints,
    )
    names = about.names or _numbers(source, labels, report)
    _check_labels(source, labels, report)
    folder = images or (path if about.file is None else about.file).parent
    return _table(source, files, names, labels, sizes_of(folder, files.images), report)


def _check_files(source: Source, files: YoloFiles, report: Report) -> None:
    """Reports label files without an image, and images that mostly have none."""
    count, absent = len(files.images), files.labels.count("")
    places = first_few(list(map(str, files.places)), 2)
    if not count:
        raise DataError(f"{source.path}: no images beside the labels in {places}; check the paths")
    if absent == count:
        raise DataError(
            f"{source.path}: none of its {count} images has a label file in {places}; check that "
            "images and labels belong together"
        )
    for label in files.strays:
        report(label, "belongs to no image", "it is left out; add its image or remove it")
    for name in files.shared:
        what = "has the label file of another image with that name"
        report(f"image {name!r}", what, "its objects count for both; rename or remove one")
    if absent > MOSTLY * count:
        first = files.images[files.labels.index("")]
        what = f"have no label file in {places} ({first!r} is the first)"
        remedy = "they count as images without objects; add an empty file for those that have none"
        report(f"{absent} of {count} images", what, remedy)
    elif absent:
        logger.info("%s: %d images without a label file have no objects", source.path, absent)


def _check_labels(source: Source, labels: Labels, report: Report) -> None:
    """Reports numbers in other units or orders than YOLO's, for all rows together."""
    if labels.far > MOSTLY * (labels.far + len(labels.classes)):
        raise DataError(
            f"{source.path}: {labels.far} of {labels.far + len(labels.classes)} rows have numbers "
            "above 1, as pixels are; divide them by the width and height of the image"
        )
    if (order := labels.order()) is not None:
        remedy = "they are used as x_center, y_center, width, height; convert them"
        report("boxes", f"look like {order}", remedy)
    if labels.keypoints:
        what = f"of {labels.keypoints} objects are left out, and their boxes are taken"
        logger.info("%s: keypoints %s", source.path, what)


def _numbers(source: Source, labels: Labels, report: Report) -> dict[int, str]:
    """The class numbers as names, where nothing names the classes."""
    if not len(labels.classes):
        raise DataError(
            f"{source.path}: nothing names its classes; put data.yaml or classes.txt beside it"
        )
    numbers = [int(number) for number in np.unique(labels.classes)]
    remedy = "the numbers are their names; put data.yaml or classes.txt beside the labels"
    report(f"classes {first_few(list(map(str, numbers)), 5)}", "have no names", remedy)
    return {number: str(number) for number in numbers}


def _table(
    source: Source,
    files: YoloFiles,
    names: dict[int, str],
    labels: Labels | None,
    sizes: NDArray[np.int32],
    report: Report = lambda *_: None,
) -> AnnotationTable:
    """The table of images of (N, 2) sizes, 0 for those that can't be read, which have no objects
    here and are reported by those who need their pixels."""
    measured = sizes.min(axis=1, initial=1) > 0
    if labels is None:
        labels = read_labels(Path(), [], report, numbers=None)
    rows = np.flatnonzero(measured[labels.image_of])
    image_of, classes = labels.image_of[rows], labels.classes[rows]
    scale = sizes[image_of][:, [1, 0, 1, 0]].astype(np.float64)
    corners = labels.boxes()[rows] * scale
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    areas, no = boxes[:, 2:].prod(axis=1), np.zeros(len(rows), bool)
    outlines = _outlines(labels, rows, scale[:, :2]) if source.outlines else None
    if outlines is not None:
        drawn = np.flatnonzero(outlines.kinds == POLYGON)
        areas[drawn] = outline_areas(outlines.select(drawn), sizes[image_of[drawn]])
        if 0 < len(drawn) < len(rows):
            item = f"{len(rows) - len(drawn)} of {len(rows)} objects"
            remedy = "training takes the box as mask, evaluation of masks counts it as missed"
            report(item, "are boxes among polygons", remedy)
    numbers = list(names)
    table = AnnotationTable(
        files=[source.path],
        class_names=_unique(names, report),
        category_ids=numbers,
        image_ids=pack_ids(files.images),
        file_of_image=np.zeros(len(files.images), np.int32),
        file_names=pack_names(files.images),
        sizes=sizes,
        image_of=image_of,
        boxes_xywh=boxes,
        labels=np.searchsorted(np.array(numbers, np.int64), classes),
        areas=areas,
        crowd=no,
        difficult=no,
        ignored=no,
        annotation_ids=np.arange(1, len(rows) + 1),
        outlines=outlines,
        measured=measured,
    )
    return table.select_images(labels.usable) if len(labels.usable) else table


def _outlines(labels: Labels, rows: NDArray[np.int64], sides: NDArray[np.float64]) -> Outlines:
    """The outlines of objects `rows`, in images of (n, 2) width, height in pixels."""
    is_polygon = labels.is_polygon[rows]
    lengths = np.where(is_polygon, np.diff(labels.offsets)[rows], 0) // 2
    places, _ = ragged_rows(labels.offsets, rows[is_polygon])
    points = labels.values[places].reshape(-1, 2) * np.repeat(
        sides[is_polygon], lengths[is_polygon], axis=0
    )
    none = np.zeros(len(rows) + 1, np.int64)
    return Outlines(
        np.where(is_polygon, POLYGON, BOX).astype(np.uint8),
        np.concatenate([[0], np.cumsum(is_polygon)]).astype(np.int64),
        np.concatenate([[0], np.cumsum(lengths[is_polygon])]).astype(np.int64),
        points,
        none,
        np.zeros(0, np.uint8),
    )


def _unique(names: dict[int, str], report: Report) -> list[str]:
    """The names in the order of the numbers; one that comes again has its number behind it."""
    number_of: dict[str, int] = {}
    for number, own in names.items():
        name = own
        while name in number_of:
            name = f"{name} ({number})"
        if name != own:
            what = f"has the name of class {number_of[own]}, {own!r}"
            report(f"class {number}", what, "they count as two classes; set data.class_map")
        number_of[name] = number
    return list(number_of)
