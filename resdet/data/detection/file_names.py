"""Image files by the names that annotation files give them, which other machines wrote.

A name that is not there as written may still be certain: separators of Windows, `%20`, a URL or
the full path on another machine, the image folder's own name in front, letters composed or
decomposed (NFC and NFD), another case, or the eight digits that Label Studio puts before the names
of uploads. It is taken if exactly one file answers to it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, unquote_plus

import numpy as np
from numpy.typing import NDArray

from resdet.files.images import SUFFIXES, read_sizes

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
DRIVE = re.compile(r"[A-Za-z]:")
LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio has before the paths of files that it does not copy."""
UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")


class ImageFolder:
    """The files below an image folder; each directory is listed once."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.own_name = fold(self.folder.absolute().name)
        self._names: dict[str, frozenset[str]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}

    def has(self, name: str) -> bool:
        """Whether there is a file of this name inside the folder; links may lead out of it."""
        directory, _, base = name.rpartition("/")
        names = self._names.get(directory)
        if names is None:
            names = self._names[directory] = self._list(directory, name)
        return base in names

    def _list(self, directory: str, name: str) -> frozenset[str]:
        """The entries of a directory; none of one that is not there or outside the folder."""
        if name.startswith("/") or ".." in directory.split("/"):
            return frozenset()
        try:
            with os.scandir(self.folder / directory) as entries:
                return frozenset(entry.name for entry in entries)
        except (OSError, ValueError):  # ValueError: what no path can hold
            return frozenset()

    def locate(self, name: str) -> str | None:
        """The one file that a name stands for which is not there as written; None without one."""
        for parts in readings(name, self.own_name):
            place = ""
            for depth, part in enumerate(parts, start=1):
                found = self._one(place, part, without_suffix=depth == len(parts))
                if found is None:
                    break
                place = f"{place}/{found}" if place else found
            else:
                return place
        return None

    def _one(self, directory: str, name: str, *, without_suffix: bool) -> str | None:
        """The entry of a directory with this name, or else the one whose folded name is equal, or
        `without_suffix` the one image called so."""
        entries = self._entries(directory)
        alike = entries.get(fold(name), [])
        if not alike and without_suffix:
            alike = entries.get(f"{fold(name)}/", [])
        return name if name in alike else alike[0] if len(alike) == 1 else None

    def _entries(self, directory: str) -> dict[str, list[str]]:
        """Entries of a directory by folded name, images also without suffix and with a `/`."""
        if directory not in self._folded:
            self.has(f"{directory}/." if directory else ".")
            entries = self._folded[directory] = {}
            for name in sorted(self._names[directory]):
                folded = fold(name)
                stem, _, suffix = folded.rpartition(".")
                entries.setdefault(folded, []).append(name)
                if f".{suffix}" in SUFFIXES:
                    entries.setdefault(f"{stem}/", []).append(name)
        return self._folded[directory]

    def near(self, name: str) -> str | None:
        """The one image whose name differs in its suffix alone, for a hint."""
        stem, _, suffix = name.rpartition(".")
        return self.locate(stem) if f".{suffix.lower()}" in SUFFIXES else None


def sizes_of(folder: Path, names: Sequence[str]) -> NDArray[np.int32]:
    """`read_sizes` of image files; of one that is not there as written, the file that its name
    stands for."""
    sizes, places = read_sizes(folder, names), ImageFolder(folder)
    unsized = [names[row] for row in np.flatnonzero(sizes.min(axis=1, initial=1) < 1).tolist()]
    found = [(places.locate(name) or "") if not places.has(name) else "" for name in unsized]
    if any(found):
        sizes[sizes.min(axis=1, initial=1) < 1] = read_sizes(folder, found)
    return sizes


def fold(name: str) -> str:
    """What names are compared by: composed letters, in lower case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def readings(name: str, own_name: str) -> Iterator[list[str]]:
    """The parts of the paths below an image folder that a name may stand for, likeliest first.

    Leading folders are left out if the last of them is called as the image folder, `own_name`, or
    if the name is a URL or a full path, which begins on another machine.
    """
    text = name.strip().replace("\\", "/").rpartition(LOCAL_FILES)[2]
    is_url = URL.match(text) is not None
    if is_url:
        text = re.split(r"[?#]", text.partition("://")[2])[0].partition("/")[2]
    is_full = is_url or text.startswith("/") or DRIVE.match(text) is not None
    text = DRIVE.sub("", text, count=1) if DRIVE.match(text) else text
    for variant in dict.fromkeys((text, unquote(text), unquote_plus(text))):
        parts: list[str] = []
        for part in variant.split("/"):
            if part == ".." and parts and parts[-1] != "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        for first in range(len(parts)):
            if not first or is_full or fold(parts[first - 1]) == own_name:
                rest = parts[first:]
                if ".." not in rest:
                    yield rest
        if parts and (upload := UPLOAD.match(parts[-1])):
            base = parts[-1][upload.end() :]
            if ".." not in parts:
                yield [*parts[:-1], base]
            yield [base]
