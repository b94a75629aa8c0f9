"""One label image per photo: 0 is background, every other value is one object.

PNG of 8 or 16 bits or with a palette, or TIFF, called as the photo or with an ending such as
`_masks` (Cellpose, StarDist, Penn-Fudan). Several classes need a file classes.csv beside the masks,
with the columns image, value and class, or value and class.

Cityscapes' …_gtFine_instanceIds.png hold class · 1000 + number for single objects; values below
1000 are groups or background. [github.com/mcordts/cityscapesScripts]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from resdet.data.detection.readers.mask_files import (
    Decoded,
    Masked,
    check_size,
    mask_names,
    only_class,
    pair_masks,
    read_masks,
    sized,
)
from resdet.data.detection.readers.mask_legend import CLASSES_FILE, find_legend, read_value_classes
from resdet.data.detection.readers.shapes import ShapeTable
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.images import is_image
from resdet.files.label_images import read_labels
from resdet.files.rle import encode_labels

BINARY = (
    "it is left out, as all objects would be one; set format to class_masks, which takes each "
    "connected region as an object, or number the objects from 1"
)

MOST_RUNS = 3
"""Pixels per change of value, below which a file is a picture, not a mask."""

CITYSCAPES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
"""The classes of Cityscapes that have single objects, by id."""

CITYSCAPES_ENDING = "_instanceIds"


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads the label images below a folder; see `READERS`.

    Raises:
        DataError: there are none, they are binary masks, or classes.csv is malformed.
    """
    folder = Path(source.path)
    table = ShapeTable(source, findings)
    images = pair_masks(table, _masks(folder), folder, source.images)
    given = read_value_classes(folder)
    if given is None:
        remedy = f"list the class of each object in {CLASSES_FILE}: image, value, class"
        name = only_class(source, "label images", remedy)
        return _read(source, findings, images, table, lambda image, value: name, [name])
    classes = sorted(set(given.values()) | set(source.classes))
    names = {
        (Path(key).stem if is_image(key) else key, value): name
        for (key, value), name in given.items()
    }

    def name_of(image: Masked, value: int) -> str | None:
        base = Path(image.masks[0]).stem
        own = (base, Path(image.key).name, "")
        return next((names[stem, value] for stem in own if (stem, value) in names), None)

    return _read(source, findings, images, table, name_of, classes)


def read_cityscapes(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads Cityscapes' label images of objects; see `READERS`.

    Raises:
        DataError: there are none.
    """
    folder = Path(source.path)
    table = ShapeTable(source, findings)
    names = [name for name in _masks(folder) if Path(name).stem.endswith(CITYSCAPES_ENDING)]
    images = pair_masks(table, names, folder, source.images)
    classes = list(CITYSCAPES.values())

    def name_of(image: Masked, value: int) -> str:
        return CITYSCAPES.get(value // 1000, "")

    return _read(source, findings, images, table, name_of, classes)


def _masks(folder: Path) -> list[str]:
    return mask_names(folder) if folder.is_dir() else []


def _read(
    source: Source,
    findings: list[Finding],
    images: list[Masked],
    table: ShapeTable,
    name_of: Callable[[Masked, int], str | None],
    classes: list[str],
) -> AnnotationTable:
    """`name_of` gives the class of a value in an image; empty for background, None for unknown."""
    folder = Path(source.path)

    def decode(image: Masked) -> Decoded:
        decoded, item = sized(source, image), image.masks[0]
        labels = read_labels(folder / item)
        if not check_size(decoded, item, labels.shape):
            decoded.usable = False
            return decoded
        changes = int((labels[:, 1:] != labels[:, :-1]).sum())
        if MOST_RUNS * changes > labels.size > 1000:
            raise DataError(
                f"{folder / item}: changes its value at every second pixel, as pictures do; give "
                "the folder of the masks"
            )
        values, codes = encode_labels(labels)
        if not values:
            what = "has no pixel of an object"
            remedy = "it is an image without objects; if it has some, write its mask again"
            decoded.problems.append((item, what, remedy))
        if values == [255]:
            problem = (item, "has the values 0 and 255 alone", BINARY)
            return Decoded(problems=[problem], usable=False)
        for value, code in zip(values, codes, strict=True):
            name = name_of(image, value)
            if name:
                decoded.names.append(name)
                decoded.codes.append(code)
            elif name is None:
                what = f"has an object {value} that {CLASSES_FILE} does not list"
                decoded.problems.append((item, what, DROPPED))
        return decoded

    chosen = [] if source.classes_only else images
    legend = find_legend(folder)
    others = [] if legend is None else [legend]
    return read_masks(source, findings, chosen, decode, table, classes, others)
