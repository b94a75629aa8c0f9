"""The files of a COCO data set: their JSON, their categories, and the images in their folders."""

from __future__ import annotations

import difflib
import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from resdet.files.findings import DataError


def read_coco_json(path: str | Path) -> dict[str, Any]:
    """Reads a COCO file and checks its three lists.

    Raises:
        DataError: it is no JSON, or not COCO's layout.
    """
    try:
        with _no_garbage_collection():
            data = json.loads(Path(path).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file ({error}); write it anew") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); check the path") from error
    if isinstance(data, list):
        raise DataError(
            f"{path}: holds a list, as a file of detections does; ground truth is an object with "
            "images, annotations and categories"
        )
    for key in ("images", "annotations", "categories"):
        entries = data.get(key) if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise DataError(
                f"{path}: has no list {key!r}; COCO needs images, annotations and categories"
            )
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise DataError(f"{path}: {key}[{position}] is {entry!r:.60}, not an object")
    return data


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of small objects are made and none is garbage: looking for it doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class Categories:
    """The classes of all files: names agree, ids may differ from file to file."""

    wanted: Sequence[str] | None
    """Names to keep, in label order; None keeps all, ordered by the first file's ids."""
    names: list[str] = field(default_factory=list)
    """K names in label order."""
    ids: list[int] = field(default_factory=list)
    """K category ids in the first file."""
    label_of: list[dict[int, int]] = field(default_factory=list)
    """For each file: the label of each of its category ids, -1 for those not kept."""
    first_path: str = ""
    first_names: set[str] = field(default_factory=set)

    def add_file(self, path: str, entries: list[dict[str, Any]]) -> None:
        """Takes the categories of one more file.

        Raises:
            DataError: they are broken, or do not agree with the first file's or with `wanted`.
        """
        own = _ids_by_name(path, entries)
        if not self.names:
            self.first_path, self.first_names = path, set(own)
            if self.wanted is None:
                self.names = sorted(own, key=own.__getitem__)
            else:
                self.names = _wanted_names(path, self.wanted, own)
            self.ids = [own[name] for name in self.names]
        elif self.wanted is None and set(own) != self.first_names:
            lacking = sorted(self.first_names - set(own))
            extra = sorted(set(own) - self.first_names)
            raise DataError(
                f"{path}: its categories differ from those of {self.first_path}: "
                f"lacks {lacking or 'none'}, has besides {extra or 'none'}; make the names agree, "
                "or give data.classes, names that every file has"
            )
        elif self.wanted is not None:
            _wanted_names(path, self.wanted, own)
        labels = {name: label for label, name in enumerate(self.names)}
        self.label_of.append({key: labels.get(name, -1) for name, key in own.items()})


def _ids_by_name(path: str, entries: list[dict[str, Any]]) -> dict[str, int]:
    own: dict[str, int] = {}
    for position, entry in enumerate(entries):
        key, name = entry.get("id"), entry.get("name")
        if not isinstance(key, int) or not isinstance(name, str):
            raise DataError(
                f"{path}: categories[{position}] needs an id (whole number) and a name, has {entry}"
            )
        if name in own or key in own.values():
            raise DataError(f"{path}: category {key} {name!r} is there twice; remove one")
        own[name] = key
    if not own:
        raise DataError(f"{path}: has no categories; add {{id, name}} for each class")
    return own


def _wanted_names(path: str, wanted: Sequence[str], own: dict[str, int]) -> list[str]:
    for name in wanted:
        if name not in own:
            near = difflib.get_close_matches(name, own, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(own)}"
            raise DataError(f"{path}: data.classes: no category {name!r}; {hint}")
    if len(set(wanted)) != len(wanted) or not wanted:
        raise DataError(f"data.classes: {list(wanted)} is empty or has a name twice")
    return list(wanted)


class ImageFolder:
    """What files a folder has, by one listing of each directory instead of a look at each file."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._listings: dict[str, set[str]] = {}
        self._lower: dict[str, dict[str, str]] = {}

    def has(self, name: str) -> bool:
        """Whether the file `name`, relative to the folder, is there."""
        directory, base = os.path.split(name)
        return base in self._listing(directory)

    def near(self, name: str) -> str | None:
        """The file that differs from a missing one in capitals only."""
        directory, base = os.path.split(name)
        if directory not in self._lower:
            self._lower[directory] = {each.lower(): each for each in self._listing(directory)}
        return self._lower[directory].get(base.lower())

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) from the header of a file, as EXIF turns it; (0, 0) if unreadable."""
        try:
            with Image.open(Path(self.root) / name) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) >= 5
        except (OSError, ValueError, SyntaxError):
            return 0, 0
        return (width, height) if turned else (height, width)

    def _listing(self, directory: str) -> set[str]:
        if directory not in self._listings:
            try:
                with os.scandir(Path(self.root) / directory) as entries:
                    self._listings[directory] = {entry.name for entry in entries}
            except OSError:
                self._listings[directory] = set()
        return self._listings[directory]
