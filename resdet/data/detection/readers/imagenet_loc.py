"""ImageNet's localization set (ILSVRC 2012 to 2017, CLS-LOC): one class per image, and its boxes.

    ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10040.JPEG    the folders of classification
    ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG        in one folder, or in class folders
    ILSVRC/Annotations/CLS-LOC/{train,val}/…                    544,546 and 50,000 XML files
    LOC_train_solution.csv, LOC_val_solution.csv                the same boxes as Kaggle has them

The annotation file is a folder of XML files, one of Kaggle's tables, or a list in ImageSets. Boxes
count pixels from 0 and include the last one: the kit's ground truth of val has x1 = 0 in 7,388
boxes, and the same numbers as the XML files and Kaggle's table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.readers.image_lists import ImageList
from resdet.data.detection.readers.imagenet_folders import (
    FIRST_PIXEL,
    OTHER_CLASS,
    SUFFIX,
    base_name,
    find_images,
    report_origin,
    report_unknown,
)
from resdet.data.detection.readers.kaggle_loc import read_table
from resdet.data.detection.readers.xml_files import Report, XmlColumns, read_xml_files
from resdet.data.detection.readers.xml_table import (
    NO_XML,
    is_unannotated,
    report_missing,
    xml_table,
)
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DROPPED, Finding

WNID = re.compile(r"n\d{8}")
IN_TRAIN = re.compile(r"(n\d{8})_\d+")


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads a folder of XML files, a list of images or Kaggle's table; see `READERS`.

    Only images with boxes are read; classification knows the others. Classes are wnids in sorted
    order, as classifiers have them: those of the class folders of train, beside a flat val as
    well, else those of the objects. Image ids are file names without folder and suffix, and
    images are in ascending order of them, which in val is the kit's order. Objects of another
    class than the image's (its folder in train, the first object's in val) are left out.

    Raises:
        DataError: there are no annotations, or they are in no such format.
    """

    def report(item: str, what: str, remedy: str) -> None:
        findings.append(Finding(source.path, item, what, remedy))

    is_test = False
    if Path(source.path).suffix.lower() == ".csv":
        images, columns = read_table(source, report)
        files = images.names
    else:
        folder, images = find_images(source, "CLS-LOC", report)
        images = _by_id(images, report)
        files = [f"{name}.xml" for name in images.names]
        columns = read_xml_files(folder, files, report, extras=source.extras)
        is_test = is_unannotated(source.path, folder, columns)
        if is_test:
            columns = columns.without_objects()
        else:
            report_missing(files, columns.missing, NO_XML, report)
    classes = _classes(source, columns)
    label_of = {name: label for label, name in enumerate(classes)}
    report_origin(columns, report)
    columns = _one_class(files, columns, report)
    report_unknown(files, columns, label_of, report)
    return xml_table(
        source,
        columns,
        ids=[base_name(name) for name in images.names],
        file_names=_file_names(source.images, images.names, columns),
        keep=columns.usable | is_test,
        class_names=classes,
        category_ids=range(1, len(classes) + 1),
        label_of=label_of,
        first=FIRST_PIXEL,
        has_annotations=not is_test,
    )


def _by_id(images: ImageList, report: Report) -> ImageList:
    """The images in the order of their ids, each one once."""
    names: dict[str, str] = {}
    for name in sorted(images.names):
        if base_name(name) in names:
            what = f"has the name of another, {names[base_name(name)]}"
            report(f"image {name}", what, DROPPED)
        names.setdefault(base_name(name), name)
    return ImageList([names[key] for key in sorted(names)], [1] * len(names))


def _classes(source: Source, columns: XmlColumns) -> list[str]:
    """Wnids of the nearest class folders, else of the objects and `source.classes`."""
    path = Path(source.path).absolute()
    places = [path, path.parent / "train"]
    if source.images is not None:
        images = Path(source.images).absolute()
        places = [images, images.parent / "train", *places]
    for place in places:
        if place.is_dir() and (names := _class_folders(place)):
            return names
    return sorted({*columns.names, *source.classes})


def _class_folders(folder: Path) -> list[str]:
    return sorted(
        entry.name for entry in folder.iterdir() if WNID.fullmatch(entry.name) and entry.is_dir()
    )


def _image_classes(files: Sequence[str], columns: XmlColumns) -> NDArray[np.int64]:
    """(N,) positions in `columns.names` of each image's class: of its folder, else of its first
    object; -1 where its folder is that of a class without objects, or it has no objects."""
    position = {name: row for row, name in enumerate(columns.names)}
    classes = np.full(len(columns.usable), -1, np.int64)
    images, firsts = np.unique(columns.image_of, return_index=True)
    classes[images] = columns.name_of[firsts]
    for row, file in enumerate(files):
        if match := IN_TRAIN.match(base_name(file)):
            classes[row] = position.get(match[1], -1)
    return classes


def _one_class(files: list[str], columns: XmlColumns, report: Report) -> XmlColumns:
    """The objects of each image's class; the others are reported."""
    wanted = _image_classes(files, columns)[columns.image_of]
    same = columns.name_of == wanted
    for row in np.flatnonzero(~same).tolist():
        file, name = files[columns.image_of[row]], columns.names[columns.name_of[row]]
        own = columns.names[wanted[row]] if wanted[row] >= 0 else base_name(file).split("_")[0]
        report(file, f"has an object of class {name!r}, and is an image of {own!r}", OTHER_CLASS)
    return columns.select(np.flatnonzero(same))


def _file_names(images: str | None, names: list[str], columns: XmlColumns) -> list[str]:
    """Paths below the image folder: as the XML files are, or in class folders where the images
    are in such and their annotations are not (Kaggle's tables, and val sorted into classes)."""
    has_folders = (
        images is not None and Path(images).is_dir() and bool(_class_folders(Path(images)))
    )
    file_names = [f"{name}{SUFFIX}" for name in names]
    if images is None or has_folders:
        classes = _image_classes(names, columns)
        for row, name in enumerate(names):
            match = IN_TRAIN.fullmatch(name)
            if "/" not in name and (match or (has_folders and classes[row] >= 0)):
                own = match[1] if match else columns.names[classes[row]]
                file_names[row] = f"{own}/{name}{SUFFIX}"
    return file_names
