"""Images in folders: one subfolder per class, with the name of the class."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from resdet.data.classification.samples import Source
from resdet.data.fingerprint import file_bytes
from resdet.data.names import pack_names
from resdet.data.plausibility import Images
from resdet.errors import did_you_mean
from resdet.files.findings import DataError, Finding, missing_images_error
from resdet.files.images import SUFFIXES, is_image
from resdet.files.regular import open_regular
from resdet.files.walk import is_listed, list_files
from resdet.interop.loaded import are_numbered, without_names

logger = logging.getLogger("resdet")

SPLITS = {"train", "training", "val", "valid", "validation", "test"}
"""Folders that contain class folders and are none themselves."""

LISTED = 5
"""How many names of a list a message shows."""


@dataclass
class FileImages(Source):
    """Image files below a folder; `names` are paths below it."""

    def name(self, index: int) -> str:
        return str(self.root / self.names[index])

    def open(self, index: int) -> BinaryIO:
        return open_regular(self.root / self.names[index])

    def located(self) -> Images:
        alone = np.zeros(len(self.names), np.int64)
        place, names = str(self.root), self.names
        return Images(place, [place], alone, names, self.name, self.open, self.file_bytes)

    def file_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return file_bytes(lambda row: self.root / self.names[row], rows)


def read_class_folders(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
) -> FileImages:
    """The images of each class folder and of folders inside it, sorted by class and path.

    Folders are listed by the rule of `list_files`. Files that are not images, and classes without
    images, are findings. See `label_order` for the classes.

    Raises:
        DataError: there are no class folders or no images, or the classes do not agree.
    """
    root = Path(root)
    if not root.is_dir():
        raise missing_images_error(root)
    folders, loose = _entries(root)
    if not folders:
        raise missing_images_error(root, "no class folders in it")
    _check_level(root, folders, is_train=train_classes is None)
    class_names = label_order(str(root), folders, classes=classes, train_classes=train_classes)
    label_of = {name: label for label, name in enumerate(class_names)}
    paths: list[str] = []
    labels: list[NDArray[np.int64]] = []
    others: list[str] = [name for name in loose if not is_image(name)]
    chosen = [name for name in folders if name in label_of]
    listing = list_files(root, chosen)
    findings = listing.findings(root)
    images_of: dict[str, list[str]] = {name: [] for name in chosen}
    for path in listing.files:
        (images_of[path.partition("/")[0]] if is_image(path) else others).append(path)
    for name in chosen:
        images = images_of[name]
        if not images:
            findings.append(
                Finding(str(root), f"class folder {name!r}", "holds no image", EMPTY_REMEDY)
            )
        paths += images
        labels.append(np.full(len(images), label_of[name], np.int64))
    if not paths:
        kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise DataError(f"{root}: no image in the class folders; images are named {kinds}")
    findings += _stray_files(root, [name for name in loose if is_image(name)], others)
    return FileImages(root, pack_names(paths), np.concatenate(labels), class_names, findings)


EMPTY_REMEDY = "the class keeps its label; add images, or drop it by data.classes"


def label_order(
    where: str,
    present: Sequence[str],
    *,
    classes: Sequence[str] | None,
    train_classes: Sequence[str] | None,
) -> list[str]:
    """The names of the classes by label.

    Args:
        where: the data, for messages.
        present: the classes that the data have.
        classes: a user's choice of them, in label order; others are dropped. None keeps all.
        train_classes: those of the training set. Labels follow them, and the data may lack some.
    Raises:
        DataError: a chosen class is missing, or the data have a class that training lacks.
    """
    every = present
    if classes is not None:
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if twice:
            raise DataError(f"data.classes: {some(twice)} twice; name each class once")
        left_out = len(set(present) - set(classes))
        if left_out:
            logger.info("%s: %d other class(es) left out by data.classes", where, left_out)
        present = [name for name in present if name in set(classes)]
    if train_classes is None:
        missing = sorted(set(classes or ()) - set(present))
        if missing:
            remedy = "correct data.classes, or add images of that class"
            hint = did_you_mean(missing[0], every, remedy, most=1)
            raise DataError(f"{where}: no class {some(missing)}, which data.classes names; {hint}")
        return list(present if classes is None else classes)
    strange = sorted(set(present) - set(train_classes))
    if strange and are_numbered(train_classes):
        raise DataError(f"{where}: {without_names(train_classes, every)}")
    if strange:
        raise DataError(
            f"{where}: {len(strange)} class(es) that training lacks: {some(strange)}; training "
            f"has {some(train_classes)}. Rename or remove them: names must be identical"
        )
    if not present:
        raise DataError(
            f"{where}: none of the classes of training ({some(train_classes)}) is in it; give "
            "data.val.root a folder that has them"
        )
    absent = len(set(train_classes) - set(present))
    if absent:
        logger.info("%s: %d of the %d classes have no image", where, absent, len(train_classes))
    return list(train_classes)


def loose_images(root: Path) -> list[str]:
    """Sorted names of the images directly in a folder."""
    return sorted(name for name in _entries(root)[1] if is_image(name))


def has_folders(root: Path) -> bool:
    return bool(_entries(root)[0])


def _entries(root: Path) -> tuple[list[str], list[str]]:
    """Sorted folders and files, of those that count."""
    with os.scandir(root) as listing:
        entries = [(entry.name, entry.is_dir()) for entry in listing if is_listed(entry.name)]
    folders = sorted(name for name, is_folder in entries if is_folder)
    return folders, sorted(name for name, is_folder in entries if not is_folder)


def _check_level(root: Path, folders: list[str], *, is_train: bool) -> None:
    """DataError if the folder is one level above or below the right one."""
    if {name.lower() for name in folders} <= SPLITS:
        raise DataError(
            f"{root}: holds {', '.join(f'{name}/' for name in folders)} rather than classes; give "
            f"data.root={root}, or one of these folders"
        )
    if is_train and len(folders) == 1:
        inner = len(_entries(root / folders[0])[0])
        hint = f", or {root / folders[0]}, which has {inner} folders" if inner else ""
        raise DataError(
            f"{root}: only one class folder, {folders[0]}/; there is nothing to distinguish. Give "
            f"the folder that holds all classes{hint}"
        )


def _stray_files(root: Path, loose: list[str], others: list[str]) -> list[Finding]:
    findings = []
    if loose:
        remedy = "they are left out; move each into the folder of its class"
        findings.append(Finding(str(root), some(loose), "not in a class folder", remedy))
    if others:
        remedy = f"they are left out; images are named *{', *'.join(SUFFIXES)}"
        findings.append(Finding(str(root), some(others), "not named as images", remedy))
    return findings


def some(names: Sequence[str]) -> str:
    """The first few names of a list, for a message."""
    more = f", … ({len(names):,} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
