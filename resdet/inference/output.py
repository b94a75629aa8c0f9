"""Drawn pictures, videos and the two JSON files of a prediction, written one by one."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from resdet.errors import UserError
from resdet.files.writing import open_atomic
from resdet.inference.sources import WRITTEN_VIDEO_SUFFIXES, Picture
from resdet.structures import Classification, Detections
from resdet.viz.draw import draw, draw_classification

log = logging.getLogger("resdet")

DETECTIONS, IMAGES = "detections.json", "images.json"
PREDICTIONS = "predictions.json"
"""A classifier's: what images.json has of an image, and its classes."""
JPEG_QUALITY = 92
Extend = Callable[[Iterable[dict[str, Any]]], None]
# MPEG-4 is in every OpenCV wheel, motion JPEG in OpenCV itself.
CODECS = tuple(zip(("mp4v", "MJPG"), WRITTEN_VIDEO_SUFFIXES, strict=True))


@contextmanager
def json_list(path: Path) -> Iterator[Extend]:
    """A JSON array on disk that grows by the records given to the function, and appears under its
    name when complete; after an error the file before it stays."""
    with open_atomic(path) as file:
        separator = "[\n"

        def extend(records: Iterable[dict[str, Any]]) -> None:
            nonlocal separator
            for record in records:
                file.write(separator + json.dumps(record, ensure_ascii=False))
                separator = ",\n"

        yield extend
        file.write("\n]\n" if separator == ",\n" else "[\n]\n")


class VideoFile:
    """Drawn frames as a video, in the first codec that works here."""

    def __init__(self, stem: Path, fps: float, size: tuple[int, int]) -> None:
        """`stem` is the path without suffix, `size` is (width, height) in pixels."""
        self.path: Path | None = None
        self._size = size
        for codec, suffix in CODECS:
            path = stem.with_name(stem.name + suffix)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
            if writer.isOpened():
                self._writer, self.path = writer, path
                return
        log.warning("%s: no video codec available; its frames are written as images", stem)

    def add(self, pixels: np.ndarray) -> None:
        """One frame (H, W, 3) uint8 RGB."""
        if self.path is None:
            return
        frame = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        # The writer silently drops frames of another size.
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(frame)

    def close(self) -> None:
        if self.path is not None:
            self._writer.release()


@dataclass
class Finished:
    """A picture that is drawn and saved, with what is written of it."""

    picture: Picture
    drawn: np.ndarray | None
    """(H, W, 3) uint8 RGB of a video frame; None for an image, which is saved already."""
    records: list[dict[str, Any]]
    """Those of detections.json."""
    entry: dict[str, Any]
    """The record of images.json or predictions.json."""


def finish(
    picture: Picture, image_id: int, prediction: Detections | Classification, out: Path
) -> Finished:
    """Draw, save the drawing below `out`, and encode the masks; safe to run in any thread."""
    source, frame = picture.source, picture.frame
    target = source.target if frame is None else source.target / f"frame_{frame:06d}.jpg"
    if isinstance(prediction, Detections):
        drawn = draw(picture.pixels, prediction)
    else:
        drawn = draw_classification(picture.pixels, prediction)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(target, quality=JPEG_QUALITY)
    except OSError as error:
        raise UserError(f"{target}: the drawing cannot be written ({error})") from error
    height, width = picture.pixels.shape[:2]
    entry = {
        "id": image_id,
        "file_name": source.name,
        "width": width,
        "height": height,
        "frame": frame,
        "source": str(source.path),
        "drawn": target.relative_to(out).as_posix(),
    }
    pixels = None if frame is None else np.asarray(drawn)
    if isinstance(prediction, Detections):
        return Finished(picture, pixels, prediction.to_coco(image_id), entry)
    return Finished(picture, pixels, [], {**entry, "classes": prediction.to_records()})


class Output:
    """The files of a prediction beside its pictures: records, and videos of drawn frames."""

    def __init__(self, extend_images: Extend, extend_detections: Extend | None) -> None:
        self.num_detections = 0
        self._extend_images, self._extend_detections = extend_images, extend_detections
        self._video: VideoFile | None = None
        self._video_source: Path | None = None

    def write(self, finished: Finished) -> None:
        """Add one picture's records; pictures come in order, the frames of a video in a row."""
        if self._extend_detections is not None:
            self._extend_detections(finished.records)
        self._extend_images([finished.entry])
        self.num_detections += len(finished.records)
        picture = finished.picture
        if picture.source.target != self._video_source:
            self.end_video()
        if finished.drawn is not None:
            if self._video is None:
                target, (height, width) = picture.source.target, finished.drawn.shape[:2]
                self._video = VideoFile(target, picture.fps, (width, height))
                self._video_source = target
            self._video.add(finished.drawn)

    def end_video(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = self._video_source = None


@contextmanager
def open_output(folder: Path, *, detects: bool) -> Iterator[Output]:
    """Completes its files below `folder` when all went well: detections.json and images.json of a
    model that `detects`, else predictions.json alone."""
    with ExitStack() as files:
        images = files.enter_context(json_list(folder / (IMAGES if detects else PREDICTIONS)))
        records = files.enter_context(json_list(folder / DETECTIONS)) if detects else None
        output = Output(images, records)
        files.callback(output.end_video)
        yield output


def former_drawings(folder: Path) -> set[Path]:
    """What earlier predictions drew into `folder`, by their JSON files; videos included."""
    return _drawn_by(folder, IMAGES) | _drawn_by(folder, PREDICTIONS)


def _drawn_by(folder: Path, records: str) -> set[Path]:
    try:
        entries = json.loads((folder / records).read_text(encoding="utf-8"))
        drawn = {(folder / entry["drawn"]).resolve() for entry in entries}
        frames = {
            (folder / entry["drawn"]).resolve().parent
            for entry in entries
            if entry["frame"] is not None
        }
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    videos = {path.with_name(path.name + end) for path in frames for end in WRITTEN_VIDEO_SUFFIXES}
    return drawn | frames | videos
