"""One mask per photo whose colours, or values, are classes; and VOC's and CVAT's pairs of masks.

    masks/a.png                  a colour, or a value, per class
    masks/classes.csv            class,r,g,b (or class,value); see `mask_legend`

    SegmentationClass/a.png      colours of classes, of labelmap.txt (CVAT) or VOC's
    SegmentationObject/a.png     a colour per object

Without masks of objects, each connected region of a class is one object: touching objects of a
class are one. Masks of a single colour need no legend. [Everingham et al., IJCV 2010; docs.cvat.ai,
Segmentation mask 1.1]
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

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
from resdet.data.detection.readers.mask_legend import CLASSES_FILE, Legend, pack, read_legend
from resdet.data.detection.readers.shapes import ShapeTable
from resdet.data.detection.readers.voc import VOC_CLASSES
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.images import open_image
from resdet.files.label_images import LOSSY, read_labels
from resdet.files.rle import encode_labels

logger = logging.getLogger("resdet")

CLASS_FOLDER, OBJECT_FOLDER = "SegmentationClass", "SegmentationObject"

VOID = pack(224, 224, 192)
"""VOC's colour of borders, which belong to no object."""

MOST_UNKNOWN = 8
"""Colours outside the legend in one mask, above which it is taken for a smoothed one."""

SMOOTHED = (
    "its image is left out: its borders are smoothed; write masks without antialiasing, resize "
    "them with nearest, and not as JPEG"
)


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads the masks of a folder, or of its SegmentationClass; see `READERS`.

    Raises:
        DataError: there are none, they need a legend and have none, or they are JPEG files.
    """
    folder = Path(source.path)
    inner = folder / CLASS_FOLDER
    folder = inner if inner.is_dir() else folder
    source = replace(source, path=str(folder))
    table = ShapeTable(source, findings)
    names = mask_names(folder) if folder.is_dir() else []
    images = pair_masks(table, names, folder, source.images)
    legend = read_legend(folder) or _voc_legend(folder) or _single(source, folder, images)
    objects = folder.parent / OBJECT_FOLDER
    has_objects = folder.name == CLASS_FOLDER and objects.is_dir()
    if not has_objects:
        logger.info(
            "%s: each connected region of a class is taken as one object; only label_masks and "
            "object_masks separate objects that touch",
            folder,
        )

    def decode(image: Masked) -> Decoded:
        decoded = sized(source, image)
        item = image.masks[0]
        classes = _labelled(decoded, folder / item, item, legend)
        if classes is None or not check_size(decoded, item, classes.shape):
            decoded.usable = False
        elif has_objects:
            _split_by_objects(decoded, objects / item, item, classes, legend.classes)
        else:
            _split_by_regions(decoded, classes, legend.classes)
        if decoded.usable and not decoded.codes:
            remedy = "it is an image without objects; if it has some, write its mask again"
            decoded.problems.append((item, "has no pixel of a class", remedy))
        return decoded

    chosen = [] if source.classes_only else images
    others = [legend.path]
    if has_objects:
        others += [objects / image.masks[0] for image in chosen]
    return read_masks(source, findings, chosen, decode, table, legend.classes, others)


def _voc_legend(folder: Path) -> Legend | None:
    """VOC's 20 colours, of SegmentationClass without a legend."""
    if folder.name != CLASS_FOLDER:
        return None
    names = {0: "", VOID: ""}
    for number, name in enumerate(VOC_CLASSES, start=1):
        # bits 0, 3, 6 of the number are the highest of red; 1, 4, 7 of green; 2, 5, 8 of blue
        channels = [
            sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))
            for channel in range(3)
        ]
        names[pack(*channels)] = name
    return Legend(folder, names, coloured=True)


