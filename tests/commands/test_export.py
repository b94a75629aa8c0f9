"""resdet export: what is written, what is checked, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import resdet
from resdet.cli import main
from resdet.commands.export import Form, export_command
from resdet.errors import UserError
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
    records = json.loads(done.stdout)
    expected = resdet.load(out).predict(image, score_thresh=0.0)
    assert len(records) > 10
    assert len(json.dumps(records)) > 0 and len(expected) > 0


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


@pytest.mark.parametrize("name", ["model.py", "model.json"])
def test_files_of_others_are_not_overwritten(detector: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match=rf"{name}: would be overwritten"):
        export_command(str(detector), tmp_path / "model.onnx", form=Form())
    assert mine.read_text() == '{"a": 1}\n'


def test_arguments_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["runs/a"], "give one model and one file"),
        (["runs/a", "a.onnx", "--annotations", "a.json"], "give --check too"),
        (["runs/a", "a.onnx", "--calibrate", "photos"], "--calibrate is for --precision int8"),
        (["runs/a", "a.onnx", "--dynamic", "--size", "64", "64"], "not allowed with"),
    ):
        with pytest.raises(SystemExit):
            main(["export", *words])
        assert message in capsys.readouterr().err
