"""What the formats of masks as image files share: which mask is of which image, and decoding."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from resdet.data.detection.readers.shapes import ShapeTable
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.cache import load_result, store_result
from resdet.files.findings import DROPPED, DataError, Finding, log_findings
from resdet.files.images import is_image, read_size
from resdet.files.walk import list_files

logger = logging.getLogger("resdet")

MASKS = "masks"
"""The folder of masks beside images, and of an image's masks in the Data Science Bowl's layout."""

ENDINGS = (
    "_cp_masks", "_masks", "_mask", "_labels", "_label", "_labelIds", "_instanceIds",
    "_gtFine_instanceIds", "_instances", "_seg", "_segmentation", "_gt", "_L",
)  # fmt: skip
"""What tools put behind an image's name: Cellpose, Roboflow, Penn-Fudan, Cityscapes, CamVid."""

CACHED_S = 2.0
"""Seconds of decoding from which its results are kept."""

MANY = 2000
"""Masks of which the log tells before they are decoded."""

VERSION = b"masks 2"
"""Of what `decode` gives; another one makes kept results void."""

IMAGE_ENDINGS = ("", "_leftImg8bit", "_image", "_img")

ANOTHER_SIZE = "it is left out; write the mask at the size of its image"

BROKEN = "its image is left out; write the mask again, or remove both"


@dataclass
class Masked:
    """An image and its mask files, as paths below the folders of images and of annotations."""

    key: str
    """Its id: its path without suffix."""
    file_name: str
    masks: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    """The class of each mask, where folders give it."""


@dataclass
class Decoded:
    """The objects of an image."""

    size: tuple[int, int] = (0, 0)
    """(height, width) of the image."""
    names: list[str] = field(default_factory=list)
    """The class of each object."""
    codes: list[bytes] = field(default_factory=list)
    """COCO's compressed code of each object, none of them empty."""
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """Item, what is wrong, and the remedy."""
    usable: bool = True
    """Whether the image is kept."""
    measured: bool = False
    """Whether the size is that of the image's header; else of its first mask."""


class ImageNames:
    """The images below a folder by their paths without suffix.

    Args:
        masks: the folder of the masks; where it is the same, files called as masks are not images.
    """

    def __init__(self, folder: str | None, masks: Path) -> None:
        self.names: dict[str, str] = {}
        self.bases: dict[str, list[str]] = {}
        """The same by the last part of the path."""
        self.folder = folder
        if folder is None:
            return
        shared = Path(folder).absolute() == masks.absolute()
        for name in list_files(folder).files:
            stem = name.rpartition(".")[0]
            if is_image(name) and not (shared and is_mask(name)):
                self.names.setdefault(stem, name)
                self.bases.setdefault(stem.rpartition("/")[2], []).append(stem)

    def find(self, stem: str) -> str | None:
        """The path without suffix of the image that a mask's path without suffix belongs to: as it
        is or without one of `ENDINGS`, at the same place or else the only one of that name."""
        short = mask_stem(stem)
        for one in (stem, short):
            for ending in IMAGE_ENDINGS if one else ():
                if f"{one}{ending}" in self.names:
                    return f"{one}{ending}"
                found = self.bases.get(f"{one}{ending}".rpartition("/")[2], [])
                if len(found) == 1:
                    return found[0]
        return None


def is_mask(name: str) -> bool:
    """Whether a file beside images is called as a mask, or in a folder of masks."""
    return MASKS in name.split("/")[:-1] or bool(mask_stem(name.rpartition(".")[0]))


def mask_stem(stem: str) -> str:
    """A path without suffix without the longest of `ENDINGS` that it has; empty without one."""
    found = max((end for end in ENDINGS if stem.endswith(end)), key=len, default="")
    return stem.removesuffix(found) if found else ""


def pair_masks(
    table: ShapeTable, files: Iterable[str], folder: Path, images: str | None
) -> list[Masked]:
    """The images of mask files of one image each; without an image folder all that are called as
    masks, or else all.

    Raises:
        DataError: no mask has an image.
    """
    names, pairs = ImageNames(images, folder), dict[str, Masked]()
    alone, listed = [], list(files)
    in_place = images is not None and Path(images).absolute() == folder.absolute()
    if in_place:
        listed = [file for file in listed if is_mask(file)]
    for file in listed:
        stem = file.rpartition(".")[0]
        key = names.find(stem) if images is not None else mask_stem(stem) or stem
        if key is None:
            alone.append(file)
        elif key in pairs:
            remedy = "it is left out; keep one mask per image"
            table.report(file, f"is of the same image as {pairs[key].masks[0]}", remedy)
        else:
            pairs[key] = Masked(key, names.names.get(key, key), [file])
    if not pairs:
        raise DataError(
            f"{folder}: {no_masks(alone, listed, images)}; give masks called as their images, or "
            f"with one of {', '.join(ENDINGS[:5])} at the end"
        )
    for file in alone:
        table.report(file, f"has no image of its name in {images}", DROPPED)
    return list(pairs.values())


