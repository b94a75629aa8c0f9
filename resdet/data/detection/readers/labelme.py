"""LabelMe: one JSON file per image, as LabelMe, AnyLabeling and X-AnyLabeling write them.

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640, "imageData": null, "shapes": [
      {"label": "dog", "shape_type": "polygon", "points": [[x, y], …], "group_id": null}, …]}

Shapes with the same label and `group_id` are parts of one object. Points are continuous pixels,
0 at the image's border. [github.com/wkentaro/labelme]
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
import numpy as np

from resdet.data.detection.readers.image_lists import ImageFiles
from resdet.data.detection.readers.shapes import (
    Corners,
    Shape,
    ShapeTable,
    box_shape,
    ellipse_shape,
    polygon_box,
    polygon_shape,
    within,
)
from resdet.data.detection.readers.xml_files import LARGEST
from resdet.data.detection.table import AnnotationTable, Source
from resdet.errors import UserError
from resdet.files.findings import DROPPED, DataError, Finding, log_findings
from resdet.files.json import OTHERS, shown, whole_number
from resdet.files.label_images import labels_of
from resdet.files.read_ahead import read_ahead
from resdet.files.regular import is_file
from resdet.files.rle import MAX_SIDE, encode_bitmap
from resdet.files.walk import list_files

if TYPE_CHECKING:
    from resdet.data.detection.readers.recognize import Seen

SHAPES_KEY = re.compile(rb'"shapes"\s*:')

NO_CLASS = ("__ignore__", "_background_")
"""Labels that LabelMe's own converters leave out."""

BROKEN = "its image is left out; correct the file, or remove it"
NO_SIZE = "the size is read from the image"
NO_AREA = "it is left out: a {} encloses nothing; draw polygons or rectangles"


class _File(TypedDict, total=False):
    """The wanted keys of a file; `imageData`, which may be the whole image, is passed over."""

    shapes: Any
    imagePath: Any
    imageHeight: Any
    imageWidth: Any


