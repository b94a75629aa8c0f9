"""The tracks of CVAT for video 1.1: each frame is an image, each track has one shape per frame."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from resdet.data.detection.readers.shapes import Shape, ShapeTable
from resdet.data.detection.readers.xml_files import to_pixels
from resdet.data.detection.table import Source
from resdet.files.findings import DataError
from resdet.files.images import is_image
from resdet.files.json import whole_number
from resdet.files.walk import list_files

SIDES = ("height", "width")
RANGE = ("start_frame", "stop_frame")

STEP = re.compile(r"step=(\d{1,9})")

NUMBER = re.compile(r"(\d{1,9})\D*$")
"""The last number of a file's name without suffix."""

Parse = Callable[[str, Element, int], tuple[str, Shape] | None]
"""Takes the item, the element and the row of its image."""


def add_tracks(table: ShapeTable, source: Source, root: Element, parse: Parse) -> None:
    """Adds the frames of a video, and the shapes of its tracks that are not `outside`.

    Frame 7 is the image whose name ends with the number 7, as in CVAT's frame_000007.png; without
    an image folder it is called frame_000007. Frames of the task without a shape are images
    without objects.

    Raises:
        DataError: a track has only key frames, so that objects between them are unmarked.
    """
    shapes = [
        (track, element, frame)
        for track in root.iterfind("track")
        for element in track
        if (frame := whole_number(element.get("frame"))) is not None and frame >= 0
    ]
    names, frames = _frame_names(source), {frame for _, _, frame in shapes}
    first, last = (whole_number(root.findtext(f"meta//{key}")) for key in RANGE)
    if first is not None and last is not None:
        step = STEP.search(root.findtext("meta//frame_filter") or "")
        every = max(int(step[1]), 1) if step else 1
        inside = (frame for frame in names if first <= frame <= last)
        frames.update(frame for frame in inside if (frame - first) % every == 0)
    _check_gaps(source.path, shapes, np.array(sorted(frames)))
    height, width = (to_pixels(root.findtext(f"meta//original_size/{key}")) for key in SIDES)
    size = (int(height), int(width)) if height >= 1 and width >= 1 else (0, 0)
    row_of = {}
    for frame in sorted(frames):
        key = f"frame_{frame:06d}"
        row_of[frame] = table.add_image(key, names.get(frame, key), size)
    for track, element, frame in shapes:
        row = row_of[frame]
        if element.get("outside") == "1" or row is None:
            continue
        element.set("label", track.get("label") or "")
        parsed = parse(f"track {track.get('id')!s:.40}: frame {frame}", element, row)
        if parsed is not None:
            table.add_object(row, parsed[0], [parsed[1]])


def _frame_names(source: Source) -> dict[int, str]:
    """The images below the image folder by the number of their frame.

    Raises:
        DataError: two images have the same number.
    """
    names: dict[int, str] = {}
    for name in [] if source.images is None else list_files(source.images).files:
        found = NUMBER.search(name.rpartition(".")[0]) if is_image(name) else None
        if found is None:
            continue
        other = names.setdefault(int(found[1]), name)
        if other != name:
            raise DataError(
                f"{source.images}: {other} and {name} both end with the number of frame "
                f"{int(found[1])} of {source.path}; give a folder with the frames of one video"
            )
    return names


def _check_gaps(path: str, shapes: list[tuple[Element, Element, int]], known: Any) -> None:
    """DataError where a track is visible in one frame and has no shape in the next of the `known`
    frames, sorted, although it has one later."""
    tracks: dict[int, list[tuple[int, str | None]]] = {}
    for track, element, frame in shapes:
        tracks.setdefault(id(track), []).append((frame, element.get("outside")))
    gaps = 0
    for each in tracks.values():
        each.sort(key=lambda shape: shape[0])
        frames = np.searchsorted(known, [frame for frame, _ in each])
        seen = np.array([outside != "1" for _, outside in each])
        gaps += int(((np.diff(frames) > 1) & seen[:-1]).any())
    if gaps:
        raise DataError(
            f"{path}: {gaps} track(s) have shapes in their key frames only, and the frames between "
            "would count as empty; export the task again, as CVAT for images 1.1"
        )
