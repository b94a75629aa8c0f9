"""By what the formats of masks as image files are recognised: names, legends, and a few pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resdet.data.detection.readers.class_masks import CLASS_FOLDER
from resdet.data.detection.readers.mask_files import MASKS, ImageNames, is_mask
from resdet.data.detection.readers.mask_legend import (
    FILES,
    find_legend,
    read_legend,
    read_value_classes,
)
from resdet.data.detection.readers.yolo_description import YAML, is_description
from resdet.files.findings import DataError
from resdet.files.images import is_image
from resdet.files.label_images import read_labels

if TYPE_CHECKING:
    from resdet.data.detection.readers.recognize import Seen

MOST_OPENED = 5
"""Masks that are decoded."""

CITYSCAPES = "_gtFine_instanceIds.png"

OTHERS = (".txt", ".csv")
"""Files of other formats, more than one of them, unless they are called as legends."""

PICTURES = (".jpg", ".jpeg")


def recognize_masks(seen: Seen) -> str | None:
    """Which of the formats of masks a folder is in; None where it is in another."""
    if not seen.is_folder:
        return None
    files = [name for name in seen.files if is_image(name)]
    folders = {name.partition("/")[0] for name in files if "/" in name}
    if CLASS_FOLDER in folders or (seen.path.name == CLASS_FOLDER and files):
        return "class_masks"
    if any(name.endswith(CITYSCAPES) for name in files):
        return "cityscapes"
    if any(f"/{MASKS}/" in name for name in files):
        return "object_masks"
    others = [name for name in seen.named(*OTHERS) if name.rpartition("/")[2] not in FILES]
    if not files or len(others) > 1 or seen.named(".json", ".xml"):
        return None
    if any(is_description(seen.path / name) for name in seen.named(*YAML)):
        return None
    if seen.images is None and all("/" in name for name in files) and not find_legend(seen.path):
        return "object_masks"
    names = ImageNames(None if seen.images is None else str(seen.images), seen.path)
    if _in_folders_of_images(files, names):
        return "object_masks"
    masks = _paired(seen, files, names)
    return _by_values(seen.path, masks[:MOST_OPENED]) if masks else None


def _in_folders_of_images(files: list[str], names: ImageNames) -> bool:
    """Whether every file is in a folder that is called as an image, or in one inside it."""
    places = {name.rpartition("/")[0] for name in files}
    return all(
        place and (names.find(place) or names.find(place.rpartition("/")[0])) for place in places
    )


def _paired(seen: Seen, files: list[str], names: ImageNames) -> list[str]:
    """The files that may be the mask of an image."""
    if seen.images is None:
        return [file for file in files if not file.lower().endswith(PICTURES)]
    in_place = seen.images.absolute() == seen.path.absolute()
    stems = {file: file.rpartition(".")[0] for file in files}
    return [
        file for file, stem in stems.items() if names.find(stem) and (is_mask(file) or not in_place)
    ]


def _by_values(folder: Path, masks: list[str]) -> str | None:
    """Objects or classes, by the legend or else by the values of a few masks."""
    legend = find_legend(folder)
    if legend is not None:
        try:
            if read_legend(folder) is not None:
                return "class_masks"
        except DataError:
            pass
        try:
            if any(image for image, _ in read_value_classes(folder) or {}):
                return "label_masks"
        except DataError:
            pass
        return "class_masks"
    binary = True
    for name in masks:
        try:
            values = np.unique(read_labels(folder / name))
        except DataError:  # colours, or a file that its reader reports
            return None if name.lower().endswith(PICTURES) else "class_masks"
        binary &= values[values > 0].tolist() in ([], [255])
    return "class_masks" if binary else "label_masks"
