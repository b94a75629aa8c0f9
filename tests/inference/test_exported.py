"""Exported models as `resdet.load` gives them, and what they refuse."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resdet
from resdet.analysis.networks import count_named
from resdet.commands.report import report_command
from resdet.config.loading import load_any_config
from resdet.errors import UserError
from resdet.inference.exported import ExportedDetector, load_exported
from resdet.interop.weights import read_weights
from resdet.models.classifier import Classifier
from tests.inference.handmade import MASKS, SHARES, write_classifier, write_detector


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that must not be changed."""
    return write_detector(tmp_path_factory.mktemp("exported") / "cells.onnx")


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """One that may be."""
    for path in exported.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / exported.name


def pictures(nuclei: Path, count: int) -> list[Path]:
    return sorted((nuclei / "images").iterdir())[:count]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_detector_predicts_in_pixels_of_the_original(
    exported: Path, nuclei: Path, runtime: str
) -> None:
    model = load_exported(exported, runtime=runtime)
    first, second = pictures(nuclei, 2)
    pixels = np.zeros((60, 200, 3), np.uint8)
    images = [first, str(second), Image.open(first), pixels]
    alone = [model.predict(image) for image in images]
    together = model.predict(images, batch_size=3, channel_order="bgr")
    assert isinstance(together, list)
    for one, same in zip(alone, together, strict=True):
        assert isinstance(one, resdet.Detections)
        height, width = one.image_size
        wanted = torch.from_numpy(SHARES[:2]) * torch.tensor([width, height, width, height])
        torch.testing.assert_close(one.boxes, wanted)
        assert one.scores.tolist() == pytest.approx([0.9, 0.4])
        assert [one.class_names[label] for label in one.labels] == ["dirt", "cell"]
        assert one.to_coco(1)[0]["category_id"] == 30
        assert one.mask_probs is not None and torch.equal(one.mask_probs[0], torch.tensor(MASKS[0]))
        torch.testing.assert_close(same.boxes, one.boxes)
    assert alone[3].image_size == (60, 200)


def test_thresholds_are_those_of_the_export_or_higher(exported: Path) -> None:
    model = resdet.load(exported)
    pixels = np.zeros((60, 200, 3), np.uint8)
    assert len(model.predict(pixels, score_thresh=0.4)) == 1
    assert len(model.predict(pixels, score_thresh=0.05)) == 2
    with pytest.raises(UserError, match=r"leaves out what scores 0\.05 or less.*at least 0\.05"):
        model.predict(pixels, score_thresh=0.01)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_fixed_batch_and_size_are_filled(tmp_path: Path, runtime: str) -> None:
    path = write_detector(tmp_path / "fixed.onnx", batch=2, height=96, width=160)
    model = load_exported(path, runtime=runtime)
    wide = [np.zeros((48, side, 3), np.uint8) for side in (48, 60, 80)]
    found = model.predict(wide, batch_size=3)
    assert isinstance(found, list)
    for one, image in zip(found, wide, strict=True):
        width = image.shape[1]
        wanted = torch.from_numpy(SHARES[:2]) * torch.tensor([width, 48, width, 48])
        torch.testing.assert_close(one.boxes, wanted)
    with pytest.raises(UserError, match=r"exported for images of 96×160 .*has 160×96.*--dynamic"):
        model.predict(np.zeros((80, 48, 3), np.uint8))


def test_a_classifier_predicts_its_classes(tmp_path: Path) -> None:
    path = write_classifier(tmp_path / "thirds.onnx", ["top", "bottom"], batch=2)
    model = resdet.load(path)
    assert isinstance(model, Classifier)
    pixels = np.zeros((50, 50, 3), np.uint8)
    pixels[25:] = 64
    answers = model.predict([pixels, pixels[::-1].copy(), pixels], batch_size=3)
    assert isinstance(answers, list)
    assert [answer.class_names[answer.labels[0]] for answer in answers] == [
        "bottom",
        "top",
        "bottom",
    ]
    assert answers[0].scores.tolist() == pytest.approx(
        [1 / (1 + np.exp(-1)), 1 / (1 + np.e)], abs=2e-3
    )


def test_what_does_not_belong_to_the_model_is_refused(copy: Path) -> None:
    beside, content = copy.with_suffix(".json"), copy.read_bytes()
    text = beside.read_text()

    def error() -> str:
        with pytest.raises(UserError) as caught:
            resdet.load(copy)
        return str(caught.value)

    copy.write_bytes(content[:-3])
    assert "is not the file that cells.json describes" in error()
    copy.write_bytes(content)
    for old, new, wanted in [
        ('"version": 1', '"version": 2', "its version is 2"),
        ('".onnx": ', '".xml": ', "does not describe cells.onnx (its files: .xml)"),
        ('"resdet-export"', '"coco"', "is not the description of an exported model"),
        ('"task": "detection"', '"task": "pose"', "task: Input should be 'detection'"),
        ('"short_edge": 96', '"short_edge": 0', "test_resize.short_edge: "),
        ('"dirt"', '"dirt", "dust"', "category_ids and class_names differ in length"),
        ('{', '[', "not valid JSON"),
    ]:  # fmt: skip
        assert old in text
        beside.write_text(text.replace(old, new, 1))
        assert wanted in error()
    beside.unlink()
    assert "cells.json is not beside it" in error()
    copy.unlink()
    assert "no such file; give an exported model" in error()


def test_a_file_that_the_runtime_refuses(copy: Path) -> None:
    from resdet.files.exported import Description, write_description

    about = Description.model_validate(json.loads(copy.with_suffix(".json").read_text()))
    copy.write_bytes(b"no model")
    write_description(about, copy)
    with pytest.raises(UserError, match=r"cells\.onnx: onnxruntime does not load it \("):
        resdet.load(copy)


def test_a_runtime_that_is_not_installed(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime, which .* pip install 'resdet\[export\]'"):
        resdet.load(exported)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"precision": "bf16"}, r"precision: bf16, and an exported model .*--precision"),
        ({"source": "timm"}, "leave out source='timm'"),
        ({"test": {"flip": True}}, r"test\.flip was fixed when the model was exported"),
    ],
)
def test_options_of_runs_are_refused(exported: Path, options: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        resdet.load(exported, **options)


def test_only_predictions_are_made_of_it(exported: Path, run_folder: Path) -> None:
    with pytest.raises(UserError, match="which predicts alone; give the runs"):
        resdet.load([run_folder, exported])
    for call in (
        lambda: read_weights(str(exported)),
        lambda: load_any_config(exported),
        lambda: count_named(str(exported)),
        lambda: report_command(runs=[exported]),
    ):
        with pytest.raises(UserError, match="is an exported model, which predicts and is evalu"):
            call()
    model = resdet.load(exported, device="cpu")
    with pytest.raises(UserError, match="precision: fp16, and an exported model"):
        model.predict(np.zeros((60, 200, 3), np.uint8), precision="fp16")
    assert isinstance(model, ExportedDetector) and model.max_pixels == 180_000_000
