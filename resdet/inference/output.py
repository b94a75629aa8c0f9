"""Drawn pictures, videos and the records of a prediction, written as they come."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from resdet.errors import UserError
from resdet.files.georeference import read_georeference
from resdet.files.records import RecordFile, holds_records
from resdet.files.writing import WriteError, is_full
from resdet.inference.geojson import write_geojson
from resdet.inference.pictures import Picture, is_utf8
from resdet.inference.targets import (
    DETECTIONS,
    IMAGES,
    PREDICTIONS,
    RECORD_KEYS,
    WRITTEN_VIDEO_SUFFIXES,
    is_drawing,
    mark_video,
    save_drawing,
)
from resdet.structures import Classification, Detections
from resdet.viz.draw import draw, draw_classification
from resdet.viz.overview import draw_windows

log = logging.getLogger("resdet")

NOT_WRITTEN = "results cannot be written"
# MPEG-4 is in every OpenCV wheel, motion JPEG in OpenCV itself.
CODECS = tuple(zip(("mp4v", "MJPG"), WRITTEN_VIDEO_SUFFIXES, strict=True))


class VideoFile:
    """Drawn frames as a video, in the first codec that works here."""

    def __init__(self, stem: Path, fps: float, size: tuple[int, int]) -> None:
        """`stem` is the path without suffix, `size` is (width, height) in pixels."""
        self.path: Path | None = None
        self._size = size
        # a path that is not UTF-8 crashes OpenCV
        for codec, suffix in CODECS if is_utf8(stem) else ():
            path = stem.with_name(stem.name + suffix)
            if is_drawing(path):
                path.unlink()
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
            if writer.isOpened():
                self._writer, self.path = writer, path
                return
        log.warning("%s: no video can be written here; its frames are written as images", stem)

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
            with suppress(OSError):  # a full disk shows in the records
                mark_video(self.path)


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
    problem: str | None
    """Why there is no drawing."""


def finish(
    picture: Picture,
    image_id: int | str | None,
    prediction: Detections | Classification,
    out: Path,
) -> Finished:
    """Draw, save the drawing below `out`, and encode the masks; safe to run in any thread.

    Without `image_id` there are no records. Raises WriteError if the disk is full.
    """
    source, frame = picture.source, picture.frame
    target = source.target if frame is None else source.target / f"frame_{frame:06d}.jpg"
    drawn = _drawn(picture, prediction)
    problem = None
    try:
        save_drawing(drawn, target)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_full(error):
            raise WriteError(target, error) from error
        problem = f"{target}: the drawing cannot be written: {error}; give another --out"
    height, width = picture.size
    entry: dict[str, Any] = {
        "id": image_id,
        "file_name": source.name,
        "width": width,
        "height": height,
        "frame": frame,
        "source": str(source.path),
        "drawn": None if problem else target.relative_to(out).as_posix(),
    }
    pixels = None if frame is None else np.asarray(drawn)
    if isinstance(prediction, Detections) and frame is None:
        try:
            entry |= _georeferenced(picture, prediction, out)
        except UserError as error:
            if isinstance(error, WriteError):
                raise
            problem = problem or str(error)
    if isinstance(prediction, Detections):
        records = [] if image_id is None else prediction.to_coco(image_id)
        return Finished(picture, pixels, records, entry, problem)
    entry["classes"] = prediction.to_records()
    return Finished(picture, pixels, [], entry, problem)


def _georeferenced(picture: Picture, detections: Detections, out: Path) -> dict[str, Any]:
    """Write the detections of a GeoTIFF file as GeoJSON beside its drawing; what the records of
    images say of it."""
    place = read_georeference(picture.source.path)
    if place is None:
        return {}
    path = picture.source.target.with_suffix(".geojson")
    write_geojson(detections, place, picture.source.name, path)
    written = path.relative_to(out).as_posix()
    return {"geojson": written, "crs": place.crs, "transform": list(place.transform)}


def _drawn(picture: Picture, prediction: Detections | Classification) -> Image.Image:
    if picture.pixels is None:
        assert picture.windows is not None and isinstance(prediction, Detections)
        return draw_windows(picture.windows, prediction)
    if isinstance(prediction, Detections):
        return draw(picture.pixels, prediction)
    return draw_classification(picture.pixels, prediction)


class Output:
    """The files of a prediction beside its pictures: records, and videos of drawn frames.

    The files of records begin with the first picture, or at the end where there is none: until then
    those of an earlier prediction stay.
    """

    def __init__(self, folder: Path, *, detects: bool) -> None:
        """Of a model that `detects`, detections.json and images.json, else predictions.json.

        UserError where other programs' files have these names.
        """
        self.folder = folder
        self.num_pictures = self.num_detections = 0
        self._names = [DETECTIONS, IMAGES] if detects else [PREDICTIONS]
        self._files: dict[str, RecordFile] = {}
        self._video: VideoFile | None = None
        self._video_source: Path | None = None
        for path in (folder / name for name in self._names):
            if os.path.lexists(path) and not holds_records(path, RECORD_KEYS[path.name]):
                raise UserError(
                    f"{path}: is not a file that predict wrote, and would be replaced; move it, or "
                    "give another --out"
                )

    def write(self, finished: Finished) -> None:
        """Add one picture's records; pictures come in order, the frames of a video in a row.

        WriteError where the disk refuses; the records of the pictures before are complete.
        """
        try:
            self._open()
            if DETECTIONS in self._files:
                self._files[DETECTIONS].extend(finished.records)
            # last: what this one lists is complete
            self._files[self._names[-1]].extend([finished.entry])
        except OSError as error:
            raise WriteError(self.folder, error, what=NOT_WRITTEN) from error
        self.num_pictures += 1
        self.num_detections += len(finished.records)
        picture = finished.picture
        if picture.source.target != self._video_source:
            self._end_video()
        if finished.drawn is not None:
            if self._video is None:
                target, (height, width) = picture.source.target, finished.drawn.shape[:2]
                self._video = VideoFile(target, picture.fps, (width, height))
                self._video_source = target
            self._video.add(finished.drawn)

    def _open(self) -> None:
        for name in self._names:
            if name not in self._files:
                self._files[name] = RecordFile(self.folder / name)

    def end(self) -> None:
        """Make empty files where nothing could be predicted; WriteError as `write`."""
        try:
            self._open()
        except OSError as error:
            raise WriteError(self.folder, error, what=NOT_WRITTEN) from error

    def close(self) -> None:
        """Complete the video and close the files, also after an error."""
        self._end_video()
        for file in self._files.values():
            file.close()

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = self._video_source = None
