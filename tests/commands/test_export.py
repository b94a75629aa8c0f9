"""resdet export: what is written, what is checked, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import resdet
from resdet.cli import main
from resdet.commands.export import Check, Form, export_command
from resdet.errors import UserError
from resdet.export.description import is_own_script
from resdet.files.exported import sha256
from tests.export.test_script import overlap
from tests.inference.handmade import write_detector as write_handmade
from tests.models.tiny import tiny_model
from tests.models.tiny_classifier import configured
from tests.models.tiny_classifier import write_checkpoint as write_classifier
from tests.models.tiny_detector import write_checkpoint as write_detector


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier") / "best.pt"
    return write_classifier(path, configured(["cat", "dog", "newt"]))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "best.pt"
    return write_detector(path, tiny_model({"roi": {"mask_head": None}}))


def test_a_classifier_is_written_and_checked(
    classifier: Path, nuclei: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pets.onnx"
    images = str(nuclei / "images")
    words = ["export", str(classifier), str(out), "--dynamic", "--check", images]
    assert main([*words, "--check-images", "3"]) == 0
    printed = capfd.readouterr().out
    assert "onnxruntime" in printed and "openvino" in printed
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["class_names"] == ["cat", "dog", "newt"] and about["dynamic"]
    image = sorted((nuclei / "images").iterdir())[0]
    expected = resdet.load(classifier).predict(image, precision="fp32")
    got = resdet.load(out).predict(image)
    assert torch.equal(got.labels, expected.labels)
    torch.testing.assert_close(got.scores, expected.scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells.xml", "cells.pt2"])
def test_the_script_beside_it_gives_the_same(name: str, nuclei: Path, tmp_path: Path) -> None:
    run = write_detector(tmp_path / "best.pt", tiny_model({"score_thresh": 0.3}))
    out = tmp_path / name
    images = str(nuclei / "images")
    words = ["export", str(run), str(out), "--dynamic", "data.test_resize.short_edge=128"]
    words += ["data.test_resize.max_size=160", "--check", images, "--check-images", "3"]
    assert main(words) == 0
    image = sorted((nuclei / "images").iterdir())[0]
    script = [sys.executable, str(out.with_suffix(".py")), str(image)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=tmp_path)
    (record,) = json.loads(done.stdout)
    expected = resdet.load(out).predict(image)
    assert isinstance(expected, resdet.Detections) and len(expected) > 10
    assert record["labels"] == expected.labels.tolist()
    np.testing.assert_allclose(record["scores"], expected.scores, atol=1e-4)
    np.testing.assert_allclose(record["boxes"], expected.boxes, atol=1e-2)
    masks = expected.encoded_masks()
    assert masks is not None and len(masks) == len(record["masks"])
    for mask, rle in zip(record["masks"], masks, strict=True):
        assert overlap(coco_mask.frPyObjects(mask, *mask["size"]), rle) > 0.99


@pytest.mark.parametrize(
    ("out", "form", "message"),
    [
        ("x.tflite", Form(), r"x\.tflite: its extension selects the format: \.onnx, \.xml, \.pt2"),
        ("x.onnx", Form(size=(100, 128)), r"--size: 100 is not a multiple of 32.*give 96"),
        ("x.onnx", Form(pasted=True), "--paste: the model has no masks"),
        ("x.pt2", Form(precision="int8"), r"int8: is for \.onnx and \.xml"),
    ],
)
def test_forms_that_a_detector_does_not_have(
    detector: Path, tmp_path: Path, out: str, form: Form, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export_command(str(detector), tmp_path / out, form=form)
    assert not list(tmp_path.iterdir())


def test_views_and_crops_have_no_export(detector: Path, classifier: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    with pytest.raises(UserError, match=r"test\.flip and test\.scales combine several views"):
        export_command(str(detector), out, form=Form(), overrides=["test.flip=true"])
    with pytest.raises(UserError, match="a classifier sees crops of"):
        export_command(str(classifier), out, form=Form(size=(64, 64)))


@pytest.mark.parametrize("name", ["model.py", "model.json", "model.bin"])
def test_files_of_others_are_not_overwritten(detector: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match=rf"{name}: would be overwritten"):
        export_command(str(detector), tmp_path / "model.xml", form=Form())
    assert mine.read_text() == '{"a": 1}\n'


def test_a_script_that_was_changed_is_not_overwritten(tmp_path: Path) -> None:
    out = write_handmade(tmp_path / "model.onnx")
    assert is_own_script(out)
    script, about = out.with_suffix(".py"), out.with_suffix(".json")
    script.write_text(script.read_text() + "\n# mine\n")
    with pytest.raises(UserError, match=r"model\.py: would be overwritten, and was changed"):
        export_command("runs/none", out, form=Form())
    # that of another version is
    digest = json.dumps(sha256(script))
    about.write_text(re.sub('(?<="script": )"[^"]*"', digest, about.read_text()))
    assert is_own_script(out)


@pytest.mark.parametrize("name", ["openvino.xml", "torch.pt2", "random.onnx"])
def test_names_of_modules(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="would be imported in place of the module"):
        export_command("runs/none", tmp_path / name, form=Form())


def test_what_is_missing_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript, which .* pip install 'resdet\[export\]'"):
        export_command("runs/none", tmp_path / "x.xml", form=Form())


def test_images_that_a_fixed_size_does_not_hold(
    detector: Path, nuclei: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--size 64 64: .*\.png has \d+ × \d+ pixels at its test"):
        export_command(
            str(detector),
            tmp_path / "x.onnx",
            form=Form(size=(64, 64)),
            check=Check(str(nuclei / "images")),
        )


def test_arguments_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["runs/a"], "give one model and one file"),
        (["runs/a", "a.onnx", "--annotations", "a.json"], "give --check too"),
        (["runs/a", "a.onnx", "--check-images", "3"], "--check-images is for --check IMAGES"),
        (["runs/a", "a.onnx", "--calibrate", "photos"], "--calibrate is for --precision int8"),
        (["runs/a", "a.onnx", "--calibrate-images", "3"], "--calibrate-images is for --precision"),
        (["runs/a", "a.onnx", "--dynamic", "--size", "64", "64"], "not allowed with"),
    ):
        with pytest.raises(SystemExit):
            main(["export", *words])
        assert message in capsys.readouterr().err
