"""Which images and label files a YOLO data set has, and what its classes are called.

data.yaml                       path, train, val, test; names or nc; kpt_shape [Ultralytics]
images/train/a.jpg              the label file of an image is in labels/ in place of images/
labels/train/a.txt
train/images, train/labels      as Roboflow exports, with ../train/images in data.yaml
images/, labels/, classes.txt   as Label Studio and other tools export
obj.data, obj.names, train.txt, obj_train_data/     darknet's, as CVAT exports
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from resdet.data.detection.file_names import ImageFolder
from resdet.data.detection.readers.yolo_description import (
    NAME_FILES,
    Description,
    list_suffixes,
    read_lines,
    stated_paths,
)
from resdet.errors import first_few
from resdet.files.findings import DataError, log_findings
from resdet.files.images import SUFFIXES, is_image
from resdet.files.regular import is_folder
from resdet.files.walk import list_files

NO_LABELS = frozenset((*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "notes.txt"))
"""Text files in folders of labels that are none; those whose name starts with README as well."""


@dataclass
class YoloFiles:
    """The images of a data set and their label files."""

    images: list[str] = field(default_factory=list)
    """Names below the folder of the images."""
    labels: list[str] = field(default_factory=list)
    """The path of each image's label file; empty where it has none."""
    strays: list[str] = field(default_factory=list)
    """Label files without an image."""
    shared: list[str] = field(default_factory=list)
    """Images whose label file is that of an image before as well."""
    places: list[Path] = field(default_factory=list)
    """The folders in which label files are looked for."""


def find_files(path: Path, images: Path | None, part: str | None, about: Description) -> YoloFiles:
    """The images and label files of a part of a description, a list of images or labels.

    Args:
        path: what the user gave.
        images: the folder of the images; None is where the description or the labels are.
        part: train, val or test.
    Raises:
        DataError: there are none, or the images are not below the folder.
    """
    is_described = about.file is not None and about.file.parent == path.absolute()
    if path.is_dir() and not (is_described and about.parts and not _has_labels(path)):
        return _of_labels(path, path.parent if images is None else images)
    if not path.is_dir() and path.suffix.lower() == ".txt":
        folder = path.parent if images is None else images
        return _of_lists([path], folder, [path.parent, folder])
    assert about.file is not None
    part = _part(part, about)
    base = about.file.parent
    folder = base if images is None else images
    roots = [*stated_paths(about.root, [base, base.parent])] if about.root else []
    roots = list(dict.fromkeys([*roots, base, folder]))
    places = []
    for stated in about.parts[part]:
        there = list(stated_paths(stated, roots))
        inside = (one for one in there if _below(folder, one) is not None)
        place = next(inside, there[0] if there else None)
        if place is None:
            raise DataError(
                f"{about.file}: {part}: no folder or list {stated} below "
                f"{', '.join(map(str, roots))}; correct the path, or give a folder of labels"
            )
        places.append(place)
    lists = [place for place in places if not place.is_dir()]
    if lists and len(lists) < len(places):
        raise DataError(f"{about.file}: {part}: has folders and lists; give one kind")
    if lists:
        return _of_lists(lists, folder, [*(one.parent for one in lists), *roots])
    return _of_folders(places, folder, f"{about.file}: {part}")


def _part(part: str | None, about: Description) -> str:
    has = list(about.parts)
    if part in has:
        return part
    if part is None and len(has) == 1:
        return has[0]
    if not has:
        raise DataError(f"{about.file}: has no train, val or test; give a folder of labels")
    wanted = "several parts" if part is None else f"no {part}"
    raise DataError(
        f"{about.file}: has {wanted} ({', '.join(has)}); give the folder of labels or the list of "
        "images of one of them"
    )


def _has_labels(folder: Path) -> bool:
    """Whether label files are directly in a folder."""
    return any(is_label(file.name) for file in list_suffixes(folder, (".txt",)))


def is_label(name: str) -> bool:
    """Whether a text file is called as label files may be."""
    base = name.rpartition("/")[2].lower()
    return base.endswith(".txt") and base not in NO_LABELS and not base.startswith("readme")


def _below(folder: Path, inner: Path) -> str | None:
    """The path of a folder from the folder of the images, with `/` at its end; None where it is
    not in it."""
    for one, other in ((folder.absolute(), inner.absolute()), (folder.resolve(), inner.resolve())):
        place = os.path.relpath(other, one).replace(os.sep, "/")
        if place == ".":
            return ""
        if not place.startswith(".."):
            return f"{place}/"
    return None


