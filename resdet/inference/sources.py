"""The inputs of a command line one by one (files, folders, patterns, lists, addresses, cameras),
and where each is drawn."""

import codecs
import glob
import logging
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from resdet.config.find import own_path
from resdet.errors import UserError
from resdet.files.download import without_password
from resdet.files.findings import log_findings
from resdet.files.images import SUFFIXES
from resdet.files.walk import list_files
from resdet.inference.addresses import (
    LIVE,
    OTHER_PICTURES,
    VIDEO_SUFFIXES,
    Kind,
    ask_kind,
    is_remote,
    kind_of,
    name_of,
)
from resdet.inference.targets import LABELME, YOLO, Targets, is_drawing

log = logging.getLogger("resdet")

STDIN = "-"
"""The input that stands for a list on standard input."""
ABSENT = "no such image, folder or video"
ASKED_AT_ONCE = 8
"""Servers that are asked for the types of addresses at the same time."""


@dataclass(frozen=True)
class Source:
    """One image, one video, or one live stream."""

    path: Path | None
    """None for an address."""
    name: str
    """Its name for users: relative to the folder that was given, else the file name."""
    target: Path
    """The drawn picture; for a video the folder of its drawn frames."""
    is_video: bool
    """Whether it has frames: videos and live streams."""
    address: str | None = field(default=None, repr=False)
    """An address as it was given, with its password; None for a file."""
    is_live: bool = False
    """Whether its frames do not wait to be read: a webcam or a stream."""

    @property
    def shown(self) -> str:
        """What messages and results call it: the path, or the address without its password."""
        if self.address is None:
            return str(self.path)
        return without_password(self.address.removeprefix(LIVE))


@dataclass
class Sources:
    """The inputs of a prediction."""

    files: list[Source]
    others: list[str]
    """Files of folders that are neither image nor video."""
    problems: list[str]
    """Folders that could not be listed, addresses without an answer; each was named in the log."""


def list_sources(inputs: Sequence[str | Path], out: Path) -> Sources:
    """Every image, video and stream of `inputs` in order.

    Folders are searched with their subfolders by the rule of `list_files`; the folder `out` and
    former drawings are passed over. A file that is named is taken whatever its suffix. What is not
    a path is a pattern (`photos/**/*.jpg`) if no file has its name, an address, webcam:0, or `-`
    for a list of inputs on standard input. Targets are those of `Targets`: no two sources share
    one, and nothing but former drawings is overwritten. Raises UserError for an input that does
    not exist, where nothing is left, and for a live source among others.
    """
    found = _Found(out.resolve())
    for given in _with_lists(inputs):
        found.add(given)
    items = found.with_kinds()
    if not items:
        if found.refused:
            raise UserError(*found.refused)
        raise UserError(
            f"{', '.join(map(str, inputs))}: no image or video among them ({len(found.others)} "
            f"other files); supported: {' '.join(SUFFIXES + VIDEO_SUFFIXES)}"
        )
    live = [item for item in items if item.kind == "live"]
    if live and len(items) > 1:
        raise UserError(
            f"{without_password(str(live[0].place))}: is live and among {len(items)} inputs; give "
            "it alone, and run one command per stream"
        )
    files = [item.place for item in items if isinstance(item.place, Path)]
    targets = Targets(found.out, (path.resolve() for path in files))
    targets.open_folders(item.name for item in items)
    sources = []
    for place, name, kind in ((item.place, item.name, item.kind) for item in items):
        target = targets.picture(name) if kind == "image" else targets.video(name)
        path, address = (place, None) if isinstance(place, Path) else (None, place)
        sources.append(Source(path, name, target, kind != "image", address, kind == "live"))
    for problem in found.refused:
        log.error("%s", problem)
    return Sources(sources, found.others, found.problems + found.refused)


def _with_lists(inputs: Sequence[str | Path]) -> Iterator[str | Path]:
    """The inputs, with the lines of standard input in place of `-`."""
    is_read = False
    for given in inputs:
        if given != STDIN:
            yield given
            continue
        if is_read:
            raise UserError("-: is given twice, and standard input can be read once")
        is_read = True
        lines = _read_list()
        if not lines:
            raise UserError("-: the list on standard input is empty; write one input per line")
        yield from lines


