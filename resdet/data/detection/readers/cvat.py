"""CVAT's own XML, version 1.1: one file with the labels and all images, or the tracks of a video.

    <annotations><meta><task><labels><label><name>dog</name></label></labels></task></meta>
      <image id="0" name="a.jpg" width="640" height="480">
        <box label="dog" xtl="1" ytl="2" xbr="3" ybr="4" rotation="30" occluded="0"/>
        <polygon label="dog" points="1,2;3,4;5,6" group_id="1"/>
        <ellipse label="dog" cx="9" cy="9" rx="3" ry="2"/>
        <mask label="dog" rle="3, 5, 8" left="1" top="2" width="8" height="2"/>
      <track id="0" label="dog"><box frame="0" outside="0" xtl="1" …/>

Coordinates are continuous pixels. Polygons, masks and ellipses with the same label and `group_id`
are parts of one object; boxes are not joined. Turned boxes and ellipses become polygons.
[docs.cvat.ai, CVAT for images 1.1 and CVAT for video 1.1]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

import numpy as np

from resdet.data.detection.readers.cvat_video import add_tracks
from resdet.data.detection.readers.image_lists import ImageFiles
from resdet.data.detection.readers.shapes import (
    Shape,
    ShapeTable,
    box_shape,
    ellipse_shape,
    polygon_shape,
    turned_box,
)
from resdet.data.detection.readers.xml_files import BrokenXml, parse_root, to_pixels
from resdet.data.detection.table import AnnotationTable, Source
from resdet.errors import UserError
from resdet.files.findings import DROPPED, DataError, Finding
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.json import DIGITS, some
from resdet.files.rle import MAX_SIDE, encode_bitmap

if TYPE_CHECKING:
    from resdet.data.detection.readers.recognize import Seen

FILE = "annotations.xml"
"""What CVAT calls it."""

NO_AREA = "it is left out, as it has no closed outline; draw polygons or boxes"
NO_SIZE = "the size is read from the image"

IMAGES = "images"
"""The folder of the images in an export, beside annotations.xml."""

OPEN_KINDS = ("polyline", "points", "skeleton", "cuboid")


def looks_like(seen: Seen) -> bool:
    """Whether a file is CVAT's XML, or a folder has one."""
    name = FILE if seen.is_folder else seen.path.name
    return name.lower().endswith(".xml") and b"<annotations" in seen.head(name)


def read(source: Source, findings: list[Finding]) -> AnnotationTable:
    """Reads a file, or the annotations.xml of a folder; see `READERS`.

    Classes are the labels of all tasks in their order; without such a list, the names that objects
    have, sorted.

    Raises:
        DataError: it is not CVAT's XML, or tracks give only their key frames.
    """
    path = Path(source.path)
    if path.is_dir():
        path /= FILE
    try:
        root = parse_root(path.read_bytes())
    except BrokenXml as error:
        raise DataError(f"{path}: {error}; export it again as CVAT for images 1.1") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); give CVAT's XML") from None
    if root.tag != "annotations":
        raise DataError(
            f"{path}: has the root element <{root.tag:.40}>, not <annotations>; give the XML of "
            "CVAT for images 1.1, or set format to voc for XML files of one image each"
        )
    labels = _labels(root)
    table, images = ShapeTable(source, findings), ImageFiles(source.images)
    for element in root.iterfind("image"):
        _add_image(table, images, element, labels)
    if root.find("track") is not None:
        add_tracks(table, source, root, lambda *shape: _object(table, labels, *shape))
    return table.finish(labels or None)


def _labels(root: Element) -> list[str]:
    """The names of all tasks' labels, each once; those of a skeleton's points are none."""
    elements = (label for labels in root.iterfind("meta//labels") for label in labels)
    names = [
        _words(label.findtext("name")) for label in elements if label.findtext("parent") is None
    ]
    return list(dict.fromkeys(name for name in names if name))


def _words(text: str | None) -> str:
    return (text or "").strip()


def _add_image(
    table: ShapeTable, images: ImageFiles, element: Element, labels: Sequence[str]
) -> None:
    name, subset = _words(element.get("name")).replace("\\", "/"), _words(element.get("subset"))
    if not name:
        item = f"image with id {element.get('id')!r:.40}"
        table.report(item, "has no name", f"{DROPPED}, with its objects")
        return
    in_subset = f"{subset}/{name}" if subset else name
    if not images.has(name) or name in table.row_of:
        places = (in_subset, f"{IMAGES}/{name}", f"{IMAGES}/{in_subset}")
        free = (place for place in places if images.has(place) and place not in table.row_of)
        name = next(free, in_subset if name in table.row_of else name)
    row = table.add_image(name, name, _size(table, images, name, element))
    if row is None:
        return
    groups: dict[tuple[str, str], list[Shape]] = {}
    for number, child in enumerate(element, start=1):
        if child.tag == "tag":
            continue
        parsed = _object(table, labels, f"image {name!r}: shape {number}", child, row)
        if parsed is not None:
            label, shape = parsed
            group = _words(child.get("group_id"))
            alone = group in ("", "0") or shape.box is not None
            groups.setdefault((label, f"/{number}" if alone else group), []).append(shape)
    for (label, _), shapes in groups.items():
        table.add_object(row, label, shapes)


