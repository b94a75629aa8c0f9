"""The one form that annotation files take: a table of flat arrays, checked, values as annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import POLYGON, RLE, Outlines, ragged_rows
from resdet.data.names import Ids, Names
from resdet.errors import UserError
from resdet.files.findings import DataError
from resdet.files.rle import Rle, measure_codes, union_of_polygons


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
    classes: tuple[str, ...] = ()
    """Names that `data.classes` gives, for formats whose files do not list their classes."""
    group_key: str | None = None
    """A key of the images that is wanted as `AnnotationTable.groups`."""
    format_key: str = "format"
    """What messages call the key that gives the format."""
    part: str | None = None
    """train, val or test: which images of a file that lists those of several; None where the file
    has to decide."""


OBJECT_FIELDS = (
    *("image_of", "boxes_xywh", "labels", "areas"),
    *("crowd", "difficult", "ignored", "annotation_ids"),
)
"""The fields of `AnnotationTable` that are one array over the objects."""


@dataclass(frozen=True)
class Ragged:
    """A list of values per row, in two arrays."""

    values: NDArray[Any]
    """All values, row after row."""
    offsets: NDArray[np.int64]
    """(rows + 1,) first value of each row."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) values of each row."""
        return np.diff(self.offsets)

    def select(self, rows: NDArray[np.int64]) -> Ragged:
        positions, offsets = ragged_rows(self.offsets, rows)
        return Ragged(self.values[positions], offsets)


@dataclass(frozen=True)
class AnnotationTable:
    """The images and objects of one or more annotation files, in the order of the files.

    Values are as annotated: boxes may pass the border of their image, crowd regions are included.
    Training takes a clipped view without crowds (`DetectionDataset`), evaluation the table itself.
    """

    files: list[str]
    """F annotation files; of values in memory, what messages call them."""
    class_names: list[str]
    """K names by label."""
    category_ids: list[int]
    """K ids that the first file gives the classes."""
    image_ids: Ids
    """N ids, unique over the files."""
    file_of_image: NDArray[np.int32]
    """(N,) position in `files`."""
    file_names: Names
    """N file names relative to the image folder; empty where the file gives none."""
    sizes: NDArray[np.int32]
    """(N, 2) height, width in pixels; 0 where the file gives none."""
    image_of: NDArray[np.int64]
    """(A,) row of each object's image."""
    boxes_xywh: NDArray[np.float64]
    """(A, 4) left, top, width, height in pixels; finite, no negative sizes."""
    labels: NDArray[np.int64]
    """(A,) 0..K-1."""
    areas: NDArray[np.float64]
    """(A,) square pixels; where the file gives none, those of the outline or else of the box."""
    crowd: NDArray[np.bool_]
    """(A,) a region of many objects: neither to be found nor a mistake to find."""
    difficult: NDArray[np.bool_]
    """(A,) marked as hard to recognise (VOC)."""
    ignored: NDArray[np.bool_]
    """(A,) marked as not to be counted (LVIS's and others' `ignore`)."""
    annotation_ids: NDArray[np.int64]
    """(A,) positive and unique; renumbered where the files' are not."""
    outlines: Outlines | None = None
    """Of the A objects, as annotated; None where they were not asked for."""
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    """(A, …) further values per object, by the key of the file."""
    groups: Names | None = None
    """N values of `Source.group_key` as JSON, null where an image has none; None without a key."""
    image_extras: dict[str, Ragged] = field(default_factory=dict)
    """N lists of labels per image: LVIS's neg_category_ids and not_exhaustive_category_ids."""
    class_extras: dict[str, list[Any]] = field(default_factory=dict)
    """K further values per class: LVIS's frequency."""
    has_annotations: bool = True
    """Whether the files can hold objects at all; files of test images have no such list."""
    measured: NDArray[np.bool_] | None = None
    """(N,) whether the reader took the size from the header of the image, which then need not be
    read again; None where no size was."""

    @property
    def source(self) -> str:
        """The files, for messages."""
        return ", ".join(self.files)

    @property
    def has_masks(self) -> bool:
        """Whether some object has an outline."""
        return self.outlines is not None and bool(self.outlines.kinds.any())

    def image_name(self, row: int) -> str:
        """What messages call an image: its id and file name."""
        name = self.file_names[row]
        return f"image {self.image_ids[row]!r}" + (f" ({name})" if name else "")

    def file_of(self, image: int) -> str:
        """The annotation file of an image's row."""
        return self.files[int(self.file_of_image[image])]

    def select(self, rows: NDArray[np.int64]) -> AnnotationTable:
        """All images and the objects `rows`, in that order."""
        return replace(
            self,
            outlines=None if self.outlines is None else self.outlines.select(rows),
            extras={key: values[rows] for key, values in self.extras.items()},
            **{key: getattr(self, key)[rows] for key in OBJECT_FIELDS},
        )

    def without_objects(self, images: Sequence[int]) -> AnnotationTable:
        """All images, and the objects of those that are not among the rows `images`."""
        return self.select(np.flatnonzero(~np.isin(self.image_of, images)))

    def select_images(self, keep: NDArray[np.bool_]) -> AnnotationTable:
        """The images where `keep` (N,) is true, and their objects."""
        if keep.all():
            return self
        rows, objects = np.flatnonzero(keep), np.flatnonzero(keep[self.image_of])
        table = self.select(objects)
        return replace(
            table,
            image_ids=self.image_ids.select(rows),
            file_of_image=self.file_of_image[rows],
            file_names=self.file_names.select(rows),
            sizes=self.sizes[rows],
            groups=None if self.groups is None else self.groups.select(rows),
            measured=None if self.measured is None else self.measured[rows],
            image_of=(np.cumsum(keep) - 1)[table.image_of],
            image_extras={k: lists.select(rows) for k, lists in self.image_extras.items()},
        )

    @cached_property
    def rles(self) -> list[Rle]:
        """Masks of all objects as pycocotools encodes them; empty ones for those without outlines.
        Kept, since every validation of a training needs them.

        Raises:
            UserError: the image of a polygon has no size.
        """
        assert self.outlines is not None, "the table was read without outlines"
        outlines, sizes = self.outlines, self.sizes[self.image_of]
        unknown = np.flatnonzero((outlines.kinds == POLYGON) & (sizes.min(axis=1, initial=1) < 1))
        if len(unknown):
            image = int(self.image_of[unknown[0]])
            raise UserError(
                f"{self.file_of(image)}: {self.image_name(image)}: polygons need the height and "
                "width of their image; add them to the file's images, or evaluate kinds=bbox"
            )
        codes = _encode(outlines, sizes)
        return [{"size": s, "counts": c} for s, c in zip(sizes.tolist(), codes, strict=True)]


