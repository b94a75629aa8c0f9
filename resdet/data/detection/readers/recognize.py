"""The format of annotations by what is there: names, and the first bytes of a file."""

from __future__ import annotations

import mmap
import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from resdet.data.detection.readers import csv, cvat, labelme, yolo
from resdet.data.detection.readers.class_masks import CLASS_FOLDER
from resdet.data.detection.readers.image_lists import expand
from resdet.data.detection.readers.mask_marks import recognize_masks
from resdet.errors import first_few
from resdet.files.findings import DataError
from resdet.files.images import is_image
from resdet.files.walk import is_listed

MOST_LISTED = 1000
"""Files below a folder that are looked at."""

HEAD = 4096
"""Bytes of a file that are looked at."""

OTHERS = (".xml", ".csv", ".tsv", ".yaml", ".yml", ".data")
"""Suffixes of files that are never JSON; YAML may begin as JSON does."""

ANNOTATIONS = (".json", ".txt", *OTHERS)
"""Suffixes of files that hold annotations in some format."""

WNID = re.compile(rb"<name>\s*n\d{8}\s*</name>")


@dataclass(frozen=True)
class Seen:
    """The path of annotations, and what is there."""

    path: Path
    """A file or folder; of a pattern the first file."""
    images: Path | None
    """The folder of the images; None where it is not known."""

    @cached_property
    def is_folder(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def files(self) -> list[str]:
        """Of a folder, the first `MOST_LISTED` files below it, the upper ones first: paths below
        it, with `/`. Of a file its own name."""
        if not self.is_folder:
            return [self.path.name]
        found: list[str] = []
        folders = deque([""])
        while folders and len(found) < MOST_LISTED:
            place = folders.popleft()
            try:
                with os.scandir(self.path / place) as entries:
                    listed = sorted((one.name, one.is_dir()) for one in entries)
            except OSError:
                continue
            own = [f"{place}{name}" for name, is_dir in listed if is_listed(name) and not is_dir]
            found += own[: MOST_LISTED - len(found)]
            folders += [f"{place}{name}/" for name, is_dir in listed if is_listed(name) and is_dir]
        return found

    def named(self, *suffixes: str) -> list[str]:
        """The `files` with one of these suffixes, which are in lower case."""
        return [name for name in self.files if name.lower().endswith(suffixes)]

    @cached_property
    def masks(self) -> str | None:
        """Which of the formats of masks as image files it is."""
        return recognize_masks(self)

    def head(self, name: str | None = None) -> bytes:
        """The first bytes of one of `files`, or of the path; none of what can't be read."""
        path = self.path / name if name and self.is_folder else self.path
        try:
            if path.is_file():
                with path.open("rb") as file:
                    return file.read(HEAD).lstrip(b"\xef\xbb\xbf \r\n\t")
        except OSError:
            pass
        return b""


Mark = Callable[[Seen], bool]


def recognize(images: Path | None, annotations: Path, *, key: str = "format") -> str:
    """The key of `READERS` that reads these annotations.

    Args:
        images: the folder of the images, where it is known.
        annotations: a file, a folder, or a pattern of files.
        key: what messages call the key that gives the format; empty where none does.
    Raises:
        DataError: it looks like none of the formats, or like several.
    """
    seen = Seen(expand(str(annotations))[0], images)
    if not seen.path.exists():
        raise DataError(f"{annotations}: no such file or folder")
    formats = [format for format, mark in MARKS if mark(seen)]
    if len(formats) > 1:  # images are masks only where nothing else annotates them
        formats = [format for format in formats if format != seen.masks]
    if len(formats) == 1:
        return formats[0]
    path = seen.path
    choices = ", ".join(dict.fromkeys(format for format, _ in MARKS))
    if formats:
        raise DataError(
            f"{path}: looks like {' and like '.join(formats)} ({first_few(seen.files, 4)}); set "
            f"{key} to one of them, or give a file"
        )
    otherwise = f"; or set {key} to one of {choices}" if key else f"; the formats are {choices}"
    raise DataError(f"{path}: {_unknown(seen)}{otherwise}")


def _unknown(seen: Seen) -> str:
    """What is there that is in no known format, and what to give instead."""
    if not seen.files:
        return "an empty folder; give the annotations"
    if seen.is_folder:
        if len(json := seen.named(".json")) > 1:
            return f"give a file of this folder: {first_few(json, 3)}"
        if all(map(is_image, seen.files)):
            return "this is a folder of images; give their annotations"
        return f"its files ({first_few(seen.files, 3)}) are in no known format; give annotations"
    suffix = seen.path.suffix.lower()
    if suffix == ".xml" and b"<annotation>" in seen.head():
        return "one image's XML file as VOC has them; give the folder of all of them"
    if suffix == ".txt" and yolo.is_row(seen.head()):
        return "one image's label file of YOLO; give the folder of all of them, or data.yaml"
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        return "an archive; unpack it and give what is in it"
    if is_image(seen.path.name):
        return "an image; give its annotations"
    return "it is in no known format; give annotations"


def _is_json(seen: Seen, name: str | None = None) -> bool:
    """Whether a file is JSON, by its suffix or its first character."""
    suffix = Path(name or seen.path).suffix.lower()
    return suffix == ".json" or (suffix not in OTHERS and seen.head(name)[:1] in (b"{", b"["))


def _is_coco(seen: Seen) -> bool:
    """A JSON file, or a folder with one that has COCO's list of images."""
    if not seen.is_folder:
        return _is_json(seen) and not labelme.looks_like(seen)
    return only_coco(seen) is not None


def only_coco(seen: Seen) -> Path | None:
    """The one file of a folder that is COCO's; None where there are several or none."""
    found = [seen.path / name for name in seen.named(".json") if _lists_images(seen.path / name)]
    return found[0] if len(found) == 1 else None


def _lists_images(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            text = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
            return all(text.find(key) >= 0 for key in (b'"images"', b'"categories"'))
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def _xml(seen: Seen) -> str | None:
    """Which of the formats with one XML file per image a folder of such files, or a list of them,
    is in; None where it is neither."""
    parts = seen.path.absolute().parts
    if seen.is_folder:
        files = seen.named(".xml")
        head = seen.head(files[0]) if files else b""
        if b"<annotation" not in head or b"<annotations" in head:
            folders = _folders(seen)
            of_masks = CLASS_FOLDER in folders and "Annotations" not in folders  # CVAT's export
            return "voc" if {"ImageSets", "Annotations"} & folders and not of_masks else None
        if not WNID.search(head):
            return "voc"
    elif seen.path.suffix.lower() not in (".txt", "") or _is_json(seen) or not _has_xml_near(seen):
        return None
    if "DET" in parts:
        return "imagenet_det"
    if "CLS-LOC" in parts or seen.is_folder:
        return "imagenet_loc"
    return "voc"


def _folders(seen: Seen) -> set[str]:
    return {name.partition("/")[0] for name in seen.files if "/" in name}


def _has_xml_near(seen: Seen) -> bool:
    """Whether a list belongs to a folder of XML files, as VOC and ImageNet lay them out."""
    if "ImageSets" in seen.path.absolute().parts:
        return True
    near = [parent / "Annotations" for parent in seen.path.absolute().parents[:3]]
    if seen.images is not None:
        near.append(seen.images.absolute().parent / "Annotations")
    return any(folder.is_dir() for folder in near)


def _is_kaggle(seen: Seen) -> bool:
    """Kaggle's table of ImageNet's localization set."""
    return seen.path.suffix.lower() == ".csv" and seen.head().startswith(b"ImageId,Prediction")


MARKS: list[tuple[str, Mark]] = [
    ("coco", _is_coco),
    ("voc", lambda seen: _xml(seen) == "voc"),
    ("imagenet_det", lambda seen: _xml(seen) == "imagenet_det"),
    ("yolo", yolo.looks_like),
    ("csv", csv.looks_like),
    ("imagenet_loc", lambda seen: _xml(seen) == "imagenet_loc" or _is_kaggle(seen)),
    ("labelme", labelme.looks_like),
    ("cvat", cvat.looks_like),
    ("object_masks", lambda seen: seen.masks == "object_masks"),
    ("label_masks", lambda seen: seen.masks == "label_masks"),
    ("class_masks", lambda seen: seen.masks == "class_masks"),
    ("cityscapes", lambda seen: seen.masks == "cityscapes"),
]
"""By key of `READERS`, in rows: a format may have several marks. At most one row may hold for a
path; where two do, the user is asked."""
