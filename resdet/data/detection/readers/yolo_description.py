"""What describes a YOLO data set: data.yaml, darknet's obj.data, or a list of class names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from resdet.config.find import own_path
from resdet.data.detection.readers.xml_files import Report
from resdet.errors import UserError
from resdet.files.findings import DataError
from resdet.files.regular import exists, is_file, open_regular

YAML = (".yaml", ".yml")
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Keys of data.yaml by the part of the data that is wanted; darknet's `valid` among them."""

KEYS = re.compile(
    rb"""^(["']?(names|nc)["']?\s*:"""
    rb"""|["']?(path|train|val|test)["']?\s*:[ \t]*([^\s{#]|\n[ \t]*-))""",
    re.MULTILINE,
)
"""What data.yaml has at the top, and configs do not: classes, and paths of the parts."""

NOTHING: tuple[Any, ...] = (None, "", "null", "~", [])
"""What stands for no value in data.yaml."""

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names", "labels.txt")
"""Files of one class name per line."""

ABOVE = 2
"""Folders above the labels in which the names of the classes are looked for."""

MOST_BYTES = 1 << 22
"""Of a description; larger YAML files are other things."""


@dataclass
class Description:
    """What data.yaml, obj.data or a list of names states."""

    file: Path | None = None
    """None where there is none."""
    names: dict[int, str] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    """Paths by part: train, val and test."""
    root: str = ""
    """What the paths start from, as stated."""
    keypoints: tuple[int, int] | None = None
    """How many an object has, and the numbers of each."""


def is_description(file: Path) -> bool:
    """Whether a file is obj.data, or YAML with classes or paths as data.yaml has them: beside other
    annotations there may be any YAML, such as the config of a run."""
    if file.suffix.lower() not in YAML:
        return True
    try:
        with open_regular(file, "description", "data.yaml") as content:
            return KEYS.search(content.read(MOST_BYTES)) is not None
    except (OSError, UserError):
        return False


def describe(path: Path, report: Report) -> Description:
    """The description that a path is, or the nearest one in its folder and up to `ABOVE` above it.

    Raises:
        DataError: the file that is given is none, or a description is broken.
    """
    if not path.is_dir() and path.suffix.lower() in YAML:
        return _read_yaml(path, report)
    if not path.is_dir() and path.suffix.lower() == ".data":
        return _read_data(path, report)
    start = path if path.is_dir() else path.parent
    for folder in (start.absolute(), *list(start.absolute().parents)[:ABOVE]):
        for file in list_suffixes(folder, YAML):
            if _names_classes(file):
                return _read_yaml(file, report)
        for file in list_suffixes(folder, (".data",)):
            if _has(file, rb"(?m)^\s*names\s*="):
                return _read_data(file, report)
        for name in NAME_FILES:
            if is_file(folder / name):
                return Description(folder / name, names=_read_names(folder / name))
    return Description()


