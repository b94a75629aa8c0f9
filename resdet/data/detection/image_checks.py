"""The image files of a table: are they there, readable, and of the size that is annotated?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.images import header_size, image_problems

HEADERS_AT_START = 20_000
"""Larger sets are trusted until a file is read: 118,000 headers on a cold disk take minutes."""

MISSING = "it is left out; add the file, correct its name or remove the image"
BAD_IMAGE = "it is left out; replace the file, or correct its width and height"


def check_presence(table: AnnotationTable, folder: str, findings: list[Finding]) -> AnnotationTable:
    """The images of one file that are in `folder`; sizes that the file lacks are read from them."""

    @cache
    def listing(directory: str) -> set[str]:
        # One listing per directory instead of one look per file.
        try:
            return {entry.name for entry in (Path(folder) / directory).iterdir()}
        except OSError:
            return set()

    @cache
    def lower(directory: str) -> dict[str, str]:
        return {name.lower(): name for name in listing(directory)}

    keep = np.ones(len(table.image_ids), bool)
    sizes = table.sizes.copy()
    for row, name in enumerate(table.file_names):
        what, remedy = None, DROPPED
        directory, base = os.path.split(name)
        if not name:
            what = "has no file_name"
        elif base not in listing(directory):
            near = lower(directory).get(base.lower())
            what = f"has no file in {folder}{f' (but {near})' if near else ''}"
            remedy = MISSING
        elif not sizes[row].all():
            what, remedy = "has no height and width", "they are read from the file"
            try:
                sizes[row] = header_size(Path(folder) / name)
            except (DataError, OSError, ValueError, SyntaxError):
                what, remedy = f"{what}, and its file can't be read", DROPPED
        if what is not None:
            findings.append(Finding(table.file_of(row), table.image_name(row), what, remedy))
            keep[row] = remedy not in (DROPPED, MISSING)
    return replace(table, sizes=sizes).select_images(keep)


def check_images(
    table: AnnotationTable, folders: Sequence[str], findings: list[Finding], *, decode_all: bool
) -> AnnotationTable:
    """The images that can be read and have the size that is annotated.

    Reads the headers, of sets of at most `HEADERS_AT_START` images; every pixel with `decode_all`.
    """
    count = len(table.image_ids)
    if not decode_all and count > HEADERS_AT_START:
        return table
    paths = [
        Path(folders[file]) / name
        for file, name in zip(table.file_of_image.tolist(), table.file_names, strict=True)
    ]
    sizes = [(height, width) for height, width in table.sizes.tolist()]
    bad = image_problems(paths, sizes, decode=decode_all)
    findings += [
        Finding(
            table.file_of(row), f"image {table.image_ids[row]!r} ({paths[row]})", what, BAD_IMAGE
        )
        for row, what in bad.items()
    ]
    return table.select_images(~np.isin(np.arange(count), list(bad)))
