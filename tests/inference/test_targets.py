"""Drawings get names of their own, and nothing but drawings is overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from resdet.inference.targets import Targets, is_drawing, mark_video, save_drawing

PICTURE = Image.new("RGB", (40, 30), "red")


def place(out: Path, names: list[str], inputs: tuple[Path, ...] = ()) -> dict[str, str]:
    """Where images, and videos by their suffix .mp4, are drawn."""
    targets = Targets(out, inputs)
    targets.open_folders(names)
    places = {}
    for name in names:
        target = targets.video(name) if name.endswith(".mp4") else targets.picture(name)
        places[name] = target.relative_to(out).as_posix()
    return places


def test_no_name_is_another_ones_folder(tmp_path: Path) -> None:
    names = ["x.mp4", "x/frame_000000.jpg", "y.jpg/a.png", "y.jpg", "x.avi.png", "x.jpg"]
    assert place(tmp_path, names) == {
        "x.mp4": "x-2",
        "x/frame_000000.jpg": "x/frame_000000.jpg",
        "y.jpg/a.png": "y.jpg/a.png",
        "y.jpg": "y-2.jpg",
        "x.avi.png": "x.avi.png",
        "x.jpg": "x.jpg",
    }
    for reverse in (names, names[::-1]):
        places = [tmp_path / each for each in place(tmp_path, reverse).values()]
        assert len({str(each).lower() for each in places}) == len(places)
        assert not any(a in b.parents for a in places for b in places)


def test_files_of_records_keep_their_names(tmp_path: Path) -> None:
    names = ["detections.json/a.jpg", "images.json.mp4", "Predictions.json.mp4", "images.json"]
    assert place(tmp_path, names) == {
        "detections.json/a.jpg": "detections.json-2/a.jpg",
        "images.json.mp4": "images.json-2",
        "Predictions.json.mp4": "Predictions.json-2",
        "images.json": "images.jpg",
    }


def test_names_that_systems_take_for_one(tmp_path: Path) -> None:
    places = place(tmp_path, ["A.jpg", "a.jpg", "a.JPG", "e\u0301.jpg", "\u00e9.jpg", "a.webp"])
    assert list(places.values()) == [
        *("A.jpg", "a-2.jpg", "a-3.jpg"),
        *("e\u0301.jpg", "\u00e9-2.jpg", "a-4.jpg"),
    ]


def test_odd_and_long_names(tmp_path: Path) -> None:
    long = ["n" * 251 + ".jpg", "n" * 251 + ".png", "é" * 126 + ".gif", "v" * 251 + ".mp4"]
    odd = [os.fsdecode(b"caf\xe9.jpg"), "a\nb\x1b[1m.jpg", "\u202egpj.jpg", "..jpg", "a."]
    places = place(tmp_path, [*long, *long[:0], *odd, f"sub/{long[0]}"])
    assert places[odd[0]] == "caf_.jpg" and places[odd[1]] == "a_b_[1m.jpg"
    for target in places.values():
        save_drawing(
            PICTURE.copy(), tmp_path / target / "frame.jpg" if "vv" in target else tmp_path / target
        )
        (tmp_path / target).with_name(Path(target).name + ".mp4" * ("vv" in target)).touch()
    again = place(tmp_path, [long[0], "N" + long[0][1:]])
    assert len(set(again.values())) == 2


def test_links_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir(), other.mkdir()
    (out / "link").symlink_to(other)
    (out / "a.jpg").symlink_to(other / "absent.jpg")
    (out / "b.jpg").write_bytes(b"mine")
    (out / "sub").write_bytes(b"a file")
    (out / "clip").mkdir()
    (out / "clip" / "notes.txt").write_text("mine")
    Image.new("RGB", (9, 9)).save(out / "c.jpg")
    names = ["link/a.jpg", "a.jpg", "b.jpg", "sub/a.jpg", "clip.mp4", "c.jpg"]
    assert list(place(out, names).values()) == [
        *("link-2/a.jpg", "a-2.jpg", "b-2.jpg", "sub-2/a.jpg", "clip-2", "c-2.jpg")
    ]
    # also where they appear later
    for target in (out / "a.jpg", out / "b.jpg"):
        with pytest.raises(FileExistsError):
            save_drawing(PICTURE.copy(), target)
    assert not list(other.iterdir()) and (out / "b.jpg").read_bytes() == b"mine"


def test_drawings_are_known_by_their_mark(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        for _ in range(2):
            save_drawing(PICTURE.copy(), tmp_path / name)
        assert is_drawing(tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (40, 30)
        assert place(tmp_path, [name]) == {name: name}
        Image.open(tmp_path / name).save(tmp_path / f"copy_{name}")
    assert not is_drawing(tmp_path / "copy_b.png") and not is_drawing(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    assert not is_drawing(tmp_path / "link.jpg")


def test_marked_videos_still_play(tmp_path: Path) -> None:
    for codec, suffix in (("mp4v", ".mp4"), ("MJPG", ".avi")):
        path = tmp_path / f"clip{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
        if not writer.isOpened():
            continue
        for value in range(4):
            writer.write(np.full((48, 64, 3), 60 * value, np.uint8))
        writer.release()
        assert not is_drawing(path)
        mark_video(path)
        assert is_drawing(path)
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
        assert sum(capture.read()[0] for _ in range(9)) == 4


def test_pictures_longer_than_jpeg_are_shrunk(tmp_path: Path) -> None:
    save_drawing(Image.new("RGB", (70_000, 2)), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size[0] == 65_500


def test_no_half_drawing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, file: object, *args: object, **kwargs: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_drawing(PICTURE, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
