"""Objects as annotation tools draw them, gathered image by image into a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import BOX
from resdet.data.detection.readers.coco_segmentation import parse_outlines
from resdet.data.detection.readers.xml_files import LARGEST, Report
from resdet.data.detection.table import (
    AnnotationTable,
    Column,
    OutlineColumns,
    Source,
    join_extras,
    outline_areas,
)
from resdet.data.names import pack_ids, pack_names
from resdet.errors import UserError
from resdet.files.findings import DROPPED, Finding
from resdet.files.rle import MAX_COORDINATE, Rle, union_of_polygons

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

CHUNK = 8192
"""Objects whose outlines become arrays at a time."""

CURVE_ERROR = 0.05
"""Pixels by which the sides of a polygon may leave the curve that it stands for."""

NO_OBJECTS = "it has no objects; correct its name if it is misspelt"
"""The remedy for a class of `data.classes` that no file has."""


@dataclass(frozen=True)
class Shape:
    """One drawn part of an object: a box, a polygon or a bitmap."""

    box: Corners | None = None
    """Of a rectangle, which has no outline of its own."""
    polygon: tuple[float, ...] = ()
    """x0, y0, x1, y1, … in pixels."""
    code: bytes = b""
    """COCO's compressed run-length code in the whole image."""


class ShapeTable:
    """Images and their objects, in the order in which they are added.

    Args:
        source: what is read; findings: gets what is left out or repaired.
    """

    def __init__(self, source: Source, findings: list[Finding]) -> None:
        self.source, self.findings = source, findings
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        """Rows of images by their file names."""
        self.sizes: list[tuple[int, int]] = []
        self.image_of, self.name_of = Column(np.int64), Column(np.int64)
        self.boxes, self.measured = Column(np.float64, 4), Column(np.bool_)
        self.position: dict[str, int] = {}
        """Of each class name, in the order of their appearance."""
        self.outlines, self.areas = OutlineColumns(), Column(np.float64)
        self._waiting: list[tuple[Any, tuple[int, int], Corners]] = []

    def report(self, item: str, what: str, remedy: str = DROPPED) -> None:
        """Adds a finding."""
        self.findings.append(Finding(self.source.path, item, what, remedy))

    def add_image(
        self, key: str, file_name: str, size: tuple[int, int], *, measured: bool = False
    ) -> int | None:
        """The row of a new image of (height, width), (0, 0) where unknown, which was `measured` in
        its header; None, with a finding, where another has the same file."""
        if file_name in self.row_of:
            other = self.ids[self.row_of[file_name]]
            remedy = "it is left out; remove one of the two"
            self.report(f"image {key!r}", f"has the file of image {other!r}, {file_name}", remedy)
            return None
        row = self.row_of[file_name] = len(self.ids)
        self.ids.append(key)
        self.sizes.append(size)
        self.measured.extend([measured])
        return row

    def add_object(self, image: int, name: str, shapes: Sequence[Shape]) -> None:
        """An object of a class, of one or more checked parts, in the image of that row."""
        size = self.sizes[image]
        segmentation, box = _joined(shapes, size)
        self.image_of.extend([image])
        self.name_of.extend([self.position.setdefault(name, len(self.position))])
        left, top, right, bottom = box
        self.boxes.extend([[left, top, right - left, bottom - top]])
        self._waiting.append((segmentation, size, box))
        if len(self._waiting) >= CHUNK:
            self._flush()

    def add_codes(self, image: int, names: Sequence[str], codes: Sequence[bytes]) -> None:
        """Objects by their classes and COCO's compressed codes, none of an empty mask."""
        size = self.sizes[image]
        runs: list[Rle] = [{"size": list(size), "counts": code} for code in codes]
        if not runs:
            return
        boxes = coco_mask.toBbox(runs)
        self.image_of.extend([image] * len(runs))
        self.name_of.extend([self.position.setdefault(n, len(self.position)) for n in names])
        self.boxes.extend(boxes)
        boxes[:, 2:] += boxes[:, :2]
        for run, box in zip(runs, boxes.tolist(), strict=True):
            self._waiting.append(({**run, "counts": run["counts"].decode()}, size, box))
        if len(self._waiting) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        """The outlines and areas of the objects that wait for it."""
        segmentations = [each[0] for each in self._waiting]
        sizes = np.array([each[1] for each in self._waiting], np.int32).reshape(-1, 2)
        boxes = np.array([each[2] for each in self._waiting], np.float64).reshape(-1, 4)
        self._waiting = []
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        if self.source.outlines:
            outlines = parse_outlines(segmentations, sizes, lambda *_: None)
            self.outlines.extend(outlines)
            drawn = np.flatnonzero((outlines.kinds != BOX) & (sizes.min(axis=1) > 0))
            areas[drawn] = outline_areas(outlines.select(drawn), sizes[drawn])
        self.areas.extend(areas)

    def finish(self, classes: Sequence[str] | None = None) -> AnnotationTable:
        """The table.

        Args:
            classes: names in the order of their labels, all that objects have among them; None
                sorts those that are there and those of `Source.classes`.
        """
        self._flush()
        if classes is None:
            classes = sorted_classes(self.position, self.source, self.report)
        label_of = {name: label for label, name in enumerate(classes)}
        labels = np.array([label_of[name] for name in self.position], np.int64)
        labels = labels[self.name_of.array()]
        count = len(labels)
        no = np.zeros(count, bool)
        none = np.zeros((count, 0))
        return AnnotationTable(
            files=[self.source.path],
            class_names=list(classes),
            category_ids=list(range(1, len(classes) + 1)),
            image_ids=pack_ids(self.ids),
            file_of_image=np.zeros(len(self.ids), np.int32),
            file_names=pack_names(self.row_of),
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            image_of=self.image_of.array(),
            boxes_xywh=self.boxes.array(),
            labels=labels,
            areas=self.areas.array(),
            crowd=no,
            difficult=no,
            ignored=no,
            annotation_ids=np.arange(1, count + 1),
            outlines=self.outlines.outlines() if self.source.outlines else None,
            measured=self.measured.array(),
            extras={k: join_extras([none], k, self.source.path) for k in self.source.extras},
        )