def no_masks(alone: Sequence[str], listed: Sequence[str], images: str | None) -> str:
    """What is wrong with a folder whose masks have no images."""
    if not listed:
        return "there is no mask in it"
    return f"none of its {len(listed)} masks ({', '.join(alone[:2])}) has an image in {images}"


def mask_names(folder: Path) -> list[str]:
    """The image files below a folder, sorted; what can't be listed is logged."""
    listing = list_files(folder)
    log_findings(listing.findings(folder))
    return [name for name in listing.files if is_image(name)]


def sized(source: Source, image: Masked) -> Decoded:
    """No objects yet, and the size from the image's header; unknown without an image folder, or
    where it can't be read, which whoever needs the image reports."""
    if source.images is None:
        return Decoded()
    try:
        return Decoded(read_size(Path(source.images) / image.file_name), measured=True)
    except DataError:
        return Decoded()


def check_size(decoded: Decoded, item: str, shape: tuple[int, ...]) -> bool:
    """Whether a mask has the (height, width) of its image, which is unknown before the first one;
    a problem otherwise."""
    height, width = shape[:2]
    if not all(decoded.size):
        decoded.size = (height, width)
    if decoded.size == (height, width):
        return True
    of_image = f"{decoded.size[1]}×{decoded.size[0]}"
    what = f"has {width}×{height} pixels, its image {of_image}"
    decoded.problems.append((item, what, ANOTHER_SIZE))
    return False


def read_masks(
    source: Source,
    findings: list[Finding],
    images: Sequence[Masked],
    decode: Callable[[Masked], Decoded],
    table: ShapeTable,
    classes: Sequence[str],
    others: Sequence[Path] = (),
) -> AnnotationTable:
    """The table of images whose masks `decode` reads, several at a time.

    What takes longer than `CACHED_S` is kept in the cache for as long as no file changes.

    Args:
        decode: raises DataError for a file that can't be read; its image is left out.
        classes: names in the order of their labels.
        others: further files that decoding depends on.
    Raises:
        DataError: no mask can be used.
    """

    def guarded(image: Masked) -> Decoded:
        try:
            return decode(image)
        except DataError as error:
            text = str(error).removeprefix(f"{source.path}{os.sep}")
            item, _, what = text.partition(": ")
            return Decoded(problems=[(item, what, BROKEN)], usable=False)

    key = hashlib.sha256(str(Path(source.path).absolute()).encode("utf-8", "replace")).hexdigest()
    state = _state(source, images, [decode.__module__, *classes], others)
    results = _cached(key, state)
    if results is None:
        start, masks = time.monotonic(), sum(len(image.masks) for image in images)
        if masks > MANY:
            logger.info("%s: decoding %d masks, once until a file changes", source.path, masks)
        with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
            results = list(pool.map(guarded, images))
        if time.monotonic() - start > CACHED_S:
            store_result("masks", key, state + msgspec.msgpack.encode(results))
    for image, decoded in zip(images, results, strict=True):
        for problem in decoded.problems:
            table.report(*problem)
        if decoded.usable:
            size, measured = decoded.size, decoded.measured
            row = table.add_image(image.key, image.file_name, size, measured=measured)
            if row is not None:
                table.add_codes(row, decoded.names, decoded.codes)
    if images and not any(decoded.usable for decoded in results):
        raise DataError(f"{source.path}: no mask in it can be used: {findings[-1]}")
    return table.finish(classes)


def _state(
    source: Source, images: Sequence[Masked], words: Sequence[str], others: Sequence[Path]
) -> bytes:
    """A digest of what decoding depends on: names, and the sizes and times of all files."""
    digest = hashlib.sha256(VERSION)
    folders = [Path(source.path)] * 2 if source.images is None else [source.path, source.images]
    files = [(folders[0], name) for image in images for name in image.masks]
    files += [(folders[1], image.file_name) for image in images]
    files += [("", str(other)) for other in others]
    known = [str(folders[1]), *words, *(name for image in images for name in image.classes)]
    digest.update("\0".join(known).encode("utf-8", "surrogateescape"))
    for folder, name in files:
        path = os.path.join(folder, name)  # noqa: PTH118 (30,000 of them)
        try:
            stat = os.stat(path)  # noqa: PTH116
            text = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0"
        except OSError:
            text = f"{path}\0-\0"
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.digest()


def _cached(key: str, state: bytes) -> list[Decoded] | None:
    """The results that were kept, if they are of this state."""
    content = load_result("masks", key)
    if content is None or not content.startswith(state):
        return None
    try:
        return msgspec.msgpack.decode(content[len(state) :], type=list[Decoded])
    except ValueError:  # msgspec's errors are ValueErrors
        return None


def only_class(source: Source, kind: str, remedy: str) -> str:
    """The name of the class of masks that tell none: that of `data.classes`, or else "object".

    Raises:
        DataError: `data.classes` has several.
    """
    if len(source.classes) > 1:
        raise DataError(
            f"{source.path}: data.classes: {len(source.classes)} names, and {kind} are of one "
            f"class; {remedy}"
        )
    return source.classes[0] if source.classes else "object"
