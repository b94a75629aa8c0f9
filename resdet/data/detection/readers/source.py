"""What a reader is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """One annotation file, and which of its values are wanted."""

    path: str
    """The file, or the folder of a format with many files."""
    images: str | None = None
    """The image folder, for formats that need more than the annotations; None without one."""
    extras: tuple[str, ...] = ()
    """Keys of further values per object, for `AnnotationTable.extras`."""
    outlines: bool = True
    """Whether outlines are wanted."""
    data: dict[str, Any] | None = None
    """The file's content where it is in memory already; `path` then only names it."""
    classes_only: bool = False
    """Only class names and category ids are wanted; a reader may leave out all else."""
