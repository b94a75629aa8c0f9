"""Drawn videos: at their times, marked, and readable after kill -9."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from resdet.inference.drawn_video import LONGEST_GAP_S, DrawnVideo
from resdet.inference.targets import is_drawing

SIZE = 64, 48


def gray(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), level, np.uint8)


def levels(path: Path) -> list[int]:
    """The brightness of each frame, in steps of 20."""
    capture, read = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = capture.read()
        if not good:
            return read
        read.append(round(float(frame.mean()) / 20))


def test_one_frame_each_and_a_mark(tmp_path: Path) -> None:
    video = DrawnVideo(tmp_path / "a", 10, SIZE, keeps_time=False)
    for number, time_s in enumerate([0, 0.1, 5, 5]):
        video.add(gray(20 * number + 20, (32, 24) if number == 2 else SIZE), time_s)
    assert not is_drawing(tmp_path / "a.mkv")
    video.close()
    assert levels(tmp_path / "a.mkv") == [1, 2, 3, 4]
    assert is_drawing(tmp_path / "a.mkv")
    capture = cv2.VideoCapture(str(tmp_path / "a.mkv"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and capture.get(cv2.CAP_PROP_FPS) == 10


def test_frames_of_a_live_source_are_shown_at_their_times(tmp_path: Path) -> None:
    video = DrawnVideo(tmp_path / "a", 10, SIZE, keeps_time=True)
    # one that comes late fills the time before it, one too many is left out, pauses are cut
    for number, time_s in enumerate([0, 0.3, 0.32, 0.41, 60, 60.1]):
        video.add(gray(20 * number + 20), time_s)
    video.close()
    gap = round(10 * LONGEST_GAP_S)
    assert levels(tmp_path / "a.mkv") == [1, 2, 2, 2, 4, *[5] * gap, 6]


def test_what_kill_9_leaves_can_be_read(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np; from pathlib import Path\n"
        "from resdet.inference.drawn_video import DrawnVideo\n"
        "noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)\n"
        "video = DrawnVideo(Path(sys.argv[1]), 25, (320, 240), keeps_time=False)\n"
        "for number in range(150): video.add(np.roll(noise, number, 1), 0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(words, env=environment).returncode == -9
    assert 25 < len(levels(tmp_path / "a.mkv")) <= 150
