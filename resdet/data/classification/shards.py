"""Images in tar files, read by position: KEY.jpg and KEY.cls in *.tar, webdataset's layout.

A .cls member holds the name of the class, or its position in classes.json, a list of names stored
with the shards. The position of each image is read once from the tar files' headers and kept in an
index file, so that any image is one read, in any order, as with files.
"""

import io
import json
import logging
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from resdet.data.classification.folder import label_order, some
from resdet.data.classification.samples import Source
from resdet.data.names import Names, pack_names
from resdet.data.plausibility import Images
from resdet.files.findings import DataError, Finding, missing_images_error, strict_error
from resdet.files.images import SUFFIXES
from resdet.files.json import shown
from resdet.files.writing import open_atomic

logger = logging.getLogger("resdet")

CLASSES_FILE = "classes.json"

INDEX_FILE = "shards.index.npz"

INDEX_FORMAT = 2

PACKED = ("names", "classes", "unlabelled")
"""Names in the index, stored as their two arrays."""

MOST_CLASSES = 1_000_000
"""Numbers of classes from here on are mistakes."""

MOST_TEXT = 65_536
"""Bytes of a .cls member; more are not the name of a class."""

BLOCK = 512
"""Tar files are made of blocks of so many bytes; a block of zeros is the end."""


@dataclass(kw_only=True)
class ShardImages(Source):
    """Images in the tar files of a folder; `names` are those of members."""

    shards: list[str]
    """Sorted names of the tar files."""
    places: NDArray[np.int64]
    """(N, 3) position in `shards`, then first byte and number of bytes in that file."""

    def name(self, index: int) -> str:
        return f"{self.root / self.shards[self.places[index, 0]]}/{self.names[index]}"

    def open(self, index: int) -> BinaryIO:
        shard, first, size = self.places[index].tolist()
        with (self.root / self.shards[shard]).open("rb") as file:
            file.seek(first)
            return io.BytesIO(file.read(size))

    def located(self) -> Images:
        files = [str(self.root / shard) for shard in self.shards]
        shard_of, names = self.places[:, 0], self.names
        return Images(str(self.root), files, shard_of, names, self.name, self.open, self.file_bytes)

    def file_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.places[rows, 2]

    def keep(self, rows: NDArray[np.int64]) -> None:
        super().keep(rows)
        self.places = self.places[rows]


@dataclass
class _Index:
    """The content of the tar files."""

    names: Names
    places: NDArray[np.int64]
    """As in `ShardImages`."""
    classes: Names
    """N contents of .cls members."""
    unlabelled: Names
    """Images without a .cls member, with their shards."""


def find_shards(root: str | Path) -> list[str]:
    """Sorted names of the tar files in a folder."""
    return sorted(path.name for path in Path(root).glob("*.tar") if path.name[0] != ".")


def read_shards(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
) -> ShardImages:
    """The images of a folder's tar files, in their order; see `label_order` for the classes.

    Raises:
        DataError: there are no tar files, some are broken (all of these are listed), a class can't
            be read, or the classes do not agree.
    """
    root = Path(root)
    if not root.is_dir():
        raise missing_images_error(root)
    shards = find_shards(root)
    if not shards:
        raise missing_images_error(root, "no *.tar in it")
    index = _load_index(root, shards)
    if not len(index.names):
        hint = ""
        if len(index.unlabelled):
            hint = (
                "; if each tar file holds the images of one class, as ImageNet's do, unpack each "
                "into a folder of its name"
            )
        raise DataError(f"{root}: no image in its tar files has a .cls member beside it{hint}")
    present, numbers = _class_numbers(root, index)
    names = label_order(str(root), present, classes=classes, train_classes=train_classes)
    label_of = {name: label for label, name in enumerate(names)}
    label_of_number = np.array([label_of.get(name, -1) for name in present], np.int64)
    labels = label_of_number[numbers]
    images = ShardImages(root, index.names, labels, names, shards=shards, places=index.places)
    if len(index.unlabelled):
        remedy = "they are left out; pack the shards again"
        what = "without a .cls member"
        images.findings.append(Finding(str(root), some(list(index.unlabelled)), what, remedy))
    if (labels < 0).any():
        images.keep(np.flatnonzero(labels >= 0))
    return images