def _read_list() -> list[str]:
    """Standard input as lines, or as `find -print0` writes them; UserError where it is closed.
    Empty lines are passed over, and lines that start with # and name no file."""
    if sys.stdin is None:
        raise UserError("-: standard input is closed; pipe a list of inputs into the command")
    text = _decoded(sys.stdin.buffer.read())
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    if STDIN in lines:
        raise UserError("-: the list on standard input has the line '-'; give ./- for such a file")
    return [
        line
        for line in lines
        if line.strip() and not (line.startswith("#") and _kind(own_path(line)) == ABSENT)
    ]


def _decoded(data: bytes) -> str:
    """A list as text, also of Windows' programs; names of files may hold bytes of any encoding."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


@dataclass
class _Item:
    place: Path | str
    """A file, or an address."""
    name: str
    kind: Kind | None
    """None until the server was asked."""


class _Found:
    """What the inputs stand for, in their order."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.items: list[_Item] = []
        self.others: list[str] = []
        self.problems: list[str] = []
        self.refused: list[str] = []
        """Addresses whose servers gave no answer, and why."""

    def add(self, given: str | Path) -> None:
        if is_remote(given):
            address = str(given)
            self.items.append(_Item(address, name_of(address), kind_of(address)))
            return
        path = own_path(given)
        kind = _kind(path)
        if kind == "file":
            self._add_file(path, path.name)
        elif kind == "folder":
            self._add_folder(path)
        elif kind == ABSENT and glob.has_magic(str(path)):
            self._add_pattern(path)
        else:
            raise UserError(f"{given}: {kind}; give image files, folders of images, or videos")

    def _add_file(self, path: Path, name: str) -> None:
        is_video = _suffix(name) in VIDEO_SUFFIXES
        self.items.append(_Item(path, name, "video" if is_video else "image"))

    def _add_folder(self, path: Path) -> None:
        listing = list_files(path)
        log_findings(listing.findings(path))
        self.problems += [f"{path}: {place}: {why}" for place, why in listing.unreadable]
        self._add_some(path, listing.files)

    def _add_pattern(self, pattern: Path) -> None:
        """Files that match; folders only where nothing else does, as `**` matches them too."""
        matches = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207  # keeps ../
        files = [match for match in matches if not Path(match).is_dir()]
        if not matches:
            raise UserError(f"{pattern}: no file matches this pattern, and none has this name")
        if not files:
            for match in matches:
                self._add_folder(Path(match))
            return
        folder = Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts))
        self._add_some(folder, [Path(os.path.relpath(f, folder)).as_posix() for f in files])

    def _add_some(self, folder: Path, names: Sequence[str]) -> None:
        """Files below a folder, those of images and videos."""
        for name in names:
            if _is_own(folder, name, self.out):
                continue
            if _suffix(name) in SUFFIXES + VIDEO_SUFFIXES + OTHER_PICTURES:
                self._add_file(folder / name, name)
            else:
                self.others.append(name)

    def with_kinds(self) -> list[_Item]:
        """The items whose kinds are known, after the servers of others were asked."""
        unknown = [item for item in self.items if item.kind is None]
        if unknown:
            with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="resdet-ask") as pool:
                list(pool.map(self._ask, unknown))
        return [item for item in self.items if item.kind is not None]

    def _ask(self, item: _Item) -> None:
        try:
            item.kind = ask_kind(str(item.place))
        except UserError as error:
            self.refused.append(str(error))


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _kind(path: Path) -> str:
    """file, folder, or why it is neither."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ABSENT
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "neither a file nor a folder"


def _is_own(folder: Path, name: str, out: Path) -> bool:
    """Whether a file of an input folder is below `out` inside it, or in `out` a former drawing or
    a picture of former annotations."""
    resolved, path = folder.resolve(), folder / name
    if out == resolved:
        first = name.split("/")[0]
        is_annotated = first == LABELME and path.with_suffix(".json").exists()
        is_linked = first == YOLO and (out / YOLO / "data.yaml").exists()
        return is_annotated or is_linked or (out in path.resolve().parents and is_drawing(path))
    return out in (resolved / name).parents or out in path.resolve().parents
