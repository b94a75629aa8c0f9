"""The pictures of a report: scaled down, with outlines of masks, within a limit of bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resdet.files.findings import DataError
from resdet.files.rle import Rle
from resdet.files.windows import Windows, overview
from resdet.ops.runs import decode_window
from resdet.report.data import Mark, Picture

MAX_PICTURES = 120
PICTURE_BYTES = 7_000_000
"""Of all JPEG files together; base64 makes a third more of it, and the page has to stay below
15 MB with everything else in it."""
PATH_BYTES = 2_500_000
"""Of all outlines together."""
STEPS = ((720, 82), (640, 78), (560, 74), (480, 70), (400, 64), (320, 58), (240, 50))
"""(longest side in pixels, JPEG quality): the first that is small enough is taken."""
READ_PIXELS = 1 << 22
"""Larger images are shrunk to so many while they are read."""
MIN_SIDE = 320
"""Smaller images are enlarged by a whole factor to at least this, so that marks can be seen."""
FLAT = (1, 1)

Path = Callable[[Rle], str]


@dataclass(frozen=True)
class Marks:
    """What one run marks in an image."""

    make: Callable[[float, Path], tuple[list[Mark], list[Mark]]]
    """Truths and detections, from the scale of the picture and a function that turns a mask into an
    SVG path."""
    counts: Callable[[], tuple[int, int]]
    """How many there are."""


@dataclass
class Entry:
    """An image of the report, before it is read."""

    name: str
    open: Callable[[], Windows]
    """DataError for what can't be read."""
    size: tuple[int, int]
    """(height, width) as annotated; 0 where unknown."""
    marks: list[Marks] = field(default_factory=list)
    """Of each run in turn."""
    caption: str = ""


class Album:
    """The images of all galleries, each once, in the order in which they were asked for."""

    def __init__(self, most: int = MAX_PICTURES) -> None:
        self.most = most
        self.entries: dict[str, Entry] = {}
        self.rows: dict[str, int] = {}

    def row(self, key: str, make: Callable[[], Entry]) -> int | None:
        """The row of an image's picture; None where it has none and there are enough."""
        if key not in self.rows:
            if len(self.rows) >= self.most:
                return None
            self.rows[key] = len(self.rows)
            self.entries[key] = make()
        return self.rows[key]

    def pictures(self, share: float = 1.0) -> tuple[list[Picture], list[str]]:
        """All of them, with a `share` of the usual bytes; and why some could not be read."""
        count = max(len(self.entries), 1) / share
        limits = (int(PICTURE_BYTES / count), int(PATH_BYTES / count))
        problems: list[str] = []
        return [picture(entry, *limits, problems) for entry in self.entries.values()], problems


def picture(entry: Entry, most_bytes: int, path_bytes: int, problems: list[str]) -> Picture:
    """One picture with its marks; without a JPEG, and a line in `problems`, where the image can't
    be read."""
    try:
        image = entry.open()
        data, side = encode(overview(image, READ_PIXELS), most_bytes)
        height, width = image.size
    except DataError as error:
        problems.append(str(error))
        height, width = entry.size if min(entry.size) > 0 else FLAT
        data, side = b"", min(max(height, width, MIN_SIDE), STEPS[0][0])
    scale = side / max(height, width)
    truths: list[Mark] = []
    detections: list[Mark] = []
    outlines = Outlines(scale, path_bytes)
    for marks in entry.marks:
        own, found = marks.make(scale, outlines.path)
        # partners are rows among the marks of the same run
        truths += [_moved(mark, len(detections)) for mark in own]
        detections += [_moved(mark, len(truths) - len(own)) for mark in found]
    return Picture(
        entry.name,
        max(1, round(width * scale)),
        max(1, round(height * scale)),
        (height, width),
        data,
        truths,
        detections,
        entry.caption,
    )


def _moved(mark: Mark, by: int) -> Mark:
    if mark.partner is None or not by:
        return mark
    values = {name: getattr(mark, name) for name in mark.__dataclass_fields__}
    return Mark(**values | {"partner": mark.partner + by})


def encode(image: NDArray[np.uint8], most_bytes: int) -> tuple[bytes, int]:
    """A JPEG file of at most so many bytes if a step allows it, and its longest side in pixels."""
    data, longest = b"", 1
    for side, quality in STEPS:
        longest = picture_side(max(image.shape[:2]), side)
        scale = longest / max(image.shape[:2])
        size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
        small = image if scale == 1 else cv2.resize(image, size, interpolation=how)
        buffer = io.BytesIO()
        Image.fromarray(small).save(buffer, "JPEG", quality=quality, optimize=True)
        data = buffer.getvalue()
        if len(data) <= most_bytes:
            break
    return data, longest


def picture_side(side: int, most: int) -> int:
    """The longest side of the picture of an image: as it is, reduced to `most`, or enlarged by a
    whole factor."""
    if side < MIN_SIDE:
        return side * min(-(-MIN_SIDE // side), max(1, most // side))
    return min(side, most)


class Outlines:
    """Masks of one image as SVG paths, coarser once they have taken their share of the bytes."""

    def __init__(self, scale: float, most_bytes: int) -> None:
        self.scale, self.most_bytes, self.used = scale, most_bytes, 0

    def path(self, rle: Rle) -> str:
        """The outline of a mask in pixels of the picture; empty for an empty mask and where the
        bytes are used up."""
        if self.used >= self.most_bytes:
            return ""
        epsilon = 0.5 if self.used < self.most_bytes / 2 else 1.5
        path = svg_path(rle, self.scale, epsilon)
        self.used += len(path)
        return path


def svg_path(rle: Rle, scale: float, epsilon: float) -> str:
    """The outlines of a mask, holes included, as data of an SVG path: fill-rule evenodd.

    `epsilon` is how far, in pixels of the picture, the path may be from the mask.
    """
    (x, y, _, _), inside = decode_window(rle)
    if not inside.size:
        return ""
    # two samples for each pixel of the picture are enough, and as many are needed: a pixel is a
    # square, and its outline runs along its borders, not through its centre
    step, times = max(1, int(0.5 / scale)), max(1, min(8, round(2 * scale)))
    samples = inside[::step, ::step].view(np.uint8)
    mask = np.pad(samples.repeat(times, 0).repeat(times, 1), 1)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    size = step / times  # of a sample, in pixels of the image
    parts = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, epsilon / scale / size, True)[:, 0].astype(np.float64)
        if len(points) >= 3:
            # a contour runs through the centres of the border samples
            parts.append(_closed(((points - 0.5) * size + (x, y)) * scale))
    return "".join(parts)


def _closed(points: NDArray[np.float64]) -> str:
    """A closed ring; relative steps in whole pixels are short to write."""
    whole = np.rint(points).astype(np.int64).tolist()
    first = f"M{whole[0][0]} {whole[0][1]}l"
    steps = [
        f"{x - last_x} {y - last_y}"
        for (last_x, last_y), (x, y) in pairwise(whole)
        if (x, y) != (last_x, last_y)
    ]
    return first + " ".join(steps) + "z" if steps else ""


def scaled_box(box: Sequence[float], scale: float) -> tuple[float, float, float, float]:
    """xywh pixels of the image → x1, y1, x2, y2 in pixels of the picture."""
    x, y, width, height = map(float, box)
    corners = (x, y, x + width, y + height)
    x1, y1, x2, y2 = (round(value * scale, 1) for value in corners)
    return x1, y1, x2, y2
