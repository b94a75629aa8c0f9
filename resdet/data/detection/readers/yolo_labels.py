"""YOLO's label files, one per image, read into columns.

    class x_center y_center width height       a box
    class x1 y1 x2 y2 x3 y3 …                  a polygon of three or more points
    class x y width height px py v px py v …   a box with keypoints, where data.yaml has kpt_shape

All numbers but the class are fractions of the image's width and height.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.outlines import ragged_rows
from resdet.data.detection.readers.xml_files import Report
from resdet.data.detection.table import Column
from resdet.files.findings import DROPPED
from resdet.files.read_ahead import CHUNK, read_ahead

BROKEN = "its image is left out; correct the file"

FARTHEST = 2.0
"""Fractions beyond this are far outside the image."""

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Item = Callable[[int], str]
"""What messages call a line, by its row."""


@dataclass
class Labels:
    """The rows of the label files of N images."""

    usable: NDArray[np.bool_]
    """(N,) false where the file can't be read."""
    image_of: Rows
    """(A,) rows of the images."""
    classes: Rows
    """(A,) class numbers as written."""
    values: Floats
    """All fractions of the A objects, row after row."""
    offsets: Rows
    """(A + 1,) first fraction of each object."""
    is_polygon: NDArray[np.bool_]
    """(A,) x, y, x, y, …; the others are x_center, y_center, width, height."""
    far: int
    """Objects left out for fractions beyond `FARTHEST`."""
    keypoints: int
    """Objects whose keypoints are left out."""

    def boxes(self) -> Floats:
        """(A, 4) xyxy in fractions; of a polygon its extent."""
        boxes = np.zeros((len(self.classes), 4))
        plain = np.flatnonzero(~self.is_polygon)
        center, side = self._of_boxes(plain)[:, :2], self._of_boxes(plain)[:, 2:]
        boxes[plain] = np.concatenate([center - side / 2, center + side / 2], axis=1)
        drawn = np.flatnonzero(self.is_polygon)
        if len(drawn):
            places, offsets = ragged_rows(self.offsets, drawn)
            points = self.values[places].reshape(-1, 2)
            starts = offsets[:-1] // 2
            boxes[drawn, :2] = np.minimum.reduceat(points, starts, axis=0)
            boxes[drawn, 2:] = np.maximum.reduceat(points, starts, axis=0)
        return boxes

    def _of_boxes(self, rows: Rows) -> Floats:
        return self.values[self.offsets[rows][:, None] + np.arange(4)]

    def order(self) -> str | None:
        """What the four numbers of boxes look like, where that is not center and size."""
        numbers = self._of_boxes(np.flatnonzero(~self.is_polygon))
        count, low, high = len(numbers), numbers[:, :2], numbers[:, 2:]

        def misfits(first: Floats, last: Floats) -> int:
            fits = (first >= -0.02).all(axis=1) & (last <= 1.02).all(axis=1)
            return count - int((fits & (last >= first).all(axis=1)).sum())

        if misfits(low - high / 2, low + high / 2) < max(4, 0.05 * count):
            return None
        if misfits(low, high) <= 0.01 * count:
            return "corners x1 y1 x2 y2"
        if misfits(low, low + high) <= 0.01 * count:
            return "left top width height"
        return None


def read_labels(
    folder: Path,
    files: Sequence[str],
    report: Report,
    *,
    numbers: Sequence[int] | None,
    keypoints: tuple[int, int] | None = None,
) -> Labels:
    """The label files of N images.

    Args:
        folder, files: paths below it; an empty one is an image without a file.
        report: gets what is left out; its item is the file and its line.
        numbers: the classes that there are; None takes every whole number from 0 on.
        keypoints: how many an object has, and the numbers of each.
    """
    rows = _Rows(report, numbers, keypoints)
    chunk: list[tuple[str, bytes]] = []
    for file, content in read_ahead(folder, files):
        rows.usable.append(not isinstance(content, OSError))
        if isinstance(content, OSError):
            report(file, f"can't be read ({content.strerror or content})", BROKEN)
            content = b""
        chunk.append((file, content))
        if len(chunk) == CHUNK:
            rows.add(chunk)
            chunk = []
    rows.add(chunk)
    return rows.finish()