def _class_numbers(root: Path, index: _Index) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the classes that the data have, and the position of each image's among them."""
    texts = list(index.classes)
    names = _read_class_list(root)
    is_number = all(text.isdecimal() for text in set(texts))
    if is_number:
        large = next((row for row, text in enumerate(texts) if _is_too_large(text)), None)
        if large is not None:
            raise DataError(
                f"{_shard(root, index, large)}: {index.names[large]} has the class number "
                f"{shown(texts[large])}, which would make as many classes; number the classes from "
                f"0, or store their names in {CLASSES_FILE}"
            )
        texts = [str(int(text.lstrip("0") or 0)) for text in texts]
    if names is None and is_number:
        names = [str(i) for i in range(max(map(int, texts)) + 1)]
    elif names is None:
        names = sorted(set(texts))
    position = {str(i) if is_number else name: i for i, name in enumerate(names)}
    numbers = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        if text not in position:
            raise DataError(
                f"{_shard(root, index, row)}: {index.names[row]} has the class "
                f"{shown(text)}, which is not in "
                f"{CLASSES_FILE} ({len(names)} names); complete it, or pack the shards again"
            )
        numbers[row] = position[text]
    return names, numbers


def _is_too_large(number: str) -> bool:
    """Whether a class has a number of `MOST_CLASSES` or more."""
    digits = number.lstrip("0")
    return len(digits) > 9 or int(digits or 0) >= MOST_CLASSES


def _shard(root: Path, index: _Index, row: int) -> Path:
    """The tar file of an image."""
    return root / find_shards(root)[index.places[row, 0]]


def _read_class_list(root: Path) -> list[str] | None:
    path = root / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); give a list of class names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: give a list of class names, in the order of their numbers")
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a name is listed twice; name each class once")
    return names


def _load_index(root: Path, shards: list[str]) -> _Index:
    """The index stored with the shards, or a new one if the size or time of a file changed."""
    stats = [(root / shard).stat() for shard in shards]
    stamp = json.dumps(
        [INDEX_FORMAT, *((s, t.st_size, t.st_mtime_ns) for s, t in zip(shards, stats, strict=True))]
    )
    path = root / INDEX_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["stamp"]) == stamp:
                packed = {k: Names(file[f"{k}_text"], file[f"{k}_ends"]) for k in PACKED}
                return _Index(places=file["places"], **packed)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or a truncated one
    logger.info("%s: indexing %d shard(s), once", root, len(shards))
    index = _make_index(root, shards)
    _save_index(path, index, stamp)
    return index


def _save_index(path: Path, index: _Index, stamp: str) -> None:
    arrays: dict[str, NDArray[np.generic]] = {"stamp": np.array(stamp), "places": index.places}
    for key in PACKED:
        names: Names = getattr(index, key)
        arrays |= {f"{key}_text": names.text, f"{key}_ends": names.ends}
    try:
        # several processes may do so at once
        with open_atomic(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        logger.info("%s can't be written (%s); the shards are indexed at each start", path, error)


def _make_index(root: Path, shards: list[str]) -> _Index:
    names: list[str] = []
    classes: list[str] = []
    unlabelled: list[str] = []
    places: list[tuple[int, int, int]] = []
    broken: list[Finding] = []
    for number, shard in enumerate(shards):
        path = root / shard
        try:
            images, labels = _scan(path)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            remedy = "copy or pack it again, or remove it"
            broken.append(Finding(str(path), "the tar file", f"is broken ({error})", remedy))
            continue
        for key, (name, first, size) in images.items():
            text = labels.get(key)
            if text is None:
                unlabelled.append(f"{shard}/{name}")
                continue
            names.append(name)
            classes.append(text)
            places.append((number, first, size))
    if broken:
        raise strict_error(broken)
    table = np.array(places, np.int64).reshape(-1, 3)
    return _Index(pack_names(names), table, pack_names(classes), pack_names(unlabelled))


def _scan(path: Path) -> tuple[dict[str, tuple[str, int, int]], dict[str, str]]:
    """The images of one tar file, by key (name, first byte, bytes), and its .cls texts."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    length = path.stat().st_size
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
        count = 0
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
            count += 1
            if member.offset_data + member.size > length:
                raise tarfile.ReadError(f"cut short within its member {count}, {member.name}")
            if not member.isreg():
                continue
            folder, slash, file = member.name.rpartition("/")
            stem, _, suffix = file.partition(".")
            key = folder + slash + stem
            if f".{suffix.lower()}" in SUFFIXES:
                images.setdefault(key, (member.name, member.offset_data, member.size))
            elif suffix == "cls":
                if member.size > MOST_TEXT:
                    raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes, and no name")
                raw.seek(member.offset_data)
                labels[key] = raw.read(member.size).decode("utf-8").strip()
        if tar.offset + BLOCK > length:
            raise tarfile.ReadError(f"cut short after its member {count}: no end marker")
    return images, labels