def _single(source: Source, folder: Path, images: list[Masked]) -> Legend:
    """The legend of masks with one colour beside black.

    Raises:
        DataError: they have several; the message lists them.
    """
    remedy = f"write {CLASSES_FILE} beside them, with a line class,r,g,b for each"
    name = only_class(source, "masks without a legend", remedy)
    found: set[int] = set()
    for image in images[:20]:
        found.update(np.unique(_colours(folder / image.masks[0])).tolist())
    found.discard(0)
    if len(found) != 1:
        listed = ", ".join(f"{value:06x}" for value in sorted(found)[:6])
        raise DataError(
            f"{folder}: its masks have {len(found)} colours beside black ({listed}) and no legend; "
            f"{remedy}"
        )
    return Legend(folder, {0: "", found.pop(): name}, coloured=True)


def _colours(path: Path) -> NDArray[np.int32]:
    """(H, W) colours of a mask as numbers; see `pack`.

    Raises:
        DataError: it can't be read, or is a JPEG file.
    """
    image = open_image(path)
    if image.header.image is not None and image.header.image.format in LOSSY:
        raise DataError(
            f"{path}: is a JPEG file, which changes colours at borders; export the masks as PNG"
        )
    pixels = image.pixels().astype(np.int32)
    return pixels[:, :, 0] << 16 | pixels[:, :, 1] << 8 | pixels[:, :, 2]


def _labelled(decoded: Decoded, path: Path, item: str, legend: Legend) -> NDArray[np.uint16] | None:
    """(H, W) classes from 1 on, in the order of the legend's, 0 for background; None, with a
    problem, for a mask that was smoothed."""
    values: NDArray[Any] = _colours(path) if legend.coloured else read_labels(path)
    numbers = {name: number for number, name in enumerate(legend.classes, start=1)}
    labels = np.zeros(values.shape, np.uint16)
    unknown = values != 0  # black is background where the legend does not use it
    for value, name in legend.names.items():
        here = values == value
        unknown &= ~here
        labels[here] = numbers.get(name, 0)
    if unknown.any():
        others = np.unique(values[unknown]).tolist()
        what = f"has {_listed(others, legend)} in {int(unknown.sum()):,} pixels"
        what = f"{what}, which {legend.path.name} does not list"
        if len(others) > MOST_UNKNOWN:
            decoded.problems.append((item, what, SMOOTHED))
            return None
        remedy = "they are taken as background; add them to it"
        decoded.problems.append((item, what, remedy))
    return labels


def _listed(values: list[int], legend: Legend) -> str:
    words = [f"#{value:06x}" if legend.coloured else str(value) for value in values[:3]]
    kind = "colours" if legend.coloured else "values"
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return f"the {kind} {', '.join(words)}{more}"


def _split_by_regions(decoded: Decoded, classes: NDArray[np.uint16], names: list[str]) -> None:
    """The connected regions of each class, of which pixels touch by a side or corner."""
    for number, name in enumerate(names, start=1):
        of_class = (classes == number).view(np.uint8)
        if of_class.any():
            _, regions = cv2.connectedComponents(of_class, connectivity=8)
            _, codes = encode_labels(regions)
            decoded.codes += codes
            decoded.names += [name] * len(codes)


def _split_by_objects(
    decoded: Decoded, path: Path, item: str, classes: NDArray[np.uint16], names: list[str]
) -> None:
    """The objects of a second mask, each of the class that most of its pixels have."""
    colours = _colours(path)
    if not check_size(decoded, f"{OBJECT_FOLDER}/{item}", colours.shape):
        decoded.usable = False
        return
    colours[colours == VOID] = 0
    values, codes = encode_labels(colours)
    for value, code in zip(values, codes, strict=True):
        counts = np.bincount(classes[colours == value], minlength=1)
        counts[0] = 0
        if counts.any():
            decoded.names.append(names[int(counts.argmax()) - 1])
            decoded.codes.append(code)
        else:
            what = f"has an object of the colour #{value:06x} without a class in {CLASS_FOLDER}"
            decoded.problems.append((item, what, DROPPED))
