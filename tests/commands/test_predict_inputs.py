"""The predict command on what people bring: bad files, odd names, full disks, others' results."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resdet
from resdet.errors import UserError
from resdet.files import lock
from resdet.files.images import read_image
from resdet.files.scale import UNKNOWN
from resdet.inference import pictures
from resdet.models.rcnn import RCNN
from tests.commands.predicting import read, run
from tests.models.tiny_detector import write_checkpoint


def save(path: Path, size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_one_bad_input_is_one_line(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """In the middle of a batch: cut short, empty, deleted, and decoders that fail in their way."""
    folder = tmp_path / "images"
    names = ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "g.png"]
    for name in names:
        save(folder / name)
    (folder / "b.png").write_bytes(b"")
    (folder / "d.png").write_bytes((folder / "d.png").read_bytes()[:60])
    (folder / "film.mp4").write_bytes(b"no film")
    (folder / "film.avi").write_bytes(b"")

    def broken(path: Path, *limits: int) -> Any:
        if path.name == "e.png":
            raise RuntimeError("libavif: unknown\nerror\x1b[2J")
        if path.name == "f.png":
            path.unlink()  # while it is predicted
        return read_image(path, *limits)

    monkeypatch.setattr(pictures, "read_image", broken)
    assert run(run_folder, [folder], tmp_path / "out", score_thresh=0.0, batch_size=3) == 1
    _, entries = read(tmp_path / "out")
    assert [entry["file_name"] for entry in entries] == ["a.png", "c.png", "g.png"]
    assert [entry["id"] for entry in entries] == [1, 2, 3]
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 7 and "6 of 9 inputs could not be read" in errors[-1]
    for name in ("b.png", "d.png", "e.png", "f.png", "film.mp4", "film.avi"):
        assert sum(name in error for error in errors) == 1, name


def test_nothing_but_bad_inputs(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    assert run(run_folder, [tmp_path / "a.png"] * 2, tmp_path / "out") == 1
    assert read(tmp_path / "out") == ([], [])


def test_names_that_no_text_has(run_folder: Path, tmp_path: Path) -> None:
    odd = [os.fsdecode(b"caf\xe9.png"), "a\nb.png", "\x1b[31m.png", "n" * 251 + ".png"]
    folder = tmp_path / "images"
    for name in odd:
        save(folder / name)
    assert run(run_folder, [folder, folder / odd[0]], tmp_path / "out", score_thresh=0.0) == 0
    _, entries = read(tmp_path / "out")
    assert {entry["file_name"] for entry in entries} == set(odd) and len(entries) == 5
    for entry in entries:
        assert Path(entry["source"]).is_file() and (tmp_path / "out" / entry["drawn"]).is_file()


def test_inputs_called_like_the_results(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    image = save(tmp_path / "a.png")
    for name in ("detections.json", "images.json", "predictions.json", "x/detections.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / name)
    save(folder / "y" / "detections.json" / "a.png")
    inputs = [folder / "detections.json", folder / "images.json", folder / "y", folder / "x"]
    with pytest.raises(UserError, match="no image or video among them"):
        run(run_folder, [folder / "x"], tmp_path / "out")
    inputs[-1] /= "detections.json"
    assert run(run_folder, inputs, tmp_path / "out", score_thresh=0.0) == 0
    assert [entry["drawn"] for entry in read(tmp_path / "out")[1]] == [
        *("detections.jpg", "images.jpg", "detections.json-2/a.png", "detections-2.jpg")
    ]
    # and where they are inputs in OUT itself
    with pytest.raises(UserError, match="is not a file that predict wrote"):
        run(run_folder, [folder / "detections.json"], folder)
    assert (folder / "detections.json").read_bytes() == image.read_bytes()


def test_results_of_others_are_not_believed(run_folder: Path, tmp_path: Path) -> None:
    """A foreign images.json is neither read nor replaced, whatever it says was drawn."""
    out, image = tmp_path / "out", save(tmp_path / "a.png")
    out.mkdir()
    photo = save(out / "a.png", (30, 20))
    before = photo.read_bytes()
    foreign = json.dumps([{"id": 1, "file_name": "a.png", "drawn": "a.png", "frame": None}])
    (out / "images.json").write_text(foreign)
    with pytest.raises(UserError, match="move it, or give another --out"):
        run(run_folder, [image], out)
    assert (out / "images.json").read_text() == foreign
    (out / "images.json").unlink()
    (out / "detections.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"detections\.json: is not a file that predict wrote"):
        run(run_folder, [image], out)
    (out / "detections.json").unlink()
    assert run(run_folder, [image], out) == 0
    assert photo.read_bytes() == before and read(out)[1][0]["drawn"] == "a-2.png"
    assert not (tmp_path / "elsewhere.json").exists()


def test_places_that_take_no_results(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = save(tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; give a folder"):
        run(run_folder, [image], tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made a folder"):
        run(run_folder, [image], tmp_path / "file" / "sub")
    (tmp_path / "dead").symlink_to(tmp_path / "absent")
    assert run(run_folder, [image], tmp_path / "dead") == 0
    assert read(tmp_path / "absent")[1]

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("resdet.inference.results.RecordFile", refuse)
    with pytest.raises(UserError, match="results cannot be written"):
        run(run_folder, [image], tmp_path / "read_only")


def test_inputs_that_are_no_files(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for given in (tmp_path / "pipe.png", "/dev/null"):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            run(run_folder, [given], tmp_path / "out")
    for given in ("x" * 300, "a\0b", tmp_path / "absent.png"):
        with pytest.raises(UserError, match=r"cannot be read|no such image"):
            run(run_folder, [given], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image or video among them"):
        run(run_folder, [tmp_path / "empty"], tmp_path / "out")
    save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "locked").mkdir()
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert run(run_folder, [tmp_path / "images"], tmp_path / "out") == 1
    assert "locked" in caplog.text and "1 of 2 inputs could not be read" in caplog.text


def test_a_full_disk_leaves_what_was_done(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        save(tmp_path / "images" / f"{number:02}.jpg")
    run(run_folder, [tmp_path / "images"], tmp_path / "all", score_thresh=0.0)
    limit = (tmp_path / "all" / "detections.json").stat().st_size // 2
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match=r"results cannot be written: file too large; raise"):
            run(run_folder, [tmp_path / "images"], tmp_path / "out", score_thresh=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    detections, entries = read(tmp_path / "out")
    assert 0 < len(entries) < 12
    assert {each["id"] for each in entries} <= {each["image_id"] for each in detections}
    assert f"stopped: {len(entries)} pictures are complete" in caplog.text
    assert all((tmp_path / "out" / entry["drawn"]).is_file() for entry in entries)


def test_a_network_that_fails_leaves_what_was_done(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    for number in range(6):
        save(tmp_path / "images" / f"{number}.png", (48 + 8 * number, 40))
    own = RCNN.predict_prepared

    def failing(self: RCNN, images: Any, sizes: Any, score_thresh: Any = None) -> Any:
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if (40, 56) in sizes:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 10^12 bytes")
        if (40, 88) in sizes:
            raise KeyboardInterrupt
        return own(self, images, sizes, score_thresh)

    monkeypatch.setattr(RCNN, "predict_prepared", failing)
    with pytest.raises(KeyboardInterrupt):
        run(run_folder, [tmp_path / "images"], tmp_path / "out", batch_size=3)
    assert [entry["file_name"] for entry in read(tmp_path / "out")[1]] == [*("0.png", "2.png")]
    assert "1.png: does not fit into memory" in caplog.text
    assert "stopped: 2 pictures are complete" in caplog.text


def test_ids_of_an_annotation_file(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"a.png": 50, "sub/a.png": 7, "b.png": 20}
    for name in [*names, "more.png"]:
        save(tmp_path / "images" / name)
    categories = [{"id": 7, "name": "cell"}, {"id": 30, "name": "dirt"}]
    images = [{"id": i, "file_name": n, "width": 48, "height": 40} for n, i in names.items()]
    box = {"id": 1, "image_id": 7, "category_id": 7, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
    truth = {"images": images, "annotations": [box], "categories": categories}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    out, ids_from = tmp_path / "out", tmp_path / "gt.json"
    assert run(run_folder, [tmp_path / "images"], out, score_thresh=0.0, ids_from=ids_from) == 0
    detections, entries = read(out)
    assert {entry["file_name"]: entry["id"] for entry in entries} == names | {"more.png": None}
    assert {record["image_id"] for record in detections} == set(names.values())
    assert "1× input 'more.png' is the file_name of no image" in caplog.text
    result = resdet.evaluate_coco(ids_from, out / "detections.json", kinds=["bbox"])
    assert 0 <= result["bbox"]["AP"] <= 1


def test_images_that_are_shrunk_too_much_are_named(
    run_folder: Path, tmp_path: Path, model: RCNN, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "resdet")
    write_checkpoint(run_folder / "best.pt", model, seen=[0.5, 40.0])
    images = [
        save(tmp_path / f"{name}.png", size)
        for name, size in (("a", (96, 90)), ("b", (1600, 1500)), ("c", (1500, 1600)))
    ]
    assert run(run_folder, images, tmp_path / "out") == 0
    text = caplog.text
    assert "b.png: its 1600×1500 pixels are shrunk to" in text and "instead of 20" in text
    assert "2 inputs are shrunk too much" in text and text.count("are shrunk") == 2
    for more in (["test.flip=true"], []):
        caplog.clear()
        size = ["data.test_resize.short_edge=400", "data.test_resize.max_size=800"]
        assert run(run_folder, images[:2], tmp_path / "out", overrides=[*size, *more]) == 0
        assert "shrunk" not in caplog.text
    resdet.load(run_folder, device="cpu", test={"flip": True}).predict(images[1])
    assert "b.png: its 1600×1500 pixels are shrunk to" in caplog.text
    for damaged in ([0.0, 1.0], "x", [1.0], {"a": 1}, [float("nan"), 2.0]):
        write_checkpoint(run_folder / "best.pt", model, seen=damaged)
        assert resdet.load(run_folder, device="cpu").seen == UNKNOWN


def test_keys_that_predictions_do_not_use(run_folder: Path, tmp_path: Path) -> None:
    image = save(tmp_path / "a.png")
    for key in ("data.train.images=x", "eval.batch_size=3", "optim.lr=1", "train.epochs=3"):
        with pytest.raises(UserError, match=rf"predictions do not depend on {key.split('=')[0]}"):
            run(run_folder, [image], tmp_path / "out", overrides=[key])
    used = ["test.flip=true", "data.test_resize.short_edge=64", "model.score_thresh=0.2"]
    assert run(run_folder, [image], tmp_path / "out", overrides=used) == 0


def test_two_at_once(run_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The second one would replace the results of the first."""
    monkeypatch.setattr(lock, "TRIED_S", 0.1)
    image, out = save(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    with (
        lock.locked(out, "--out"),
        pytest.raises(UserError, match=r"in use by process .*another folder with --out"),
    ):
        run(run_folder, [image], out)
    assert not list(out.glob("*.json"))
    assert run(run_folder, [image], out) == 0
    assert not (out / lock.LOCK_FILE).exists()