def labels_of(images: Path) -> Path:
    """The folder of the label files of a folder of images: labels in place of the last images, or
    where that is not there the folder itself."""
    for path in (images, images.absolute()):
        if (labels := _swapped(path, "images", "labels")) is not None and is_folder(labels):
            return labels
    inner = images / "labels"  # a folder with images and labels, such as Roboflow's train
    return inner if is_folder(images / "images") and is_folder(inner) else images


def _swapped(path: Path, old: str, new: str) -> Path | None:
    """A path with its last folder called `old` replaced; None without one."""
    parts = path.parts
    if old not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index(old)
    return Path(*parts[:last], new, *parts[last + 1 :])


def _of_folders(places: Sequence[Path], folder: Path, what: str) -> YoloFiles:
    """The images of folders, and the label files beside them."""
    found = YoloFiles()
    for place in places:
        labels = labels_of(place)
        own = place / "images" if labels == place / "labels" else place
        before = _below(folder, own)
        if before is None:
            raise DataError(f"{what}: {own} is not in the image folder {folder}; give one above it")
        _pair(found, own, before, labels)
    return found


def _of_labels(path: Path, folder: Path) -> YoloFiles:
    """The label files of a folder, and the images that belong to them: those of the folder images
    in place of labels or those beside the labels if they are in `folder`, else all of `folder`."""
    inner = path / "labels"
    labels = inner if inner.is_dir() and not _has_labels(path) else path
    mirror = _swapped(labels.absolute(), "labels", "images")
    for own in (mirror, labels):
        if own is not None and own.is_dir() and (own is mirror or list_suffixes(own, SUFFIXES)):
            before = _below(folder, own)
            if before is not None:
                break
    else:
        own, before = folder, ""
    found = YoloFiles()
    _pair(found, own, before, labels)
    return found


def _pair(found: YoloFiles, images: Path, before: str, labels: Path) -> None:
    """Adds the images of a folder, which is at `before` in that of all images, and the label files
    of the same names in `labels`."""
    listing = list_files(images)
    log_findings(listing.findings(images))
    texts = listing.files if labels == images else list_files(labels).files
    there, others = set[str](), set[str]()
    for text in texts:
        if is_label(text):
            there.add(text)
        elif text.endswith(".txt") and text.rpartition("/")[2] not in NAME_FILES:
            others.add(text)
    used = set()
    for name in filter(is_image, listing.files):
        label = f"{name.rpartition('.')[0]}.txt"
        if label in others:  # of a photo that is called train or notes
            there.add(label)
        found.images.append(f"{before}{name}")
        found.labels.append(f"{labels}/{label}" if label in there else "")
        if label in used and label in there:
            found.shared.append(f"{before}{name}")
        used.add(label)
    found.strays += [f"{labels}/{name}" for name in sorted(there - used)]
    found.places.append(labels)


def _of_lists(lists: Sequence[Path], folder: Path, roots: Sequence[Path]) -> YoloFiles:
    """The images that lists name, and their label files."""
    stated = [line for file in lists for line in read_lines(file) if line]
    if not stated:
        raise DataError(f"{first_few(list(map(str, lists)))}: lists no images; write one per line")
    places, found = ImageFolder(folder), YoloFiles()
    cut, put = "", ""
    listings: dict[str, tuple[Path, frozenset[str]]] = {}
    for line in stated:
        name = line.replace("\\", "/").removeprefix("./")
        own = put + name.removeprefix(cut)
        if not places.has(own) and (change := _change(name, folder, roots)) is not None:
            cut, put = change
            own = put + name.removeprefix(cut)
        place = own if places.has(own) else places.locate(own) or own
        directory, _, base = place.rpartition("/")
        if directory not in listings:
            labels = labels_of(folder / directory)
            there = frozenset(file.name for file in list_suffixes(labels, (".txt",)))
            listings[directory] = labels, there
            found.places.append(labels)
        labels, there = listings[directory]
        label = f"{base.rpartition('.')[0]}.txt"
        if label not in there:  # called as the list has the image
            label = f"{own.rpartition('/')[2].rpartition('.')[0]}.txt"
        found.images.append(own)
        found.labels.append(f"{labels}/{label}" if label in there else "")
    return found


def _change(name: str, folder: Path, roots: Sequence[Path]) -> tuple[str, str] | None:
    """What of a listed name to cut off in front, and what to put there instead, so that it is the
    path of the image below the folder; None where the image is not there."""
    for place in stated_paths(name, [folder, *roots]):
        before = _below(folder, place.parent)
        if before is not None:
            old, new = name.split("/"), f"{before}{place.name}".split("/")
            pairs = zip(reversed(old), reversed(new), strict=False)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            cut, put = old[: len(old) - same], new[: len(new) - same]
            return "".join(f"{part}/" for part in cut), "".join(f"{part}/" for part in put)
    return None