def _encode(outlines: Outlines, sizes: NDArray[np.int32]) -> list[bytes]:
    """COCO's compressed run-length codes of outlines in images of (A, 2) `sizes`."""
    codes = [b""] * len(outlines)
    parts = outlines.part_offsets.tolist()
    points = (2 * outlines.point_offsets).tolist()
    flat = outlines.points.reshape(-1)
    for row, (kind, size) in enumerate(zip(outlines.kinds.tolist(), sizes.tolist(), strict=True)):
        if kind == RLE:
            first, last = outlines.rle_offsets[row : row + 2]
            codes[row] = outlines.rle[first:last].tobytes()
            continue
        own = range(parts[row], parts[row + 1]) if kind == POLYGON else ()
        shapes = [flat[points[part] : points[part + 1]] for part in own]
        codes[row] = union_of_polygons(shapes, size)["counts"]
    return codes


def outline_areas(outlines: Outlines, sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """(A,) pixels that each outline covers in images of (A, 2) sizes, as pycocotools counts."""
    codes = _encode(outlines, sizes)
    lengths = np.array([len(code) for code in codes], np.int64)
    pixels = sizes.prod(axis=1, dtype=np.int64)
    return measure_codes(np.frombuffer(b"".join(codes), np.uint8), lengths, pixels).astype(float)


class Column:
    """An array of unknown length; a list of chunks would take twice its memory at the end."""

    def __init__(self, dtype: type[np.generic], *shape: int) -> None:
        self.dtype, self.shape = dtype, shape
        self.bytes = bytearray()

    def extend(self, values: Any) -> None:
        """Adds (n, *shape) values."""
        self.bytes += np.asarray(values, self.dtype).tobytes()

    def array(self) -> NDArray[Any]:
        """All values so far; afterwards the column must not grow."""
        return np.frombuffer(self.bytes, self.dtype).reshape(-1, *self.shape)


class RaggedColumn:
    """Lists of values."""

    def __init__(self, dtype: type[np.generic], *shape: int) -> None:
        self.values, self.lengths = Column(dtype, *shape), Column(np.int64)

    def extend(self, values: Any, lengths: Sequence[int] | NDArray[np.int64]) -> None:
        """Adds one list per length, their values one after the other."""
        self.values.extend(values)
        self.lengths.extend(lengths)

    def ragged(self) -> Ragged:
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths.array())])
        return Ragged(self.values.array(), offsets)


class OutlineColumns:
    """The outlines of objects."""

    def __init__(self) -> None:
        self.kinds, self.parts = Column(np.uint8), Column(np.int64)
        self.points, self.rle = RaggedColumn(np.float64, 2), RaggedColumn(np.uint8)

    def extend(self, outlines: Outlines) -> None:
        self.kinds.extend(outlines.kinds)
        self.parts.extend(np.diff(outlines.part_offsets))
        self.points.extend(outlines.points, np.diff(outlines.point_offsets))
        self.rle.extend(outlines.rle, np.diff(outlines.rle_offsets))

    def outlines(self) -> Outlines:
        points, rle = self.points.ragged(), self.rle.ragged()
        parts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.parts.array())])
        return Outlines(
            self.kinds.array(), parts, points.offsets, points.values, rle.offsets, rle.values
        )


def join_extras(arrays: Sequence[NDArray[Any]], key: str, file: str) -> NDArray[Any]:
    """Further values (n, …) of a key as one array; shape (n, 0), which is none, becomes 0.

    Raises:
        DataError: their shapes do not agree, or no object has a value.
    """
    shape = next((array.shape[1:] for array in arrays if array.shape[1:] != (0,)), (0,))
    filled = [
        np.zeros((len(array), *shape), bool) if array.shape[1:] == (0,) else array
        for array in arrays
    ]
    if shape == (0,) and any(map(len, arrays)):
        what = "no annotation has this key; correct its name or remove it"
    elif {array.shape[1:] for array in filled} > {shape}:
        what = "not equally many numbers per object; make them agree, or remove the key"
    else:
        return np.concatenate(filled) if filled else np.zeros((0, 0))
    raise DataError(f"{file}: data.extras: {key}: {what}")
