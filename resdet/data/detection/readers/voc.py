"""PASCAL VOC: VOCdevkit as it unpacks, and own data in its layout.

    VOC2007/JPEGImages/000005.jpg
    VOC2007/Annotations/000005.xml
    VOC2007/ImageSets/Main/trainval.txt     a line per image, 000005

The annotation file is a list in ImageSets, or a folder of XML files, all of which are read. Boxes
count pixels from 1 and include the last one. [Everingham et al., IJCV 2010; VOCdevkit's
VOCreadrecxml.m and VOCevaldet.m]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resdet.data.detection.readers.image_lists import (
    ImageFiles,
    ImageList,
    list_folder,
    read_lists,
    xml_names,
)
from resdet.data.detection.readers.shapes import NO_OBJECTS
from resdet.data.detection.readers.xml_files import Report, XmlColumns, read_xml_files
from resdet.data.detection.readers.xml_table import (
    NO_XML,
    is_unannotated,
    report_missing,
    xml_table,
)
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DataError, Finding
from resdet.files.regular import is_file

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""In the order of VOCinit.m."""

FIRST_PIXEL = 1

FOLDER = "Annotations"


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads a list of images or a folder of XML files; see `READERS`.

    Classes are VOC's 20 in their order if all objects have such names. Otherwise they are the
    names in all XML files of the folder, sorted, so that lists of one folder agree; names of
    `Source.classes` are added. Images of a list called `test…` that mostly have no XML file are
    test images without annotations.

    Raises:
        DataError: there are no XML files, or the list is unusable.
    """

    def report(item: str, what: str, remedy: str) -> None:
        findings.append(Finding(source.path, item, what, remedy))

    folder, images = _images(source, report)
    files = [f"{name}.xml" for name in images.names]
    columns = read_xml_files(folder, files, report, extras=source.extras)
    is_test = is_unannotated(source.path, folder, columns)
    if not is_test:
        report_missing(files, columns.missing, NO_XML, report)
    classes = _classes(source, folder, files, columns, report)
    keep = np.ones(len(files), bool) if is_test else columns.usable
    if is_test:
        columns = columns.without_objects()
    image_files = ImageFiles(source.images)
    names = [
        image_files.find(name, [f"{name.rpartition('/')[2]}.jpg", *([given] if given else [])])
        for name, given in zip(images.names, columns.file_names, strict=True)
    ]
    return xml_table(
        source,
        columns,
        ids=images.names,
        file_names=names,
        keep=keep,
        class_names=classes,
        category_ids=range(1, len(classes) + 1),
        label_of={name: label for label, name in enumerate(classes)},
        first=FIRST_PIXEL,
        has_annotations=not is_test,
    )


def _images(source: Source, report: Report) -> tuple[Path, ImageList]:
    """The folder of the XML files, and the names of the images."""
    path = Path(source.path)
    if path.is_dir():
        for inner in ("ImageSets", FOLDER):
            if (path / inner).is_dir():
                raise DataError(
                    f"{path}: holds {inner}/; give a list, {path}/ImageSets/Main/trainval.txt, or "
                    f"all annotations, {path}/{FOLDER}"
                )
        return path, list_folder(path)
    near = [parent / FOLDER for parent in path.absolute().parents[:3]]
    if source.images is not None:
        near.append(Path(source.images).absolute().parent / FOLDER)
    folder = next((folder for folder in near if folder.is_dir()), None)
    if path.suffix.lower() == ".json":
        raise DataError(f"{path}: is JSON, not VOC's; set format to coco, or give XML files")
    if folder is None:
        raise DataError(
            f"{path}: no folder {FOLDER} beside it, beside the folder ImageSets or beside the "
            "images; unpack VOCdevkit as it is, or give the folder of XML files"
        )
    return folder, read_lists(source.path, lambda name: is_file(folder / f"{name}.xml"), report)


def _classes(
    source: Source, folder: Path, files: list[str], columns: XmlColumns, report: Report
) -> list[str]:
    found = set(columns.names)
    if found and found <= set(VOC_CLASSES):
        return list(VOC_CLASSES)
    listed = set(files)
    others = [f"{name}.xml" for name in xml_names(folder) if f"{name}.xml" not in listed]
    found |= set(read_xml_files(folder, others, lambda *_: None).names)
    if found <= set(VOC_CLASSES):
        return list(VOC_CLASSES)
    for name in source.classes:
        if name not in found:
            report(f"class {name!r}", "is in data.classes, but in no XML file", NO_OBJECTS)
    return sorted(found | set(source.classes))
