"""Classes of images from the API and from the command, on real files from disk to disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from resdet.commands.predict import predict_command
from resdet.errors import UserError
from resdet.inference.loading import load
from resdet.inference.predicting import Options
from resdet.models.classifier import Classifier
from resdet.structures import Classification, readable_names
from tests.models.tiny_classifier import configured, make_classifier, write_checkpoint


@pytest.fixture(scope="module")
def model() -> Classifier:
    return configured([f"class {i}" for i in range(7)])


@pytest.fixture(scope="module")
def paths(shared_data: Path) -> list[Path]:
    folders = sorted((shared_data / "imagenet1k_sample_256" / "images").iterdir())
    return [next(folder.iterdir()) for folder in folders[:120:40]]


@pytest.fixture(scope="module")
def wnids(shared_data: Path) -> list[str]:
    text = (shared_data / "imagenet1k_sample_256" / "classes.json").read_text()
    return [each["wnid"] for each in json.loads(text)]


def one(found: Any) -> Classification:
    assert isinstance(found, Classification)
    return found


def test_the_best_five_of_a_softmax(model: Classifier, paths: list[Path]) -> None:
    model.train()
    found = one(model.predict(paths[0]))
    assert model.training and model.head.training
    model.eval()
    assert found.labels.dtype == torch.int64 and found.scores.dtype == torch.float32
    assert found.probabilities.shape == (7,) and found.probabilities.sum() == pytest.approx(1)
    assert torch.equal(found.scores, found.probabilities[found.labels])
    assert torch.equal(found.scores, found.probabilities.topk(5).values)
    assert found.names == [f"class {label}" for label in found.labels.tolist()]
    kept = found.above(float(found.scores[2]))
    assert kept.labels.tolist() == found.labels[:2].tolist()


def test_all_inputs_and_batches_agree(model: Classifier, paths: list[Path]) -> None:
    alone = [one(model.predict(path)) for path in paths]
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    for images, batch_size in ((paths, 2), (pictures, 3), (arrays, 1)):
        together = model.predict(images, batch_size=batch_size)
        assert isinstance(together, list) and len(together) == len(alone)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a.probabilities, b.probabilities)
    assert model.predict([]) == []


def test_fewer_than_five_classes(paths: list[Path]) -> None:
    found = one(make_classifier(num_classes=2).predict(paths[0]))
    assert len(found.labels) == len(found.scores) == 2


def test_what_cannot_be_used_is_named(model: Classifier, paths: list[Path]) -> None:
    with pytest.raises(UserError, match=r"image 1 of the list: absent\.jpg: no such image"):
        model.predict([paths[0], "absent.jpg"])
    with pytest.raises(UserError, match="expected uint8"):
        model.predict(np.zeros((9, 9, 3)))
    with pytest.raises(UserError, match="batch_size is 0"):
        model.predict(paths, batch_size=0)


def test_imagenet_has_words(wnids: list[str]) -> None:
    words = readable_names(wnids)
    assert (words[0], words[1], words[207], words[999]) == (
        "tench",
        "goldfish",
        "golden retriever",
        "toilet tissue",
    )
    assert readable_names(wnids[::-1]) == words[::-1]
    for names in (wnids[:999], [*wnids[:999], "n00000000"], list("abc")):
        assert readable_names(names) == names


@pytest.fixture
def run_folder(tmp_path: Path, model: Classifier) -> Path:
    write_checkpoint(tmp_path / "run" / "best.pt", model)
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path: Path, paths: list[Path]) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(paths[0], folder / "a.jpg")
    shutil.copy(paths[1], folder / "sub" / "b.jpg")
    return folder


def read(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "predictions.json").read_text())


def test_load_gives_the_classifier_back(
    run_folder: Path, model: Classifier, paths: list[Path]
) -> None:
    loaded = load(run_folder, device="cpu")
    assert isinstance(loaded, Classifier) and not loaded.training
    assert loaded.class_names == model.class_names and loaded.config == model.config
    a, b = one(model.predict(paths[0])), one(loaded.predict(paths[0]))
    assert torch.equal(a.probabilities, b.probabilities)


def test_a_folder_is_drawn_and_written(
    run_folder: Path, images: Path, tmp_path: Path, model: Classifier
) -> None:
    (images / "void.png").write_bytes(b"")
    out = tmp_path / "out"
    code = predict_command(
        run=run_folder, inputs=[images], out=out, device="cpu", options=Options(batch_size=2)
    )
    assert code == 1, "one file is broken"
    records = read(out)
    assert [record["file_name"] for record in records] == ["a.jpg", "sub/b.jpg"]
    assert not (out / "detections.json").exists() and not (out / "images.json").exists()
    for record in records:
        found = one(model.predict(images / record["file_name"]))
        assert [each["label"] for each in record["classes"]] == found.labels.tolist()
        assert [each["name"] for each in record["classes"]] == found.names
        scores = [each["score"] for each in record["classes"]]
        assert scores == pytest.approx(found.scores.tolist(), abs=1e-6)
        with Image.open(out / record["drawn"]) as drawn:
            assert drawn.height > record["height"] and drawn.width >= record["width"]
    assert not list(out.rglob("*.tmp"))


def test_a_threshold_leaves_out_classes(run_folder: Path, images: Path, tmp_path: Path) -> None:
    arguments = {"run": run_folder, "inputs": [images / "a.jpg"], "device": "cpu"}
    predict_command(**arguments, out=tmp_path / "all")
    every = read(tmp_path / "all")[0]["classes"]
    predict_command(
        **arguments, out=tmp_path / "some", options=Options(score_thresh=every[1]["score"])
    )
    assert read(tmp_path / "some")[0]["classes"] == every[:1]


def test_videos_and_former_drawings(run_folder: Path, images: Path) -> None:
    writer = cv2.VideoWriter(
        str(images / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96)
    )
    pixels = cv2.imread(str(images / "a.jpg"))
    assert pixels is not None
    for shift in range(3):
        writer.write(np.ascontiguousarray(pixels[shift : shift + 96, :128]))
    writer.release()
    for _ in range(2):  # the second time its own drawings are neither inputs nor in the way
        assert predict_command(run=run_folder, inputs=[images], out=images, device="cpu") == 0
        records = read(images)
        assert [record["frame"] for record in records] == [None, 0, 1, 2, None]
        assert records[0]["drawn"] == "a-2.jpg"
    (drawn,) = [path for path in images.glob("clip-2.*") if path.suffix in (".mkv", ".avi")]
    assert cv2.VideoCapture(str(drawn)).get(cv2.CAP_PROP_FRAME_COUNT) == 3
