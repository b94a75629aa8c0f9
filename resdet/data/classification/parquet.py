"""Images to classify in parquet files, as Hugging Face's `datasets` writes them, or paths in them.

    image: {bytes, path} or bytes or a path      label: a number or a name

Names of numbers are those of Hugging Face's metadata. Images that are in the files are unpacked
once into the cache folder, where each of them is one read in any order.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from resdet.data.classification.csv_table import (
    CLASS_COLUMNS,
    IMAGE_COLUMNS,
    Row,
    file_images,
    find_column,
    sorted_names,
)
from resdet.data.classification.folder import label_order
from resdet.data.classification.samples import Source
from resdet.data.names import pack_names
from resdet.data.plausibility import Images
from resdet.errors import UserError, first_few
from resdet.files.cache import cache_folder
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.json import shown
from resdet.files.writing import make_folder, open_atomic

BATCH = 256
"""Rows in memory at a time."""

FORMAT = "parquet 1"
"""Of the unpacked file; another one makes earlier ones void."""


@dataclass(kw_only=True)
class PackedImages(Source):
    """Images of parquet files, unpacked into one file; `names` are those of the table."""

    packed: Path
    """All images, one after the other."""
    places: NDArray[np.int64]
    """(N, 2) first byte and number of bytes in it."""

    def name(self, index: int) -> str:
        return f"{self.root}/{self.names[index]}"

    def open(self, index: int) -> BinaryIO:
        first, size = self.places[index].tolist()
        with self.packed.open("rb") as file:
            file.seek(first)
            return io.BytesIO(file.read(size))

    def located(self) -> Images:
        alone = np.zeros(len(self.names), np.int64)
        place, names = str(self.root), self.names
        return Images(place, [place], alone, names, self.name, self.open, self.file_bytes)

    def file_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.places[rows, 1]

    def keep(self, rows: NDArray[np.int64]) -> None:
        super().keep(rows)
        self.places = self.places[rows]


def read_parquet(
    files: Sequence[Path],
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
) -> Source:
    """The images of one or more parquet files with the same columns, in their order; see
    `label_order` for the classes.

    Args:
        root: the folder that paths start at, where the files hold paths.
    Raises:
        DataError: a file can't be read, or has no such columns or no images.
        UserError: pyarrow is not installed.
    """
    table = _Table(files, _pyarrow(files[0]))
    if not table.has_bytes:
        rows = list(table.rows())
        names = table.names or sorted_names({row[2] for row in rows})
        place = Path(root)
        return file_images(files[0], place, rows, names, table.findings, classes, train_classes)
    packed = table.unpack()
    names = table.names or sorted_names(set(packed.labels))
    order = label_order(str(files[0]), names, classes=classes, train_classes=train_classes)
    label_of = {name: label for label, name in enumerate(order)}
    labels = np.array([label_of.get(name, -1) for name in packed.labels], np.int64)
    if not (labels >= 0).any():
        raise DataError(f"{files[0]}: has no image with bytes and a class; give another table")
    images = PackedImages(
        files[0].parent,
        pack_names(packed.names),
        labels,
        order,
        table.findings + packed.findings,
        packed=packed.path,
        places=packed.places,
    )
    if (labels < 0).any():
        images.keep(np.flatnonzero(labels >= 0))
    return images


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{path}: pyarrow reads parquet; pip install 'resdet[parquet]', or give a CSV file"
        ) from None
    return pyarrow


@dataclass
class _Packed:
    """What was unpacked, N images."""

    path: Path
    places: NDArray[np.int64]
    names: list[str]
    labels: list[str]
    findings: list[Finding]


class _Table:
    """The columns of parquet files.

    Raises:
        DataError: a file can't be read, or has no columns of images and classes.
    """

    def __init__(self, files: Sequence[Path], arrow: ModuleType) -> None:
        self.files, self.arrow, self.findings = files, arrow, list[Finding]()
        schema = self._open(files[0]).schema_arrow
        words = [name.lower() for name in schema.names]
        image, label = (find_column(words, names) for names in (IMAGE_COLUMNS, CLASS_COLUMNS))
        if image is None or label is None:
            raise DataError(
                f"{files[0]}: its columns ({first_few(schema.names, 8)}) have none of images and "
                "classes; call them image and label"
            )
        self.image, self.label = schema.names[image], schema.names[label]
        kind = schema.field(self.image).type
        types = arrow.types
        self.is_struct = types.is_struct(kind)
        texts = types.is_string(kind) or types.is_large_string(kind)
        self.has_bytes = not texts
        if not (texts or self.is_struct or types.is_binary(kind) or types.is_large_binary(kind)):
            raise DataError(
                f"{files[0]}: column {self.image!r} is of type {kind!s:.60}; give paths, bytes, or "
                "Hugging Face's images"
            )
        self.names = self._label_names(schema)

    def _open(self, file: Path) -> Any:
        try:
            return self.arrow.parquet.ParquetFile(file)
        except (OSError, self.arrow.ArrowException) as error:
            what = " ".join(str(error).split())[:150]
            raise DataError(
                f"{file}: can't be read as parquet ({what}); download or write it again"
            ) from None

    def _label_names(self, schema: Any) -> list[str] | None:
        """The names of Hugging Face's ClassLabel; None where the file has none."""
        try:
            features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[self.label]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not is_list or len(set(names)) < len(names):
            what = f"has names {shown(names)} of {self.label!r}, not a list of distinct names"
            finding = Finding(str(self.files[0]), "the metadata", what, "numbers are the names")
            self.findings.append(finding)
            return None
        return names

    def _records(self) -> Iterator[tuple[str, Any, Any]]:
        """What messages call each row, its image and its class as stored."""
        for file in self.files:
            number, parquet = 0, self._open(file)
            lacks = {self.image, self.label} - set(parquet.schema_arrow.names)
            if lacks:
                raise DataError(
                    f"{file}: has no column {first_few(sorted(lacks), 2)}, as {self.files[0].name} "
                    "has; give files of one data set"
                )
            columns = [self.image, self.label]
            try:
                for batch in parquet.iter_batches(BATCH, columns=columns):
                    image, label = (batch.column(name).to_pylist() for name in columns)
                    for one, name in zip(image, label, strict=True):
                        yield f"{file.name}: row {number}", one, name
                        number += 1
            except (OSError, self.arrow.ArrowException) as error:
                what = " ".join(str(error).split())[:150]
                raise DataError(
                    f"{file}: row {number}: can't be read ({what}); download or write it again"
                ) from None

    def _class(self, item: str, label: Any) -> str | None:
        """The name of a row's class; None, with a finding, without one."""
        whole = isinstance(label, int) and not isinstance(label, bool)
        what = f"has {self.label} {shown(label)}, not a number or name"
        if whole and self.names is not None:
            if 0 <= label < len(self.names):
                return self.names[label]
            what = f"has {self.label} {label}, and there are {len(self.names)} names"
        elif (whole and label >= 0) or (isinstance(label, str) and label.strip()):
            return str(label).strip()
        self.findings.append(Finding(str(self.files[0].parent), item, what, DROPPED))
        return None

    def rows(self) -> Iterator[Row]:
        """The usable rows of a table of paths."""
        for item, image, label in self._records():
            name = self._class(item, label)
            if name is None:
                continue
            if not isinstance(image, str) or not image or "\0" in image:
                what = f"has {self.image} {shown(image)}, not a path"
                self.findings.append(Finding(str(self.files[0].parent), item, what, DROPPED))
                continue
            yield item, image.replace("\\", "/"), name

    def unpack(self) -> _Packed:
        """The images, from the cache folder where the same files were unpacked before.

        Raises:
            WriteError: the cache folder can't be written.
        """
        stats = [(str(file.absolute()), file.stat()) for file in self.files]
        state = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        stamp = json.dumps([FORMAT, self.image, self.label, *state])
        key = hashlib.sha256("\0".join(path for path, _ in stats).encode("utf-8", "replace"))
        folder = cache_folder() / "parquet"
        data, index = (folder / f"{key.hexdigest()}{end}" for end in (".bin", ".json"))
        try:
            stored = json.loads(index.read_text("utf-8"))
            if stored["stamp"] == stamp and data.stat().st_size == stored["bytes"]:
                findings = [Finding(*each) for each in stored["findings"]]
                places = np.array(stored["places"], np.int64).reshape(-1, 2)
                return _Packed(data, places, stored["names"], stored["labels"], findings)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or of other files
        make_folder(folder, "RESDET_CACHE")
        packed = self._write(data)
        content = {
            "stamp": stamp,
            "bytes": int(packed.places[:, 1].sum()),
            "places": packed.places.tolist(),
            "names": packed.names,
            "labels": packed.labels,
            "findings": [(f.file, f.item, f.what, f.remedy) for f in packed.findings],
        }
        with open_atomic(index) as file:
            json.dump(content, file)
        return packed

    def _write(self, path: Path) -> _Packed:
        """Writes the images of all rows one after the other."""
        places: list[tuple[int, int]] = []
        names, labels, size, before = list[str](), list[str](), 0, len(self.findings)
        with open_atomic(path, "wb") as file:
            for item, image, label in self._records():
                name = self._class(item, label)
                content = image.get("bytes") if isinstance(image, dict) else image
                if name is None:
                    continue
                if not isinstance(content, bytes) or not content:
                    what = "has an image without bytes"
                    self.findings.append(Finding(str(self.files[0].parent), item, what, DROPPED))
                    continue
                given = image.get("path") if isinstance(image, dict) else None
                file.write(content)
                places.append((size, len(content)))
                size += len(content)
                names.append(f"{item.replace(': ', '/')}" + (f" ({given})" if given else ""))
                labels.append(name)
        array = np.array(places, np.int64).reshape(-1, 2)
        findings = self.findings[before:]
        del self.findings[before:]
        return _Packed(path, array, names, labels, findings)
