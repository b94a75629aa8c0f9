"""One mask file per object, in a folder per image: as the Data Science Bowl 2018 unpacks, and own
data in either layout.

    stage1_train/ID/images/ID.png     images: stage1_train, annotations: stage1_train
    stage1_train/ID/masks/*.png       an object each: all pixels that are not 0

    masks/PHOTO/*.png                 images: a folder with PHOTO.jpg, annotations: masks

A further folder gives the class: ID/masks/CLASS/*.png, masks/PHOTO/CLASS/*.png. Objects may
overlap. [kaggle.com/c/data-science-bowl-2018]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.readers.mask_files import (
    MASKS,
    Decoded,
    ImageNames,
    Masked,
    check_size,
    mask_names,
    only_class,
    read_masks,
    sized,
)
from resdet.data.detection.readers.shapes import ShapeTable
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.label_images import read_labels

FOLDER_REMEDY = "put the masks of each class in a folder of its name"


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads the masks below a folder; see `READERS`.

    The one class is called as `data.classes` says, or else "object"; classes that folders give are
    sorted by name. An image whose folder of masks is empty is an image without objects.

    Raises:
        DataError: there are no folders of masks.
    """
    folder = Path(source.path)
    names = mask_names(folder) if folder.is_dir() else []
    table = ShapeTable(source, findings)
    in_bowl = any(f"/{MASKS}/" in name for name in names)
    images = _bowl(table, folder, names) if in_bowl else _folders(table, folder, names)
    if not any(image.masks for image in images):
        raise DataError(
            f"{folder}: no folder in it has the masks of one image; give a folder with "
            "PHOTO/masks/*.png or PHOTO/*.png, or for one mask per photo set format to "
            "label_masks or class_masks"
        )
    given = {name for image in images for name in image.classes if name}
    single = "" if given else only_class(source, "masks in one folder per image", FOLDER_REMEDY)
    if given:
        _leave_out_loose(table, images)

    def decode(image: Masked) -> Decoded:
        decoded = sized(source, image)
        for name, label in zip(image.masks, image.classes, strict=True):
            mask = read_labels(folder / name)
            if not check_size(decoded, name, mask.shape):
                continue
            filled = _object(decoded, name, mask)
            if filled is not None:
                decoded.codes.append(coco_mask.encode(cv2.transpose(filled).T)["counts"])
                decoded.names.append(label or single)
        return decoded

    if source.classes_only:
        images = []
    classes = sorted(given | set(source.classes)) if given else [single]
    return read_masks(source, findings, images, decode, table, classes)


def _object(decoded: Decoded, name: str, mask: NDArray[Any]) -> NDArray[np.uint8] | None:
    """(H, W) 0/1 of a mask; None, with a problem, for one that is empty or not of one object."""
    high = int(mask.max(initial=0))
    if not high:
        decoded.problems.append((name, "has no pixel of an object", DROPPED))
        return None
    filled = (mask > 0).view(np.uint8)
    if high > 1 and not ((mask == high) == filled).all():
        values = np.unique(mask)
        values = values[values > 0].tolist()
        if values == list(range(1, len(values) + 1)):
            remedy = "it is left out; for one mask per photo set format to label_masks"
            what = f"has the values 1 to {high}, which are several objects"
            decoded.problems.append((name, what, remedy))
            return None
        what = f"has {len(values)} levels, as of a smooth border"
        remedy = "pixels above half of the highest are taken; write masks of two values"
        decoded.problems.append((name, what, remedy))
        filled = (mask > high // 2).view(np.uint8)
    return filled


def _bowl(table: ShapeTable, folder: Path, names: list[str]) -> list[Masked]:
    """The images of ID/images/ID.png and ID/masks/…; those without masks are reported."""
    masks: dict[str, list[tuple[str, str]]] = {}
    pictures: dict[str, list[str]] = {}
    for name in names:
        *parts, _ = name.split("/")
        if MASKS in parts[1:]:
            place = parts.index(MASKS, 1)
            label = "/".join(parts[place + 1 :])
            masks.setdefault("/".join(parts[:place]), []).append((name, label))
        elif parts[-1:] == ["images"]:
            pictures.setdefault("/".join(parts[:-1]), []).append(name)
    others = ImageNames(table.source.images, folder)
    same = table.source.images is None or folder.samefile(table.source.images)
    images = []
    for key in sorted({*masks, *pictures}):
        own = pictures.get(key, [])
        if len(own) > 1:
            remedy = "the first is taken; keep one per folder"
            table.report(f"{key}/images", f"holds {len(own)} images", remedy)
        file_name = own[0] if own and same else others.names.get(others.find(key) or "", key)
        if key not in masks and not (folder / key / MASKS).is_dir():
            table.report(f"image {key!r}", f"has no folder {MASKS}", DROPPED)
            continue
        pairs = masks.get(key, [])
        images.append(Masked(key, file_name, [n for n, _ in pairs], [c for _, c in pairs]))
    return images


def _folders(table: ShapeTable, folder: Path, names: list[str]) -> list[Masked]:
    """The images of PHOTO/*.png, and of PHOTO/CLASS/*.png where PHOTO is an image."""
    others = ImageNames(table.source.images, folder)
    found: dict[str, Masked] = {}
    places = {name.rpartition("/")[0] for name in names}
    # without images, classes are folders that several others have
    lasts = {place.rpartition("/")[2] for place in places}
    with_classes = all("/" in place for place in places) and len(lasts) < len(places)
    strays: dict[str, int] = {}
    for name in names:
        place, slash, _ = name.rpartition("/")
        above, _, last = place.rpartition("/")
        key, label = (others.find(place) if slash else None), ""
        if key is None and above:
            key, label = others.find(above), last
        if table.source.images is None and slash:
            key, label = (above, last) if with_classes else (place, "")
        if key is None:
            strays[place] = strays.get(place, 0) + 1
            continue
        image = found.setdefault(key, Masked(key, others.names.get(key, key)))
        image.masks.append(name)
        image.classes.append(label)
    for place, count in strays.items():
        what = f"has {count} mask(s) and no image of its name" if place else "has loose files"
        table.report(f"folder {place or '.'}", what, DROPPED)
    with os.scandir(folder) as entries:
        for entry in entries:
            key = others.find(entry.name) if entry.is_dir() else None
            if key is not None and key not in found and not any(os.scandir(entry.path)):
                found[key] = Masked(key, others.names[key])
    return [found[key] for key in sorted(found)]


def _leave_out_loose(table: ShapeTable, images: list[Masked]) -> None:
    """Reports and drops masks without a class where others have one."""
    for image in images:
        for name, label in zip(image.masks, image.classes, strict=True):
            if not label:
                table.report(name, "is in no class folder, as others are", DROPPED)
        pairs = [(n, c) for n, c in zip(image.masks, image.classes, strict=True) if c]
        image.masks, image.classes = [n for n, _ in pairs], [c for _, c in pairs]
