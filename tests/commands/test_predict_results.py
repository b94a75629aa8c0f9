"""Formats, tracks and drawings of the predict command, and inputs from a server and a camera."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import resdet
from resdet.data.detection.annotated import read_images
from resdet.errors import UserError
from resdet.inference import live
from resdet.models.rcnn import RCNN
from resdet.structures import Detections
from tests.commands.predicting import run
from tests.models.tiny_detector import make_detector, write_checkpoint

SIZE = 96, 64
"""Width and height of frames in pixels."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder / "best.pt", make_detector())
    return folder


@pytest.fixture
def walkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that sees two cells: one walks right, one left; it is given frames in order."""
    seen = iter(range(1000))

    def predict(
        self: RCNN, images: Any, sizes: Any, score_thresh: float | None = None
    ) -> list[Detections]:
        found = []
        for height, width in sizes:
            shift = 3.0 * next(seen)
            boxes = [[10 + shift, 8, 26 + shift, 24], [70 - shift, 40, 86 - shift, 56]]
            scores = torch.tensor([0.9, 0.2 if shift == 6 else 0.8])
            probs = torch.ones(2, 28, 28)
            probs[:, 8:20, 8:20] = 0
            all_boxes = Detections(
                torch.tensor(boxes),
                scores,
                torch.tensor([0, 1]),
                (height, width),
                probs,
                self.class_names,
                self.category_ids,
            )
            found.append(all_boxes[scores > (score_thresh or 0)])
        return found

    monkeypatch.setattr(RCNN, "predict_prepared", predict)


def write_video(path: Path, count: int = 5) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    for number in range(count):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 20 * number, np.uint8))
    writer.release()
    return path


def save(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 40)).save(path)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("walkers")
def test_tracks_and_formats_of_a_video(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    formats = ("coco", "csv", "jsonl", "labelme", "yolo")
    clip = write_video(tmp_path / "clip.avi")
    assert run(trained, [clip], out, tracks=True, formats=formats, draws="video") == 0
    records = json.loads((out / "detections.json").read_text())
    # in the third frame the low score continues its track
    assert [record["track_id"] for record in records] == [1, 2] * 5
    entries = json.loads((out / "images.json").read_text())
    assert [entry["time_s"] for entry in entries] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert {entry["drawn"] for entry in entries} == {None}
    rows = lines(out / "detections.jsonl")
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
    assert [each["class_name"] for each in rows[2]["detections"]] == ["cell", "dirt"]
    assert rows[2]["detections"][1]["score"] == pytest.approx(0.2)
    cells = table(out / "detections.csv")
    assert [(row["frame"], row["class"], row["track_id"]) for row in cells[2:4]] == [
        *(("1", "cell", "1"), ("1", "dirt", "2"))
    ]
    assert float(cells[2]["x1"]) == 13 and cells[2]["category_id"] == "7"
    capture = cv2.VideoCapture(str(out / "clip.mkv"))
    drawn = [capture.read()[1] for _ in range(5)]
    assert all(np.ptp(frame.max(axis=2)) > 100 for frame in drawn)  # in place of gray
    assert not (out / "clip").exists()
    # annotations lie beside their frames, and training reads them
    for folder, given in (("labelme", ""), ("yolo", "data.yaml")):
        place = out / folder
        read = read_images(str(place), str(place / given), key="data.train").table
        assert len(read.image_ids) == 5 and len(read.labels) == 10 and read.has_masks
        boxes = read.boxes_xywh[read.image_of == 1]
        np.testing.assert_allclose(boxes, [[13, 8, 16, 16], [67, 40, 16, 16]], atol=0.51)
        picture = next(place.rglob("frame_000001.jpg"))
        assert np.asarray(Image.open(picture)).mean() == pytest.approx(20, abs=3)
    shape = json.loads((out / "labelme/clip/frame_000001.json").read_text())["shapes"][1]
    assert (shape["label"], shape["group_id"], shape["shape_type"]) == ("dirt", 2, "polygon")


@pytest.mark.usefixtures("walkers")
def test_annotations_lead_to_their_images_and_are_kept(trained: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    for name in ("a.png", "a.jpg", "sub/b.png"):
        save(folder / name)
    assert run(trained, [folder], out, formats=("yolo", "labelme"), draws="none") == 0
    assert not list(out.glob("*.png")) and not (out / "detections.json").exists()
    assert len(json.loads((out / "images.json").read_text())) == 3
    listed = (out / "yolo/train.txt").read_text().split()
    assert listed == ["./images/a.jpg", "./images/a-2.png", "./images/sub/b.png"]
    for name in listed:
        assert (out / "yolo" / name).resolve().is_relative_to(folder)
        assert (out / "yolo" / name.replace("images", "labels")).with_suffix(".txt").is_file()
    assert '  0: "cell"\n' in (out / "yolo/data.yaml").read_text()
    for path in (out / "labelme").rglob("*.json"):
        record = json.loads(path.read_text())
        assert (path.parent / record["imagePath"]).resolve().is_relative_to(folder)
        assert record["imageWidth"] == SIZE[0] and len(record["shapes"]) >= 1
    before = (out / "labelme/a.json").read_bytes()
    for name in ("yolo", "labelme"):
        with pytest.raises(UserError, match=f"{name}: holds annotations that may have been"):
            run(trained, [folder], out, formats=(name,))
    assert (out / "labelme/a.json").read_bytes() == before


def test_csv_and_json_lines_of_images(trained: Path, tmp_path: Path) -> None:
    """One image has nothing above the threshold; the table is read as annotations."""
    images = [save(tmp_path / "=a.png"), save(tmp_path / "b.png")]
    out = tmp_path / "out"
    assert run(trained, images, out, formats=("csv", "jsonl"), score_thresh=0.0) == 0
    found = {row["file_name"]: row["detections"] for row in lines(out / "detections.jsonl")}
    model = resdet.load(trained, device="cpu")
    assert isinstance(model, RCNN)
    expected = model.predict(images[1], score_thresh=0.0)
    assert isinstance(expected, Detections)
    assert [each["bbox"] for each in found["b.png"]] == [
        record["bbox"] for record in expected.to_coco(2)
    ]
    rows = table(out / "detections.csv")
    assert {row["image"] for row in rows} == {"'=a.png", "b.png"}  # no formula for spreadsheets
    read = read_images(str(tmp_path), str(out / "detections.csv")).table
    assert (np.array(list(read.file_names))[read.image_of] == "b.png").sum() == len(found["b.png"])
    # results of a second prediction replace those of the first
    assert run(trained, images[1:], out, formats=("csv", "jsonl"), score_thresh=1.0) == 0
    assert [row["image"] for row in table(out / "detections.csv")] == ["b.png"]
    assert table(out / "detections.csv")[0]["x1"] == ""
    assert [row["detections"] for row in lines(out / "detections.jsonl")] == [[]]


def test_results_of_others_are_kept(trained: Path, tmp_path: Path) -> None:
    image, out = save(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    for format, name, content in (
        ("csv", "detections.csv", "image,x\n"),
        ("jsonl", "detections.jsonl", '{"mine": 1}\n'),
        ("jsonl", "detections.jsonl", "text\n"),
    ):
        (out / name).write_text(content)
        with pytest.raises(UserError, match=f"{name}: is not a file that predict wrote"):
            run(trained, [image], out, formats=(format,))
        assert (out / name).read_text() == content
    for format, problem in (("cocoo", "did you mean coco?"), ("xml", "the formats are coco, csv")):
        with pytest.raises(UserError, match=f"--format {format}: .*{problem}"):
            run(trained, [image], tmp_path / "none", formats=(format,))


@pytest.mark.usefixtures("walkers")
def test_images_of_a_folder_are_tracked(trained: Path, tmp_path: Path) -> None:
    for name in ("one/1.png", "one/2.png", "two/1.png"):
        save(tmp_path / "in" / name)
    out = tmp_path / "out"
    assert run(trained, [tmp_path / "in"], out, tracks=True) == 0
    records = json.loads((out / "detections.json").read_text())
    # ids start again in the next folder, where the low score starts no track
    assert [(r["image_id"], r["track_id"]) for r in records] == [
        *((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))
    ]


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of the folder web/."""
    (tmp_path / "web").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    service = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=service.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}"
    service.shutdown()
    thread.join()
    service.server_close()


