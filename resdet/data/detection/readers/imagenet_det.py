"""ImageNet's detection set (ILSVRC 2013 to 2017, DET) in the layout of 2015 and later.

    ILSVRC/Data/DET/{train,val,test}/….JPEG
    ILSVRC/Annotations/DET/{train,val}/….xml
    ILSVRC/ImageSets/DET/val.txt            lines `ILSVRC2012_val_00000001 1`: name and index
    ILSVRC/ImageSets/DET/train_7.txt        lines `name 1`: 1 all objects of class 7 are annotated,
                                            0 some are, -1 verified to be without

The annotation file is such a list, a pattern of lists (train_pos_*.txt of the kits of 2013 and
2014), or a folder of XML files. Objects are named by wnid. Boxes count pixels from 0 and include
the last one; docs/decisions.md has the evidence. [readme.txt of the ILSVRC2014 and ILSVRC2015
development kits, section 2.2]
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from resdet.data.detection.readers.image_lists import ImageList
from resdet.data.detection.readers.imagenet_folders import (
    FIRST_PIXEL,
    SUFFIX,
    base_name,
    find_images,
    report_origin,
    report_unknown,
)
from resdet.data.detection.readers.xml_files import read_xml_files
from resdet.data.detection.readers.xml_table import is_unannotated, report_missing, xml_table
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import Finding

NO_XML = "it is taken for an image without objects; add the file if it has some"

WNID_FOLDER = re.compile(r"n\d{8}/")
EXTRA = re.compile(r"ILSVRC2013_train_\d{8}")
"""Images verified to be without classes, which the lists of 2014 name without their folder."""


class Synset(NamedTuple):
    """A class of the detection set."""

    number: int
    """ILSVRC2014_DET_ID, 1 to 200."""
    wnid: str
    name: str


@cache
def det_synsets() -> list[Synset]:
    """The 200 classes, by number."""
    text = Path(__file__).with_name("imagenet_det.yaml").read_text("utf-8")
    return [Synset(*entry) for entry in yaml.safe_load(text)]


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads lists of images or a folder of XML files; see `READERS`.

    Classes have their readable names, and the kit's numbers as category ids; `class_extras["wnid"]`
    has the wnids. Image ids are file names without folder and suffix. Images are in ascending
    order of their ids, which in val is that of the kit's image numbers. An image without an XML
    file is one without objects; those of a list called `test…` are without annotations.

    Raises:
        DataError: there are no XML files, or the lists are unusable.
    """

    def report(item: str, what: str, remedy: str) -> None:
        findings.append(Finding(source.path, item, what, remedy))

    synsets = det_synsets()
    folder, listed = find_images(source, "DET", report)
    images = _by_id(listed, [Path(source.images or folder), folder])
    files = [f"{name}.xml" for name in images.names]
    columns = read_xml_files(folder, files, report, extras=source.extras)
    is_negative = np.array(images.marks) < 0
    is_test = not is_negative.any() and is_unannotated(source.path, folder, columns)
    if is_test:
        columns = columns.without_objects()
    report_missing(files, columns.missing & ~is_negative & (not is_test), NO_XML, report)
    label_of = {synset.wnid: label for label, synset in enumerate(synsets)}
    report_origin(columns, report)
    report_unknown(files, columns, label_of, report)
    return xml_table(
        source,
        columns,
        ids=[base_name(name) for name in images.names],
        file_names=[f"{name}{SUFFIX}" for name in images.names],
        keep=columns.usable | columns.missing | is_test,
        class_names=[synset.name for synset in synsets],
        category_ids=[synset.number for synset in synsets],
        label_of=label_of,
        first=FIRST_PIXEL,
        has_annotations=not is_test,
        class_extras={"wnid": [synset.wnid for synset in synsets]},
    )


def _by_id(listed: ImageList, folders: list[Path]) -> ImageList:
    """The images in the order of their ids, each one once, with the folders of the layout.

    The lists of 2013 and 2014 name an older packaging: n02672831/n02672831_7 for what is now in
    ILSVRC2013_train, and ILSVRC2013_train_00000133 for an image of ILSVRC2013_train_extra0 to 10.
    """
    has_train = any((folder / "ILSVRC2013_train").is_dir() for folder in folders)
    extra: dict[str, str] | None = None
    rows: dict[str, tuple[str, int]] = {}
    for name, mark in zip(listed.names, listed.marks, strict=True):
        if has_train and WNID_FOLDER.match(name):
            name = f"ILSVRC2013_train/{name}"
        elif EXTRA.fullmatch(name):
            if extra is None:
                extra = _extra_folders(folders[0])
            name = f"{extra[name]}/{name}" if name in extra else name
        key = base_name(name)
        rows[key] = (name, max(mark, rows[key][1]) if key in rows else mark)
    ordered = [rows[key] for key in sorted(rows)]
    return ImageList([name for name, _ in ordered], [mark for _, mark in ordered])


def _extra_folders(folder: Path) -> dict[str, str]:
    """The subfolder of each image of ILSVRC2013_train_extra0 to 10."""
    return {
        file.stem: inner.name
        for inner in sorted(folder.glob("*extra*"))
        for file in inner.glob(f"*{SUFFIX}")
    }