def sorted_classes(found: Iterable[str], source: Source, report: Report) -> list[str]:
    """The classes that objects have and those of `data.classes`, sorted; for formats whose files
    do not list them."""
    names = set(found)
    for name in source.classes:
        if name not in names:
            report(f"class {name!r}", "is in data.classes, but no object has it", NO_OBJECTS)
    return sorted(names | set(source.classes))


def _joined(shapes: Sequence[Shape], size: tuple[int, int]) -> tuple[Any, Corners]:
    """The parts of an object as one COCO segmentation, None for boxes alone; and its box."""
    coded: list[Rle] = [
        {"size": list(size), "counts": shape.code} for shape in shapes if shape.code
    ]
    polygons = [list(shape.polygon) for shape in shapes if shape.polygon]
    boxes = [shape.box for shape in shapes if shape.box is not None]
    extents = [*boxes, *map(polygon_box, polygons), *map(_code_box, coded)]
    lefts, tops, rights, bottoms = zip(*extents, strict=True)
    box = (min(lefts), min(tops), max(rights), max(bottoms))
    if coded or polygons:
        polygons += [_as_polygon(each) for each in boxes]
    if not coded:
        return polygons or None, box
    coded += [union_of_polygons(polygons, size)] if polygons else []
    code: Rle = coded[0] if len(coded) == 1 else coco_mask.merge(coded)
    return {"size": list(size), "counts": code["counts"].decode()}, box


def _code_box(code: Rle) -> Corners:
    left, top, width, height = (float(value) for value in coco_mask.toBbox(code))
    return left, top, left + width, top + height


def _as_polygon(box: Corners) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def polygon_box(polygon: Sequence[float]) -> Corners:
    """The extent of a flat polygon."""
    return min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])


def box_shape(numbers: Sequence[float]) -> Shape:
    """A rectangle of two opposite corners x, y, x, y in any order.

    Raises:
        UserError: the numbers are not such; the text says what is wrong.
    """
    x1, y1, x2, y2 = numbers
    if not within(numbers, LARGEST):
        raise UserError(f"has corners {shorten(numbers)}, not finite numbers of pixels")
    return Shape(box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))


def polygon_shape(numbers: Sequence[float]) -> Shape:
    """A polygon of x, y, x, y, ….

    Raises:
        UserError: it has fewer than three points, or some that no image has.
    """
    if len(numbers) < 6:
        raise UserError(f"is a polygon of {len(numbers) // 2} point(s), which encloses nothing")
    if not within(numbers, MAX_COORDINATE):
        raise UserError(f"has points {shorten(numbers)}, not finite numbers of pixels")
    return Shape(polygon=tuple(numbers))


def within(numbers: Sequence[float], most: float) -> bool:
    """Whether all numbers are finite and at most `most` away from 0."""
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    return math.isfinite(sum(numbers)) and -most <= low and high <= most


def shorten(numbers: Sequence[float]) -> str:
    """Numbers in a message, the first ones that no image has among them."""
    odd = [value for value in numbers if not abs(value) <= LARGEST]
    chosen = (odd or list(numbers))[:4]
    more = ", …" if len(chosen) < len(numbers) else ""
    return ", ".join(f"{value:g}" for value in chosen) + more


def ellipse_shape(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> Shape:
    """An ellipse, turned clockwise, as a polygon that is off by at most `CURVE_ERROR` pixels.

    Raises:
        UserError: its numbers are not finite, or a radius is not positive.
    """
    numbers = (*centre, *radii, degrees)
    if not within(numbers, LARGEST) or min(radii) <= 0:
        raise UserError(f"has centre and radii {shorten(numbers)}, not finite and positive")
    # the sagitta of n sides is r (1 - cos(π / n)), about r π² / 2 n²; a multiple of 4 keeps the box
    sides = 4 * math.ceil(math.pi * math.sqrt(max(radii) / (2 * CURVE_ERROR)) / 4)
    angles = np.arange(sides) * (2 * math.pi / sides)
    points = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    return polygon_shape(turned(points, centre, degrees).reshape(-1).tolist())


def turned_box(box: Corners, degrees: float) -> Shape:
    """A box turned clockwise about its centre, as a polygon.

    Raises:
        UserError: the angle is not a finite number.
    """
    if not abs(degrees) <= LARGEST:
        raise UserError(f"has rotation {degrees:g}, not a finite number of degrees")
    left, top, right, bottom = box
    centre = ((left + right) / 2, (top + bottom) / 2)
    points = np.array(_as_polygon(box)).reshape(-1, 2) - centre
    return polygon_shape(turned(points, centre, degrees).reshape(-1).tolist())


def turned(
    points: NDArray[np.float64], centre: tuple[float, float], degrees: float
) -> NDArray[np.float64]:
    """(n, 2) xy relative to a centre, turned clockwise as seen (y points down), in the image."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin], [-sin, cos]]) + np.array(centre)
