"""load() and the predict command, on real files from disk to disk."""

from __future__ import annotations

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from resdet.errors import UserError
from resdet.files.checkpoint import save
from resdet.inference.loading import load
from resdet.inference.pictures import run_ahead
from resdet.inference.sources import list_sources
from resdet.models.rcnn import RCNN
from resdet.structures import Detections
from tests.commands.predicting import read, run
from tests.models.tiny_detector import write_checkpoint


@pytest.fixture
def images(tmp_path: Path, nuclei: Path) -> Path:
    """A folder with a subfolder, two files of one stem, a text file and a hidden one."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    paths = sorted((nuclei / "images").iterdir())[:3]
    shutil.copy(paths[0], folder / "b.png")
    Image.open(paths[1]).convert("RGB").save(folder / "a.jpg")
    Image.open(paths[1]).convert("RGB").save(folder / "a.webp")
    shutil.copy(paths[2], folder / "sub" / "b.png")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture
def video(tmp_path: Path, nuclei: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    assert writer.isOpened()
    image = cv2.imread(str(sorted((nuclei / "images").iterdir())[0]))
    for shift in range(5):
        writer.write(np.ascontiguousarray(image[shift : shift + 96, :128]))
    writer.release()
    return path


def test_load_gives_the_model_back(run_folder: Path, model: RCNN, nuclei: Path) -> None:
    path = sorted((nuclei / "images").iterdir())[0]
    loaded = load(run_folder, device="cpu")
    assert not loaded.training
    assert (loaded.class_names, loaded.category_ids) == (["cell", "dirt"], [7, 30])
    assert loaded.config == model.config
    a, b = model.predict(path), loaded.predict(path)
    assert isinstance(a, Detections) and isinstance(b, Detections)
    torch.testing.assert_close(a.boxes, b.boxes)
    assert load(run_folder / "best.pt", device="cpu").num_classes == 2


def test_load_takes_averaged_weights(tmp_path: Path, model: RCNN) -> None:
    ema = {key: value + 1 for key, value in model.state_dict().items()}
    path = tmp_path / "last.pt"
    write_checkpoint(path, model, ema=ema)
    save(path, torch.load(path))  # as the engine writes it
    loaded = load(tmp_path, device="cpu").state_dict()
    assert all(torch.equal(loaded[key], ema[key]) for key in ema)


def test_load_refuses_what_it_cannot_read(tmp_path: Path, model: RCNN) -> None:
    torch.save(model.state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="without a config and class names"):
        load(tmp_path / "w.pt", device="cpu")
    write_checkpoint(tmp_path / "best.pt", model, class_names=["one"], category_ids=[1])
    with pytest.raises(UserError, match="does not fit the model"):
        load(tmp_path, device="cpu")
    with pytest.raises(UserError, match="leave out source='detectron2'"):
        load(tmp_path, source="detectron2")


def test_a_folder_is_drawn_and_written(
    run_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO, "resdet"):
        assert run(run_folder, [images], out, score_thresh=0.0, batch_size=3) == 0
    detections, entries = read(out)
    names = [entry["file_name"] for entry in entries]
    assert names == ["a.jpg", "a.webp", "b.png", "sub/b.png"]
    assert [entry["id"] for entry in entries] == [1, 2, 3, 4]
    assert [entry["drawn"] for entry in entries] == ["a.jpg", "a-2.jpg", "b.png", "sub/b.png"]
    for entry in entries:
        assert Image.open(out / entry["drawn"]).size == (entry["width"], entry["height"])
        assert entry["frame"] is None and Path(entry["source"]).is_file()
    assert {record["category_id"] for record in detections} <= {7, 30}
    assert {record["image_id"] for record in detections} == {1, 2, 3, 4}
    assert detections[0]["segmentation"]["size"] == [256, 256]
    assert "1 files are neither image nor video and were skipped (notes.txt)" in caplog.text
    assert not list(out.rglob("*.tmp"))


def test_records_are_those_of_predict(
    run_folder: Path, images: Path, tmp_path: Path, model: RCNN
) -> None:
    run(run_folder, [images / "b.png"], tmp_path / "out", score_thresh=0.3)
    found = model.predict(images / "b.png", score_thresh=0.3)
    assert isinstance(found, Detections)
    assert read(tmp_path / "out")[0] == found.to_coco(1)


def test_a_broken_image_is_named_and_the_rest_is_done(
    run_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "aa.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "void.png").write_bytes(b"")
    assert run(run_folder, [images], tmp_path / "out", score_thresh=0.0) == 1
    assert "aa.jpg" in caplog.text and "void.png" in caplog.text
    assert "2 of 6 inputs could not be read" in caplog.text
    entries = read(tmp_path / "out")[1]
    assert [entry["id"] for entry in entries] == [1, 2, 3, 4]


def test_a_video_gives_frames_and_a_video(run_folder: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(run_folder, [video, video], out, score_thresh=0.0, batch_size=2) == 0
    detections, entries = read(out)
    assert [entry["frame"] for entry in entries] == [0, 1, 2, 3, 4] * 2
    assert entries[4]["drawn"] == "clip/frame_000004.jpg"
    assert entries[5]["drawn"] == "clip-2/frame_000000.jpg"
    assert len({record["image_id"] for record in detections}) == 10
    for stem in ("clip", "clip-2"):
        (drawn,) = [path for path in out.glob(f"{stem}.*") if path.suffix in (".mkv", ".avi")]
        capture = cv2.VideoCapture(str(drawn))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 5
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
        assert capture.read()[1].shape == (96, 128, 3)


def test_a_broken_video_is_a_failure(run_folder: Path, images: Path, tmp_path: Path) -> None:
    (images / "film.mp4").write_bytes(b"no film")
    assert run(run_folder, [images], tmp_path / "out") == 1
    assert len(read(tmp_path / "out")[1]) == 4


@pytest.mark.parametrize("codec", ["MJPG", "mp4v"])
def test_a_video_that_is_cut_short_is_a_failure_after_its_frames(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / ("clip.avi" if codec == "MJPG" else "clip.mkv")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for shift in range(12):
        writer.write(np.roll(image, shift, 1))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    Image.fromarray(image).save(folder / "z.png")
    assert run(run_folder, [folder], tmp_path / "out", score_thresh=0.0) == 1
    frames = [entry["frame"] for entry in read(tmp_path / "out")[1]]
    assert 2 < len(frames) < 12 and frames == [*range(len(frames) - 1), None]
    assert f"ends after {len(frames) - 1} of 12 frames, which are done" in caplog.text
    assert "1 of 2 inputs could not be read" in caplog.text


def test_pictures_of_formats_that_are_not_read_are_failures(
    run_folder: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a folder too; one that Pillow reads is predicted, notes are passed over."""
    (images / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (images / "drawing.svg").write_text("<svg/>")
    Image.new("RGB", (40, 30)).save(images / "old.tga")
    assert run(run_folder, [images], tmp_path / "out") == 1
    names = [entry["file_name"] for entry in read(tmp_path / "out")[1]]
    assert names == ["a.jpg", "a.webp", "b.png", "old.tga", "sub/b.png"]
    assert "IMG_1.HEIC" in caplog.text and "drawing.svg" in caplog.text
    assert "2 of 7 inputs could not be read" in caplog.text


def test_names_of_videos_that_are_not_utf8(
    run_folder: Path, video: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenCV takes none: the others are done, and a folder of that name gets the frames alone."""
    odd = images / os.fsdecode(b"clip\xff.avi")
    shutil.copy(video, odd)
    out = images.parent / os.fsdecode(b"out\xff")
    assert run(run_folder, [images, video], out, score_thresh=0.0) == 1
    assert len(read(out)[1]) == 4 + 5
    assert "the name of a video has to be UTF-8" in caplog.text
    assert "1 of 6 inputs could not be read" in caplog.text
    assert len(list((out / "clip").glob("frame_*.jpg"))) == 5


def test_sources_are_never_overwritten(run_folder: Path, images: Path, video: Path) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    shutil.move(video, images / "clip.avi")
    before[images / "clip.avi"] = (images / "clip.avi").read_bytes()
    for _ in range(2):  # the second time its own drawings are neither inputs nor in the way
        assert run(run_folder, [images], images) == 0
        assert all(path.read_bytes() == content for path, content in before.items())
        entries = read(images)[1]
        drawn = [entry["drawn"] for entry in entries if entry["frame"] is None]
        assert drawn == ["a-2.jpg", "a-3.jpg", "b-2.png", "sub/b-2.png"]
        assert {entry["drawn"].split("/")[0] for entry in entries if entry["frame"]} == {"clip-2"}


def test_out_inside_the_input_is_not_read(images: Path) -> None:
    out = images / "drawn"
    out.mkdir()
    shutil.copy(images / "b.png", out / "old.png")
    sources = list_sources([images], out)
    assert len(sources.files) == 4 and len(sources.others) == 1
    assert len({str(source.target).lower() for source in sources.files}) == 4


def test_clear_words_for_wrong_arguments(run_folder: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.csv").write_text("")
    with pytest.raises(UserError, match=r"no image or video among them \(1 other files\)"):
        run(run_folder, [tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UserError, match="no such image, folder or video"):
        run(run_folder, ["absent.jpg"], tmp_path / "out")
    with pytest.raises(UserError, match="is a file; give a folder"):
        run(run_folder, [images], run_folder / "best.pt")
    assert not (tmp_path / "out").exists()


def test_an_error_keeps_the_former_files(
    run_folder: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(run_folder, [images], out)
    before = (out / "detections.json").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="no space left"):
        run(run_folder, [images], out)
    assert (out / "detections.json").read_bytes() == before
    assert not list(out.rglob("*.tmp"))


def test_reading_ahead_is_bounded_ordered_and_ends() -> None:
    made: list[int] = []

    def tasks() -> Any:
        for number in range(100):
            made.append(number)
            yield partial(int, number)

    ahead = run_ahead(tasks(), workers=2)
    assert [next(ahead).result() for _ in range(10)] == list(range(10))
    ahead.close()
    assert len(made) <= 10 + 2 * 2

    def failing() -> Any:
        yield partial(int, "no number")
        raise OSError("disk gone")

    ahead = run_ahead(failing(), workers=1)
    with pytest.raises(ValueError, match="no number"):
        next(ahead).result()
    with pytest.raises(OSError, match="disk gone"):
        next(ahead)
