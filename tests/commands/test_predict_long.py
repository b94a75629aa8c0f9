"""A video of 10,000 frames in a process of its own: flat memory, drawn ids, and files that can be
read after kill -9."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from resdet.config.loading import config_from_dict
from resdet.factory import build_model
from resdet.files.records import read_records
from tests.models.tiny_detector import VALUES, write_checkpoint

pytestmark = pytest.mark.slow

FRAMES, WARM = 10_000, 500
MOST_MB = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/ with a tiny detector, and clip.avi."""
    folder = tmp_path_factory.mktemp("long")
    values = VALUES | {"data": {"test_resize": {"short_edge": 32, "max_size": 64}}}
    values["model"] = VALUES["model"] | {
        "detections_per_image": 4,
        "rpn": {"post_nms_topk_test": 12, "pre_nms_topk_test": 12},
    }
    config = config_from_dict(values, "the test")
    model = build_model(config, class_names=["cell", "dirt"], category_ids=[7, 30]).eval()
    write_checkpoint(folder / "run" / "best.pt", model)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(folder / "clip.avi"), codec, 25, (96, 64))
    noise = np.random.default_rng(0).integers(0, 80, (64, 192, 3), np.uint8)
    for number in range(FRAMES):
        frame = noise[:, number % 96 :][:, :96].copy()
        at = number % 70
        frame[20:44, at : at + 24] = 250
        writer.write(frame)
    writer.release()
    return folder


def start(folder: Path, out: str) -> subprocess.Popen[bytes]:
    words = ["predict", "run", "clip.avi", "--track", "--format", "coco,csv,jsonl"]
    words += ["--draw", "video", "--score-thresh", "0", "--out", out, "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "resdet", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
    )


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Resident memory now, without the pages of libraries: a process that ends visits more of
    them."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


class Lines:
    """Counts the lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.place, self.count = path, 0, 0

    def update(self) -> int:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.place)
                added = file.read()
            self.place += len(added)
            self.count += added.count(b"\n")
        return self.count


def frames_of(path: Path) -> tuple[int, int]:
    """How many frames a video has, and in how many something is drawn in colour."""
    capture = cv2.VideoCapture(str(path))
    count = colored = 0
    while True:
        good, frame = capture.read()
        if not good:
            return count, colored
        count += 1
        colored += int(np.ptp(frame.astype(int), axis=2).max() > 90)


def test_memory_is_flat_and_every_frame_is_drawn(folder: Path) -> None:
    process = start(folder, "all")
    lines, samples = Lines(folder / "all" / "detections.jsonl"), []
    while process.poll() is None:
        done = lines.update()
        if done >= WARM:
            try:
                samples.append((done, memory_mb(process)))
            except (OSError, IndexError):  # it has just ended
                break
        time.sleep(0.25)
    assert process.wait() == 0
    assert lines.update() == FRAMES
    used = [mb for _, mb in samples]
    print(f"memory after {samples[0][0]} frames {used[0]:.0f} MB, then {min(used):.0f} to ", end="")
    print(f"{max(used):.0f} MB, at the end {used[-1]:.0f} MB")
    assert max(used) - used[0] < MOST_MB and used[0] - min(used) < MOST_MB
    count, colored = frames_of(folder / "all" / "clip.mkv")
    assert count == FRAMES and colored > 0.99 * FRAMES
    records = json.loads((folder / "all" / "detections.json").read_text())
    ids = {record["track_id"] for record in records}
    assert len(records) >= FRAMES and len(ids) < len(records)
    assert len(json.loads((folder / "all" / "images.json").read_text())) == FRAMES


def test_what_kill_9_leaves_can_be_read(folder: Path) -> None:
    process = start(folder, "killed")
    out = folder / "killed"
    lines = Lines(out / "detections.jsonl")
    while lines.update() < FRAMES // 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    count, colored = frames_of(out / "clip.mkv")
    print(f"{lines.update()} frames were predicted, {count} can be read from the video")
    assert lines.count - 400 < count <= lines.count + 1 and colored > 0.99 * count
    rows = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(len(rows)))
    with (out / "detections.csv").open(newline="") as file:
        assert {row["frame"] for row in csv.DictReader(file)} >= {str(len(rows) - 2)}
    for name in ("detections.json", "images.json"):
        records = read_records(out / name, "results")
        last = records[-1]["image_id" if name[0] == "d" else "id"]
        assert len(rows) - 2 <= last <= len(rows) + 1