def looks_like(seen: Seen) -> bool:
    """Whether a file is LabelMe's JSON, or a folder has such files."""
    for name in seen.named(".json")[:3]:
        head = seen.head(name)
        if b'"imageData"' in head and b'"shapes"' not in head:  # the keys were sorted
            head = (seen.path / name if seen.is_folder else seen.path).read_bytes()
        shapes = SHAPES_KEY.search(head)
        if shapes is not None and b'"images"' not in head[: shapes.start()]:
            return True
    return False


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads the JSON files below a folder, or a single one; see `READERS`.

    An image is found by its `imagePath` without folders, or else by the name of the JSON file, in
    the same folder below the image folder. Classes are sorted by name.

    Raises:
        DataError: there is no JSON file, or none is LabelMe's.
    """
    path = Path(source.path)
    folder, names = (path.parent, [path.name]) if is_file(path) else (path, _json_files(path))
    table, images = ShapeTable(source, findings), ImageFiles(source.images)
    broken = 0
    for name, content in read_ahead(folder, names):
        try:
            record = _parse(content)
        except UserError as error:
            table.report(name, str(error), BROKEN)
            broken += 1
            continue
        _add_image(table, images, folder / name, name, record)
    if broken == len(names):
        raise DataError(f"{path}: no file in it is LabelMe's JSON: {findings[-1]}")
    return table.finish()


def _json_files(folder: Path) -> list[str]:
    listing = list_files(folder)
    log_findings(listing.findings(folder))
    names = [name for name in listing.files if name.lower().endswith(".json")]
    if not names:
        raise DataError(f"{folder}: no JSON file in it; give the folder of LabelMe's files")
    return names


def _parse(content: bytes | OSError) -> dict[str, Any]:
    """The wanted keys of a file.

    Raises:
        UserError: it can't be read, or is not LabelMe's.
    """
    if isinstance(content, OSError):
        raise UserError(f"can't be read ({content.strerror or content})")
    content = content.removeprefix(b"\xef\xbb\xbf")
    record: Any
    try:
        record = msgspec.json.decode(content, type=_File)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        try:
            record = json.loads(content.decode(json.detect_encoding(content), "surrogatepass"))
        except (ValueError, RecursionError) as error:
            what = next((w for s, w in OTHERS.items() if content.startswith(s)), None)
            if what is None:
                what = f"is not valid JSON ({error})" if content.strip() else "is empty"
            raise UserError(what) from None
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise UserError("is not LabelMe's JSON: it has no list of shapes")
    return record


def _stated(images: ImageFiles, folder: Path, given: Any) -> str:
    """The path of an image below the image folder, from its path as a file in `folder` states it;
    that path itself where it leads elsewhere."""
    stated = str(given).replace("\\", "/")
    if images.folder is None:
        return stated
    name = os.path.relpath(folder / stated, images.folder).replace(os.sep, "/")
    return name if images.has(name) else stated


def _add_image(
    table: ShapeTable, images: ImageFiles, path: Path, name: str, record: dict[str, Any]
) -> None:
    """Adds the image of a file, whose path below the folder of all is `name`."""
    key = name.rpartition(".")[0]
    given = record.get("imagePath")
    base = given.replace("\\", "/").rpartition("/")[2] if isinstance(given, str) else ""
    if given is not None and (not base or "\0" in base):
        table.report(name, f"has imagePath {shown(given)}", "the name of the JSON file is taken")
        base = ""
    file_name = images.find(key, [base or key.rpartition("/")[2]])
    if base and not images.has(file_name):
        file_name = _stated(images, path.parent, given)
    row = table.add_image(key, file_name, _size(table, images, name, file_name, record))
    if row is None:
        return
    groups: dict[tuple[str, Any], list[Shape]] = {}
    for number, entry in enumerate(record["shapes"], start=1):
        item = f"{name}: shape {number}"
        if not isinstance(entry, dict):
            table.report(item, f"is {shown(entry)}, not an object")
            continue
        label = entry.get("label")
        label = str(label) if type(label) in (int, float) else label
        if not isinstance(label, str) or not label.strip():
            table.report(item, f"has label {shown(label)}, not a name")
            continue
        label = label.strip().encode("utf-8", "replace").decode()
        if label in NO_CLASS:
            table.report(item, f"is {label}", "it is left out, as LabelMe's name for no class")
            continue
        item = f"{item} ({label:.60})"
        try:
            shape = _shape(entry, table.sizes[row], item)
        except NoArea as error:
            table.report(item, f"is a {error}", NO_AREA.format(error))
        except UserError as error:
            table.report(item, str(error), DROPPED)
        else:
            group = entry.get("group_id")
            alone = not isinstance(group, (int, str)) or isinstance(group, bool) or group == ""
            groups.setdefault((label, ("", number) if alone else group), []).append(shape)
    for (label, _), shapes in groups.items():
        table.add_object(row, label, shapes)


def _size(
    table: ShapeTable, images: ImageFiles, name: str, file_name: str, record: dict[str, Any]
) -> tuple[int, int]:
    """(height, width); from the image where the file gives none."""
    given = record.get("imageHeight"), record.get("imageWidth")
    height, width = (whole_number(side) or 0 for side in given)
    if 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width < 2**32:
        return height, width
    if given != (None, None):
        what = f"has imageHeight {shown(given[0])} and imageWidth {shown(given[1])}"
        table.report(name, what, NO_SIZE)
    return images.size(file_name)


class NoArea(UserError):
    """A shape of a kind that encloses nothing; the text names the kind."""


def _shape(entry: dict[str, Any], size: tuple[int, int], item: str) -> Shape:
    """A shape of an image of (height, width).

    Raises:
        NoArea: it is a point or a line.
        UserError: it is malformed; the text says how.
    """
    kind = entry.get("shape_type") or "polygon"
    if kind in ("point", "points", "line", "linestrip"):
        raise NoArea(kind)
    if kind == "mask":
        return _bitmap(entry.get("mask"), _numbers(entry.get("points")), size, item)
    make = SHAPES.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise UserError(f"has shape_type {shown(kind)}, none of {', '.join(SHAPES)}, mask")
    return make(_numbers(entry.get("points")))


def _numbers(points: Any) -> list[float]:
    """x, y, x, y, … of a list of points.

    Raises:
        UserError: it is none, of finite numbers.
    """
    is_list = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 for point in points
    )
    flat: list[Any] = list(chain.from_iterable(points)) if is_list else [None]
    if not set(map(type, flat)) <= {int, float}:
        raise UserError(f"has points {shown(points)}, not a list of [x, y]")
    try:
        numbers = list(map(float, flat))
    except OverflowError:
        numbers = [math.inf]
    if not within(numbers, LARGEST):
        raise UserError(f"has points {shown(points)}, not finite numbers of pixels")
    return numbers


def _rectangle(numbers: list[float]) -> Shape:
    if len(numbers) not in (4, 8):
        raise UserError(f"is a rectangle of {len(numbers) // 2} point(s), not 2 or 4")
    return box_shape(polygon_box(numbers))


def _circle(numbers: list[float]) -> Shape:
    """By its centre and a point on it."""
    if len(numbers) != 4:
        raise UserError(f"is a circle of {len(numbers) // 2} point(s), not 2")
    x, y, edge_x, edge_y = numbers
    radius = math.hypot(edge_x - x, edge_y - y)
    return ellipse_shape((x, y), (radius, radius))


def _bitmap(mask: Any, numbers: list[float], size: tuple[int, int], item: str) -> Shape:
    """A PNG file in base64 that covers the pixels between two corners, both included."""
    if len(numbers) != 4 or not isinstance(mask, str):
        raise UserError("is a mask without two corners and a PNG image in base64")
    if not all(size):
        raise UserError("is a mask in an image whose height and width are unknown")
    corners: Corners = polygon_box(numbers)
    try:
        data = base64.b64decode(mask, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("has a mask that is not base64") from None
    try:
        bitmap = labels_of(data, item)
    except DataError as error:
        raise UserError(f"has a mask that can't be read ({str(error)[len(item) + 2 :]})") from None
    left, top, right, bottom = (round(value) for value in corners)
    if bitmap.shape != (bottom - top + 1, right - left + 1):
        raise UserError(
            f"has a mask of {bitmap.shape[1]}×{bitmap.shape[0]} pixels between corners "
            f"{right - left + 1}×{bottom - top + 1} pixels apart"
        )
    if not bitmap.any():
        raise UserError("has a mask without a pixel")
    return Shape(code=encode_bitmap(np.asarray(bitmap), top, left, size))


SHAPES: dict[str, Callable[[list[float]], Shape]] = {
    "polygon": polygon_shape,
    "rectangle": _rectangle,
    "rotation": polygon_shape,
    "oriented_rectangle": polygon_shape,
    "circle": _circle,
}
"""What makes a shape of its numbers, by `shape_type`."""