def list_suffixes(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with one of these suffixes, data.yaml first."""
    try:
        found = [one for one in folder.iterdir() if one.name.lower().endswith(tuple(suffixes))]
    except (OSError, ValueError):  # ValueError: a name with NUL
        return []
    return sorted(found, key=lambda one: (one.name != "data.yaml", one.name))


def _names_classes(file: Path) -> bool:
    """Whether a YAML file looks like a description of data; those of networks have nc too."""
    keys = _has(file, rb"(?m)^(names|nc|train|val)\s*:")
    return b"names" in keys or {b"nc", b"train"} <= keys


def _has(file: Path, pattern: bytes) -> set[bytes]:
    """What a pattern finds in a file; nothing in a folder, or in a larger file than such are."""
    if not is_file(file) or file.stat().st_size > MOST_BYTES:
        return set()
    return set(re.findall(pattern, _read(file)))


def _read(file: Path) -> bytes:
    with open_regular(file, "file", "the path") as content:
        return content.read()


def read_lines(file: Path) -> list[str]:
    text = os.fsdecode(_read(file).removeprefix(b"\xef\xbb\xbf"))
    return [line.strip() for line in text.replace("\r", "\n").split("\n")]


def _read_names(file: Path) -> dict[int, str]:
    lines = read_lines(file)
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{file}: has no class names; write one per line")
    return {number: line or str(number) for number, line in enumerate(lines)}


def _read_yaml(file: Path, report: Report) -> Description:
    if is_file(file) and file.stat().st_size > MOST_BYTES:
        raise DataError(f"{file}: is too large for YOLO's data.yaml; give that file")
    try:
        # texts only: YAML 1.1 makes false of a class called no
        content = yaml.load(_read(file), yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark is not None else ""
        raise DataError(f"{file}: is not valid YAML{place}; correct it") from None
    if not isinstance(content, dict) or not ({"names", "nc"} & content.keys()):
        raise DataError(f"{file}: has no names of classes; YOLO's data.yaml has names, train, val")
    parts = {}
    for part, keys in PARTS.items():
        given = next((content[key] for key in keys if content.get(key) not in NOTHING), None)
        if given is not None:
            listed = given if isinstance(given, list) else [given]
            if not all(isinstance(one, str) for one in listed):
                raise DataError(f"{file}: {part}: {given!r:.60} is not a path or a list of paths")
            parts[part] = listed
    root = content.get("path")
    root = "" if root in NOTHING else root
    if not isinstance(root, str):
        raise DataError(f"{file}: path: {root!r:.60} is no folder; give one")
    return Description(file, _names(file, content, report), parts, root, _keypoints(file, content))


def _names(file: Path, content: dict[str, object], report: Report) -> dict[int, str]:
    """Class names by number."""
    given, count = content.get("names"), _whole(content.get("nc"))
    if isinstance(given, list):
        given = dict(enumerate(given))
    if given in NOTHING:
        if not count:
            raise DataError(f"{file}: nc: {content.get('nc')!r:.60} is no number of classes")
        given = {number: f"class {number}" for number in range(count)}
    if not isinstance(given, dict) or not given:
        raise DataError(f"{file}: names: {given!r:.60} is not a list of class names; give one")
    names: dict[int, str] = {}
    for key, name in given.items():
        number = _whole(key)
        if number is None or not isinstance(name, str):
            raise DataError(f"{file}: names: {key!s:.40}: {name!r:.60} is no number and name")
        names[number] = name.strip() or str(number)
    if count is not None and count != len(names):
        report(f"nc {count}", f"is not the number of names, {len(names)}", "the names are taken")
    return dict(sorted(names.items()))


MOST_CLASSES = 100_000


def _whole(value: object) -> int | None:
    """A whole number of a text; None for others."""
    text = str(value).strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    return number if number is not None and number < MOST_CLASSES else None


def _keypoints(file: Path, content: dict[str, object]) -> tuple[int, int] | None:
    given = content.get("kpt_shape")
    if given is None:
        return None
    numbers = [_whole(value) for value in given] if isinstance(given, list) else []
    if len(numbers) != 2 or not numbers[0] or numbers[1] not in (2, 3):
        raise DataError(f"{file}: kpt_shape: {given!r:.60} is not [keypoints, 2 or 3]; correct it")
    return numbers[0], numbers[1]


def _read_data(file: Path, report: Report) -> Description:
    """darknet's obj.data: key = value lines."""
    values = {
        key.strip(): value.strip()
        for key, equals, value in (line.partition("=") for line in read_lines(file))
        if equals
    }
    if "names" not in values:
        raise DataError(f"{file}: has no line names = FILE; darknet's obj.data names the classes")
    names = next(iter(stated_paths(values["names"], [file.parent])), None)
    if names is None:
        raise DataError(f"{file}: names: no file {values['names']}; correct the path")
    parts = {part: [values[key]] for part, keys in PARTS.items() for key in keys if values.get(key)}
    found, count = _read_names(names), _whole(values.get("classes"))
    if count is not None and count != len(found):
        report(f"classes {count}", f"is not the number of names, {len(found)}", "those are taken")
    return Description(file, found, parts)


def stated_paths(stated: str, roots: Sequence[Path]) -> Iterator[Path]:
    """What is there under a stated path, which another machine may have written: relative to one
    of `roots`, with `..` in front left out as Roboflow's, and without its first folders."""
    text = stated.strip().replace("\\", "/")
    whole = own_path(text)
    if whole.is_absolute() or re.match(r"[A-Za-z]:", text):
        if exists(whole):
            yield whole
    else:
        yield from (root / text for root in roots if exists(root / text))
    parts = [part for part in PurePosixPath(text).parts if part not in ("/", ".", "..")]
    for first in range(len(parts)):
        if parts[first:] == ["images"] and first:
            return  # the folder of all parts
        rest = "/".join(parts[first:])
        yield from (root / rest for root in roots if exists(root / rest))
