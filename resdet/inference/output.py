"""Drawn pictures, videos and the results of a prediction, written as they come."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from resdet.errors import UserError
from resdet.files.georeference import read_georeference
from resdet.files.writing import WriteError, is_full
from resdet.inference.drawn_video import DrawnVideo
from resdet.inference.formats import open_results
from resdet.inference.geojson import write_geojson
from resdet.inference.pictures import Picture
from resdet.inference.results import Page, ResultFile
from resdet.inference.targets import save_drawing
from resdet.structures import Classification, Detections
from resdet.viz.draw import draw, draw_classification
from resdet.viz.overview import draw_windows

NOT_WRITTEN = "results cannot be written"

Drawing = Literal["all", "video", "none"]
"""What is drawn: images and each frame of videos, and videos; videos alone of videos; nothing."""
DRAWINGS: tuple[str, ...] = get_args(Drawing)


@dataclass
class Finished:
    """A picture that is drawn and saved, with what is written of it."""

    picture: Picture
    drawn: np.ndarray | None
    """(H, W, 3) uint8 RGB of a video frame; None for an image, which is saved already."""
    pieces: list[Any]
    """What each file of results gets."""
    num_detections: int
    problem: str | None
    """Why there is no drawing."""


def finish(
    picture: Picture,
    image_id: int | str | None,
    prediction: Detections | Classification,
    out: Path,
    results: Sequence[ResultFile],
    draws: Drawing = "all",
) -> Finished:
    """Draw, save the drawing below `out`, and encode the results; safe to run in any thread.

    Without `image_id` there are no records in detections.json. Raises WriteError if the disk is
    full.
    """
    source, frame = picture.source, picture.frame
    target = source.target if frame is None else source.target / f"frame_{frame:06d}.jpg"
    is_saved = draws == "all" or (draws == "video" and frame is None)
    drawn = None if draws == "none" else _drawn(picture, prediction)
    problem = None
    if drawn is not None and is_saved:
        problem = _save(drawn, target)
    height, width = picture.size
    entry: dict[str, Any] = {
        "id": image_id,
        "file_name": source.name,
        "width": width,
        "height": height,
        "frame": frame,
        "time_s": None if picture.time_s is None else round(picture.time_s, 6),
        "source": source.shown,
        "drawn": target.relative_to(out).as_posix() if is_saved and not problem else None,
    }
    if isinstance(prediction, Detections) and frame is None:
        try:
            entry |= _georeferenced(picture, prediction, out)
        except UserError as error:
            if isinstance(error, WriteError):
                raise
            problem = problem or str(error)
    page = Page(picture, prediction, entry)
    pieces = [result.encode(page) for result in results]
    pixels = None if frame is None or drawn is None else np.asarray(drawn)
    count = len(prediction) if isinstance(prediction, Detections) else 0
    return Finished(picture, pixels, pieces, count, problem)


def _georeferenced(picture: Picture, detections: Detections, out: Path) -> dict[str, Any]:
    """Write the detections of a GeoTIFF file as GeoJSON beside its drawing; what the records of
    images say of it."""
    place = None if picture.source.path is None else read_georeference(picture.source.path)
    if place is None:
        return {}
    path = picture.source.target.with_suffix(".geojson")
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _save(drawn: Image.Image, target: Path) -> str | None:
    """Save a drawing; why it could not be. Raises WriteError if the disk is full."""
    try:
        save_drawing(drawn, target)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_full(error):
            raise WriteError(target, error) from error
        return f"{target}: the drawing cannot be written: {error}; give another --out"
    return None


class Output:
    """The files of a prediction beside its pictures: results, and videos of drawn frames.

    The files of results begin with the first picture, or at the end where there is none: until then
    those of an earlier prediction stay.
    """

    def __init__(self, folder: Path, formats: Sequence[str] | None, *, detects: bool) -> None:
        """As `open_results`; UserError where other programs' files have the names of results."""
        self.folder = folder
        self.results = open_results(folder, formats, detects=detects)
        self.num_pictures = self.num_detections = 0
        self._num_open = 0
        self._video: DrawnVideo | None = None
        self._video_source: Path | None = None

    def write(self, finished: Finished) -> None:
        """Add one picture's results; pictures come in order, the frames of a video in a row.

        WriteError where the disk refuses; the results of the pictures before are complete.
        """
        try:
            self._open()
            for result, piece in zip(self.results, finished.pieces, strict=True):
                result.add(piece)
        except WriteError:
            raise
        except OSError as error:
            raise WriteError(self.folder, error, what=NOT_WRITTEN) from error
        self.num_pictures += 1
        self.num_detections += finished.num_detections
        self._add_frame(finished)

    def _add_frame(self, finished: Finished) -> None:
        """A frame of a video into the drawn video; whatever comes after a video completes it."""
        picture, drawn = finished.picture, finished.drawn
        if picture.source.target != self._video_source:
            self._end_video()
        if drawn is None:
            return
        if self._video is None:
            target, size = picture.source.target, (drawn.shape[1], drawn.shape[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            keeps_time = picture.source.is_live
            self._video = DrawnVideo(target, picture.fps, size, keeps_time=keeps_time)
            self._video_source = target
        self._video.add(drawn, picture.time_s or 0.0)

    def _open(self) -> None:
        while self._num_open < len(self.results):
            self.results[self._num_open].open()
            self._num_open += 1

    def end(self) -> None:
        """Make empty files where nothing could be predicted; WriteError as `write`."""
        try:
            self._open()
        except OSError as error:
            raise WriteError(self.folder, error, what=NOT_WRITTEN) from error

    def close(self) -> None:
        """Complete the video and close the files, also after an error."""
        self._end_video()
        for result in self.results[: self._num_open]:
            result.close()

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = self._video_source = None
