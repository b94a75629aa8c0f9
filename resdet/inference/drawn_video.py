"""Videos of drawn frames, which can be played however the process ends."""

import logging
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from resdet.inference.targets import WRITTEN_VIDEO_SUFFIXES, is_drawing, mark_video
from resdet.inference.videos import is_utf8

log = logging.getLogger("resdet")

# MPEG-4 is in every OpenCV wheel, motion JPEG in OpenCV itself. Matroska, since players and OpenCV
# read it without the index that is written at the end; mp4 is lost without it.
CODECS = tuple(zip(("mp4v", "MJPG"), WRITTEN_VIDEO_SUFFIXES, strict=True))
LONGEST_GAP_S = 2.0
"""For which the last frame of a live source is repeated; of longer pauses the rest is cut out."""


class DrawnVideo:
    """Drawn frames as a video, in the first codec that works here."""

    def __init__(self, stem: Path, fps: float, size: tuple[int, int], *, keeps_time: bool) -> None:
        """`stem` is the path without suffix, `size` is (width, height) in pixels. With
        `keeps_time`, frames are repeated or left out so that each is shown at its time."""
        self.path: Path | None = None
        self._size, self._fps, self._keeps_time = size, fps, keeps_time
        self._written = 0
        """Frames, and those that were cut out."""
        # a path that is not UTF-8 crashes OpenCV
        for codec, suffix in CODECS if is_utf8(stem) else ():
            path = stem.with_name(stem.name + suffix)
            if is_drawing(path):
                path.unlink()
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
            if writer.isOpened():
                self._writer, self.path = writer, path
                return
        log.warning(
            "%s: no video can be written here; --draw all writes its frames as images", stem
        )

    def add(self, pixels: np.ndarray, time_s: float) -> None:
        """One frame (H, W, 3) uint8 RGB, and its time since the first one."""
        if self.path is None:
            return
        frame = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        # The writer silently drops frames of another size.
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        for _ in range(self._copies(time_s)):
            self._writer.write(frame)

    def _copies(self, time_s: float) -> int:
        if not self._keeps_time:
            return 1
        wanted = round(time_s * self._fps) + 1 - self._written
        self._written += max(0, wanted)
        return min(max(0, wanted), round(LONGEST_GAP_S * self._fps))

    def close(self) -> None:
        if self.path is not None:
            self._writer.release()
            with suppress(OSError):  # a full disk shows in the records
                mark_video(self.path)
