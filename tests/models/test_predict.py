"""Precision and channel order of predictions, for detectors and classifiers alike."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import resdet
from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.interop.convert import to_resdet
from resdet.interop.weights import read_weights
from resdet.models.predict import precision_of
from resdet.models.rcnn import RCNN
from tests.fixtures.recipe import random_image
from tests.models.tiny_classifier import configured
from tests.models.tiny_detector import make_detector
from tests.models.torchvision_models import fill, tiny


@pytest.fixture(autouse=True)
def _with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.fixture(scope="module")
def imported_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's layout, as its published files have."""
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    model = tiny("maskrcnn_resnet50_fpn")
    images = [torch.from_numpy(random_image(0, 96, 96).transpose(2, 0, 1) / np.float32(255))]
    fill(model, 0, images)
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def path(nuclei: Path) -> Path:
    return sorted((nuclei / "images").iterdir())[0]


def load(path: Path, **more: str) -> RCNN:
    model = resdet.load(path, device="cpu", **more)
    assert isinstance(model, RCNN)
    return model


def test_auto_is_fp32_for_imported_weights(
    imported_file: Path, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "resdet"):
        model = load(imported_file)
    assert "precision fp32 (the weights are imported" in caplog.text
    model.test_short_edge, model.test_max_size = 96, 160
    pixels = read_image(path)[:96, :96]
    default, fp32 = model.predict(pixels), model.predict(pixels, precision="fp32")
    auto, bf16 = model.predict(pixels, precision="auto"), model.predict(pixels, precision="bf16")
    assert torch.equal(default.boxes, fp32.boxes) and torch.equal(auto.scores, fp32.scores)
    assert len(fp32) > 0 and not torch.equal(bf16.boxes[: len(fp32)], fp32.boxes)
    assert precision_of(load(imported_file, precision="bf16")).name == "bf16"

    torch.save(to_resdet(read_weights(str(imported_file))), tmp_path / "converted.pt")
    assert precision_of(load(tmp_path / "converted.pt")).name == "fp32"


def test_auto_is_bf16_for_runs_of_resdet() -> None:
    model = make_detector()
    assert precision_of(model).name == "fp32", "what its config says"
    assert precision_of(model, "auto").name == "bf16"
    model.is_imported = True
    assert precision_of(model, "auto").name == "fp32"
    with pytest.raises(UserError, match=r"^precision: fp16 needs a GPU"):
        precision_of(model, "fp16")
    with pytest.raises(UserError, match="no precision 'fp8'; use auto, fp32, bf16, fp16"):
        model.predict("x.jpg", precision="fp8")


def test_bgr_arrays(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    detector, classifier = make_detector(), configured(["a", "b"])
    rgb = detector.predict(pixels)
    bgr = detector.predict(pixels[:, :, ::-1], channel_order="bgr")
    assert len(rgb) > 0 and torch.equal(rgb.boxes, bgr.boxes)
    first = classifier.predict([pixels])[0]
    (second,) = classifier.predict([pixels[:, :, ::-1]], channel_order="bgr")
    assert torch.equal(first.probabilities, second.probabilities)
    # files have one order, whatever is said of arrays
    from_file = detector.predict(path, channel_order="bgr")
    assert torch.equal(from_file.boxes, detector.predict(path).boxes)
    with pytest.raises(UserError, match="channel_order is 'gbr'"):
        detector.predict(pixels, channel_order="gbr")


def test_a_folder_is_not_an_image(model, tmp_path):
    with pytest.raises(UserError, match="is a folder; give a list of the images in it"):
        model.predict(tmp_path)
    with pytest.raises(UserError, match=r"image 1 of the list: .* is a folder"):
        model.predict([np.zeros((32, 32, 3), np.uint8), tmp_path])
