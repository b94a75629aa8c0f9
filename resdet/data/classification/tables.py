"""Images to classify by a table: a CSV file, or parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resdet.config.find import own_path
from resdet.data.classification.csv_table import read_csv
from resdet.data.classification.parquet import read_parquet
from resdet.data.classification.samples import Source
from resdet.data.detection.readers.image_lists import expand
from resdet.files.findings import DataError

PARQUET = (".parquet", ".pq")
PATTERN = "data/train-*.parquet"


def read_table(
    table: str | Path,
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
) -> Source:
    """The images of a CSV file, or of the parquet files that a path or pattern names.

    Args:
        root: the folder that paths start at.
        classes, train_classes: see `label_order`.
    Raises:
        DataError: there is no such file, or as the readers.
    """
    files = expand(str(own_path(table)))
    for file in files:
        if not file.is_file():
            what = "is a folder; give" if file.is_dir() else "no such file; give"
            raise DataError(f"{file}: {what} a CSV file, or parquet files such as {PATTERN}")
    if files[0].suffix.lower() in PARQUET:
        return read_parquet(files, root, classes=classes, train_classes=train_classes)
    if len(files) > 1:
        raise DataError(f"{table}: {len(files)} files; give one CSV file, or parquet files")
    return read_csv(files[0], root, classes=classes, train_classes=train_classes)
