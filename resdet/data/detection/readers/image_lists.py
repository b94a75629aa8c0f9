"""Lists of images as VOC and ImageNet have them, one name per line; and folders of XML files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from resdet.data.detection.readers.xml_files import Report
from resdet.files.findings import DataError, log_findings
from resdet.files.images import SUFFIXES, read_sizes
from resdet.files.walk import is_listed, list_files

# 1, 0, -1 in VOC's lists per class and DET's training lists; an index in val.txt
MARKED = re.compile(r"(.*\S)\s+([-+]?\d{1,9})")

OTHER_FORMATS = {".json": "coco", ".csv": "imagenet_loc"}
"""Formats that files with other suffixes may have."""


@dataclass
class ImageList:
    """Names of images, each one once."""

    names: list[str] = field(default_factory=list)
    """Without suffix; they may contain folders, with `/`."""
    marks: list[int] = field(default_factory=list)
    """The number after each name, the largest of several lists; 1 without one, and -1 in DET's
    lists of negatives, train_neg_….txt."""


def expand(path: str) -> list[Path]:
    """The files that a path with `*`, `?` or `[…]` in its last part names, in natural order; or
    the path itself, which need not exist."""
    whole = Path(path)
    if whole.exists() or not re.search(r"[*?\[]", whole.name):
        return [whole]
    digits = re.compile(r"(\d+)")
    files = [file for file in whole.parent.glob(whole.name) if is_listed(file.name)]
    ordered = sorted(files, key=lambda file: [_order(part) for part in digits.split(file.name)])
    return ordered or [whole]


def _order(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)


def read_lists(path: str, is_image: Callable[[str], bool], report: Report) -> ImageList:
    """The images of a list, or of all lists that a pattern names.

    Args:
        is_image: whether a whole line is the name of an image, asked only for those that end with
            a number.
        report: gets names that one list has twice.
    Raises:
        DataError: a list is missing, empty, or no list.
    """
    images, row_of = ImageList(), dict[str, int]()
    for file in expand(path):
        own: set[str] = set()
        for name, mark in _lines(file, is_image):
            if name in own:
                report(f"image {name!r}", "is listed twice", "it is read once; remove one line")
            own.add(name)
            row = row_of.setdefault(name, len(row_of))
            if row == len(images.names):
                images.names.append(name)
                images.marks.append(mark)
            else:
                images.marks[row] = max(mark, images.marks[row])
        if not own:
            raise DataError(f"{file}: lists no images; write one name per line, without suffix")
    return images


def _lines(file: Path, is_image: Callable[[str], bool]) -> Iterator[tuple[str, int]]:
    """The name of each line, and its mark."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read as a list of images ({error.strerror})") from None
    if b"\0" in content or content.lstrip()[:1] in (b"{", b"<"):
        format = OTHER_FORMATS.get(file.suffix.lower())
        hint = f"set format: {format}, or give" if format else "give"
        raise DataError(f"{file}: not a list of images; {hint} a text file with one name per line")
    text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    unmarked = -1 if file.name.startswith("train_neg") else 1
    for line in text.replace("\r", "\n").split("\n"):
        name, mark = line.strip().replace("\\", "/"), unmarked
        match = MARKED.fullmatch(name)
        if match and not is_image(name):
            name, mark = match[1], int(match[2])
        if name:
            yield _stem(name), mark


def _stem(name: str) -> str:
    """Lists of other tools name files."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in SUFFIXES else name


def list_folder(folder: Path) -> ImageList:
    """The images of all XML files below a folder; DataError where there are none."""
    names = xml_names(folder)
    if not names:
        raise DataError(f"{folder}: no XML file in this folder; give the folder of annotations")
    return ImageList(names, [1] * len(names))


def xml_names(folder: Path) -> list[str]:
    """Sorted paths of the XML files below a folder, relative to it and without suffix."""
    listing = list_files(folder)
    log_findings(listing.findings(folder))
    names = sorted(name[:-4] for name in listing.files if name[-4:].lower() == ".xml")
    twice = next((name for name, other in pairwise(names) if name == other), None)
    if twice is not None:
        raise DataError(
            f"{folder}: has {twice}.xml and a file that differs in the case of its suffix; remove "
            "one of them"
        )
    return names


class ImageFiles:
    """The image files below a folder, by name without suffix; each directory is listed once."""

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.listed: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, choices: Sequence[str]) -> str:
        """The first of `choices` that is there, else an image called `name`, else `choices[0]`.

        All are paths below the folder; choices are file names in the directory of `name`.
        """
        directory, slash, base = name.rpartition("/")
        files = self._files(directory)
        chosen = next((one for one in choices if one in files.get(_stem(one), ())), None)
        if chosen is None:
            chosen = files.get(base, choices)[0]
        return f"{directory}{slash}{chosen}"

    def has(self, file_name: str) -> bool:
        """Whether there is an image of this name below the folder."""
        directory, _, base = file_name.rpartition("/")
        return base in self._files(directory).get(_stem(base), ())

    def size(self, file_name: str) -> tuple[int, int]:
        """(height, width) of an image from its header; (0, 0) where it can't be read."""
        if self.folder is None:
            return 0, 0
        height, width = read_sizes(self.folder, [file_name])[0].tolist()
        return height, width

    def _files(self, directory: str) -> dict[str, list[str]]:
        """Names of images by stem."""
        if directory not in self.listed:
            files: dict[str, list[str]] = {}
            try:
                entries = [] if self.folder is None else [*os.scandir(self.folder / directory)]
                for name in sorted(entry.name for entry in entries):
                    if (stem := _stem(name)) != name:
                        files.setdefault(stem, []).append(name)
            except (OSError, ValueError):  # ValueError: what no path can hold
                pass  # a missing folder is reported once, by whoever needs its images
            self.listed[directory] = files
        return self.listed[directory]