def _size(table: ShapeTable, images: ImageFiles, name: str, element: Element) -> tuple[int, int]:
    """(height, width); from the image where the file gives none."""
    given = element.get("height"), element.get("width")
    height, width = map(to_pixels, given)
    if 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width < 2**32:
        return int(height), int(width)
    if given != (None, None):
        what = f"has height {given[0]!s:.40} and width {given[1]!s:.40}"
        table.report(f"image {name!r}", what, NO_SIZE)
    return images.size(name)


def _object(
    table: ShapeTable, labels: Sequence[str], item: str, element: Element, row: int
) -> tuple[str, Shape] | None:
    """The label and shape of an element in the image of a row; None, with a finding, for what is
    left out."""
    label = _words(element.get("label"))
    item = f"{item} ({label:.60})" if label else item
    if not label:
        table.report(item, "has no label", DROPPED)
    elif labels and label not in labels:
        table.report(item, f"has a label other than {some(labels)}", DROPPED)
    elif element.tag in OPEN_KINDS:
        table.report(item, f"is drawn as {element.tag}", NO_AREA)
    else:
        try:
            return label, _shape(element, table.sizes[row])
        except UserError as error:
            table.report(item, str(error), DROPPED)
    return None


def _shape(element: Element, size: tuple[int, int]) -> Shape:
    """A shape in an image of (height, width).

    Raises:
        UserError: it is malformed; the text says how.
    """
    if element.tag == "mask":
        return _mask(element, size)
    make = SHAPES.get(element.tag)
    if make is None:
        raise UserError(f"is a {element.tag:.40}, none of {', '.join(SHAPES)}, mask")
    return make(element)


def _floats(element: Element, *keys: str) -> list[float]:
    """The numbers of attributes.

    Raises:
        UserError: one is missing or not a finite number.
    """
    numbers = [to_pixels(element.get(key)) for key in keys]
    if not all(map(math.isfinite, numbers)):
        given = ", ".join(f"{key} {element.get(key)!s:.40}" for key in keys)
        raise UserError(f"has {given}, not finite numbers of pixels")
    return numbers


def _rotation(element: Element) -> float:
    return _floats(element, "rotation")[0] if element.get("rotation") else 0.0


def _box(element: Element) -> Shape:
    shape = box_shape(_floats(element, "xtl", "ytl", "xbr", "ybr"))
    degrees = _rotation(element)
    if degrees % 360 == 0 or shape.box is None:
        return shape
    return turned_box(shape.box, degrees)


def _polygon(element: Element) -> Shape:
    text = element.get("points") or ""
    pairs = [pair.split(",") for pair in text.split(";") if pair.strip()]
    numbers = [to_pixels(value.strip()) for pair in pairs for value in pair]
    if any(len(pair) != 2 for pair in pairs) or not all(map(math.isfinite, numbers)):
        raise UserError(f"has points {text!r:.60}, not pairs x,y of finite numbers")
    return polygon_shape(numbers)


def _ellipse(element: Element) -> Shape:
    x, y, radius_x, radius_y = _floats(element, "cx", "cy", "rx", "ry")
    return ellipse_shape((x, y), (radius_x, radius_y), _rotation(element))


def _mask(element: Element, size: tuple[int, int]) -> Shape:
    """Runs of 0 and 1 in turn, row after row, of a part of the image."""
    if not all(size):
        raise UserError("is a mask in an image whose height and width are unknown")
    given = _floats(element, "left", "top", "width", "height")
    left, top, width, height = map(round, given)
    words = (element.get("rle") or "").split(",")
    runs = [int(word) if DIGITS.fullmatch(word.strip()) else -1 for word in words]
    fits = 0 < width <= size[1] and 0 < height <= size[0] and width * height <= MAX_PIXELS
    if not fits or min(runs) < 0 or sum(runs) != width * height:
        raise UserError(f"is a mask whose runs do not add up to its {width}×{height} pixels")
    values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    if not values.any():
        raise UserError("is a mask without a pixel")
    return Shape(code=encode_bitmap(values, top, left, size))


SHAPES: dict[str, Callable[[Element], Shape]] = {
    "box": _box,
    "polygon": _polygon,
    "ellipse": _ellipse,
}
"""What makes a shape of its element, by tag."""