class _Rows:
    """The rows of all files so far."""

    def __init__(
        self, report: Report, numbers: Sequence[int] | None, keypoints: tuple[int, int] | None
    ) -> None:
        self.report, self.numbers = report, numbers
        self.known = None if numbers is None else np.array(sorted(numbers), np.int64)
        self.posed = 0 if keypoints is None else 5 + keypoints[0] * keypoints[1]
        """Numbers of a row with keypoints."""
        self.usable: list[bool] = []
        self.images = 0
        self.far = self.keypoints = 0
        self.image_of, self.classes = Column(np.int64), Column(np.int64)
        self.values, self.lengths = Column(np.float64), Column(np.int64)
        self.is_polygon = Column(np.bool_)

    def add(self, chunk: Sequence[tuple[str, bytes]]) -> None:
        """The files of a chunk."""
        texts = [plain_text(content) for _, content in chunk]
        lines = [text.split(b"\n") for text in texts]
        per_file = np.fromiter(map(len, lines), np.int64, len(lines))
        flat = [line for own in lines for line in own]
        tokens = list(map(bytes.split, flat))
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        file_of = np.repeat(np.arange(len(chunk)), per_file)
        line_of = np.arange(len(flat)) - np.repeat(np.cumsum(per_file) - per_file, per_file) + 1

        def item(row: int) -> str:
            return f"{chunk[int(file_of[row])][0]}: line {int(line_of[row])}"

        try:
            if any(b"_" in text for text in texts):
                raise ValueError
            values = np.array([float(token) for own in tokens for token in own], np.float64)
        except ValueError:
            values, lengths = self._slowly(tokens, item)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = self._good(values, offsets, item)
        starts, counts = offsets[rows], lengths[rows]
        is_polygon = (counts != 5) & (counts != self.posed)
        self.keypoints += int((counts == self.posed).sum())
        self.image_of.extend(self.images + file_of[rows])
        self.classes.extend(values[starts])
        taken = np.where(is_polygon, counts - 1, 4)
        places = np.arange(taken.sum()) + np.repeat(starts + 1 - (np.cumsum(taken) - taken), taken)
        self.values.extend(values[places])
        self.lengths.extend(taken)
        self.is_polygon.extend(is_polygon)
        self.images += len(chunk)

    def _slowly(self, tokens: list[list[bytes]], item: Item) -> tuple[Floats, Rows]:
        """The numbers of all lines and their counts, where some are none: such lines are empty."""
        values, counts = [], []
        for row, own in enumerate(tokens):
            try:
                numbers = [_number(token) for token in own]
            except ValueError:
                shown = b" ".join(own)[:60].decode(errors="replace")
                what = f"is {shown!r}, not numbers with spaces between"
                self.report(item(row), what, DROPPED)
                numbers = []
            values += numbers
            counts.append(len(numbers))
        return np.array(values, np.float64), np.array(counts, np.int64)

    def _good(self, values: Floats, offsets: Rows, item: Item) -> Rows:
        """The lines that are objects; reports the others but empty ones."""
        rows = np.flatnonzero(np.diff(offsets))
        starts, counts = offsets[rows], np.diff(offsets)[rows]
        is_box = (counts == 5) | (counts == self.posed)
        formed = is_box | ((counts >= 7) & (counts % 2 == 1))
        classes = values[starts]
        known = (classes == np.floor(classes)) & (classes >= 0) & (classes < 1e9)
        if self.known is not None:
            known &= np.isin(classes, self.known)
        sizes = np.abs(values)
        sizes[starts] = 0
        largest = np.maximum.reduceat(sizes, starts) if len(rows) else sizes
        far = largest > FARTHEST
        negative, boxes = np.zeros(len(rows), bool), np.flatnonzero(is_box)
        negative[boxes] = (values[starts[boxes, None] + np.array([3, 4])] < 0).any(axis=1)
        checks: tuple[tuple[NDArray[np.bool_], Callable[[int], str]], ...] = (
            (~formed, lambda place: self._misformed(int(counts[place]))),
            (~known, lambda place: self._class(float(classes[place]))),
            (np.isnan(largest), lambda _: "has a number that is not finite"),
            (far, lambda place: f"has {largest[place]:g}, and fractions are within 0..1"),
            (negative, lambda _: "has a negative width or height"),
        )
        self.far += int((far & formed).sum())
        keep = np.ones(len(rows), bool)
        for bad, what in checks:
            for place in np.flatnonzero(keep & bad).tolist():
                self.report(item(int(rows[place])), what(place), DROPPED)
            keep &= ~bad
        return rows[keep]

    def _class(self, number: float) -> str:
        if self.numbers is None:
            return f"has class {number:g}, not a whole number from 0 on"
        first, last = min(self.numbers), max(self.numbers)
        return f"has class {number:g}, and the classes are {first} to {last}"

    def _misformed(self, count: int) -> str:
        what = f"has {count} numbers, not 5 (a box) or 7, 9, … (a polygon)"
        if count == 6:
            return f"{what}; a sixth is the confidence or track of a prediction"
        if count > 7 and not self.posed:
            return f"{what}; keypoints need kpt_shape in data.yaml"
        return what

    def finish(self) -> Labels:
        return Labels(
            usable=np.array(self.usable, bool),
            image_of=self.image_of.array(),
            classes=self.classes.array(),
            values=self.values.array(),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths.array())]),
            is_polygon=self.is_polygon.array(),
            far=self.far,
            keypoints=self.keypoints,
        )


def _number(token: bytes) -> float:
    if b"_" in token:  # Python reads 1_0 as 10
        raise ValueError
    return float(token)


def plain_text(content: bytes) -> bytes:
    """The text of a file in UTF-8, with \\n between lines."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell writes it
        content = content.decode("utf-16", "replace").encode("utf-8", "replace")
    text = content.removeprefix(b"\xef\xbb\xbf")
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