def test_images_and_videos_of_a_server(
    trained: Path, tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    web, out = tmp_path / "web", tmp_path / "out"
    image = save(web / "a b.png")
    write_video(web / "clip.avi", 3)
    inputs = [f"{address}/a%20b.png", f"{address}/clip.avi", f"{address}/none.png"]
    assert run(trained, inputs, out, formats=("yolo",)) == 1
    assert f"{address}/none.png: cannot be read (HTTP 404" in caplog.text
    assert "1 of 3 inputs could not be read" in caplog.text
    entries = json.loads((out / "images.json").read_text())
    assert [entry["source"] for entry in entries] == inputs[:1] + inputs[1:2] * 3
    assert [entry["drawn"] for entry in entries][:2] == ["a b.png", "clip/frame_000000.jpg"]
    assert {path.name for path in (out / "yolo/images").iterdir()} == {"a b.jpg", "clip"}
    assert not list(out.glob(".*"))
    model = resdet.load(trained, device="cpu")
    here, there = (model.predict(each, score_thresh=0.0) for each in (image, inputs[0]))
    assert isinstance(here, Detections) and isinstance(there, Detections)
    torch.testing.assert_close(here.boxes, there.boxes)


class Camera:
    """Gives frames as fast as they are asked for; after `count` the user presses Ctrl-C."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, *args: Any) -> Camera:
        return self

    def get(self, key: int) -> float:
        return 10.0

    def read(self) -> tuple[bool, np.ndarray]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.002)
        return True, np.zeros((SIZE[1], SIZE[0], 3), np.uint8)

    def release(self) -> None: ...


def test_ctrl_c_ends_a_camera_with_whole_files(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resdet")
    monkeypatch.setattr(live.cv2, "VideoCapture", Camera(60))
    out = tmp_path / "out"
    assert run(trained, ["webcam:0"], out, formats=("jsonl",), draws="video", tracks=True) == 0
    monkeypatch.undo()
    rows = lines(out / "detections.jsonl")
    numbers = [row["frame"] for row in rows]
    assert numbers == sorted(set(numbers)) and len(rows) >= 1
    assert len(json.loads((out / "images.json").read_text())) == len(rows)
    assert f"webcam:0: {len(rows)} of " in caplog.text
    capture = cv2.VideoCapture(str(out / "webcam-0.mkv"))
    count = 0
    while capture.read()[0]:
        count += 1
    # at 10 frames per second, as long as it took but for pauses
    assert 1 <= count <= round(10 * rows[-1]["time_s"]) + 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
