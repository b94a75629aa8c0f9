"""Commands that meet broken images write their results, and exit with 1 if they are too many."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import resdet
from resdet.cli import main
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import write_tiny
from tests.engine.loc_data import write_config, write_shapes
from tests.engine.test_broken import cut

pytestmark = pytest.mark.usefixtures("blank_figures")

Evaluate = Callable[[Sequence[str]], tuple[int, str, dict]]
"""Runs a command with its options: exit code, standard error and eval.json."""


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    def run(argv: Sequence[str]) -> tuple[int, str, dict]:
        (tmp_path / "out" / "eval.json").unlink(missing_ok=True)
        capsys.readouterr()
        code = main([*argv, "--out", str(tmp_path / "out"), "--device", "cpu"])
        return code, capsys.readouterr().err, json.loads((tmp_path / "out/eval.json").read_text())

    return run


def check(
    evaluate: Evaluate, argv: Sequence[str], file: Path, name: str, *, strict: bool = True
) -> None:
    """Exit code 0 with one broken image, 1 where none may be; the same numbers are written."""
    options = {"data.max_broken=0": "data.max_broken 0"}
    code, errors, numbers = evaluate(argv)
    assert code == 0 and "error" not in errors
    if strict:
        options["--strict"] = "--strict"
    for option, allowed in options.items():
        code, errors, again = evaluate([*argv, option])
        assert code == 1 and again == numbers
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert f"images are broken, and {allowed} allows " in line
        assert f"{file}: damaged image file" in line and name in line
    assert '"num_broken": 1' in json.dumps(numbers)


def test_a_detector(
    evaluate: Evaluate, tmp_path: Path, nuclei: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_tiny(tmp_path / "tiny", nuclei, tmp_path / "tiny.yaml")
    ground_truth = json.loads((tmp_path / "tiny" / "val.json").read_text())
    images = tmp_path / "images"
    images.mkdir()
    for image in ground_truth["images"]:
        whole = (nuclei / "images" / image["file_name"]).read_bytes()
        (images / image["file_name"]).write_bytes(whole)
    overrides = [f"data.val.images={images}", "train.max_steps=1", "eval.val_loss=false"]
    run = resdet.train(config, overrides, run_dir=tmp_path / "run", device="cpu")
    file = images / ground_truth["images"][0]["file_name"]
    cut(file)
    check(evaluate, ["eval-coco", str(run)], file, "1 of 3")
    check(evaluate, ["eval-voc", str(run)], file, "1 of 3", strict=False)
    det = ["eval-imagenet", "--task", "det", str(run)]
    check(evaluate, det, file, "1 of 3", strict=False)


def test_a_classifier(evaluate: Evaluate, tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data")
    (tmp_path / "cls.yaml").write_text(FOLDER_YAML.format(root=data))
    run = resdet.train(
        tmp_path / "cls.yaml", ["train.max_steps=1"], run_dir=tmp_path / "run", device="cpu"
    )
    cut(data / "val/red/0.png")
    check(evaluate, ["eval-cls", str(run)], data / "val/red/0.png", f"{run}: data.val: 1 of 18")


@pytest.mark.slow
def test_a_localizer(
    evaluate: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path / "d")
    small = {"test_resize": 48, "test_size": 48, "augment": {"short_edges": [48, 56]}}
    config = write_config(tmp_path / "rpn.yaml", tmp_path / "d", "rpn", data=small)
    run = resdet.train(config, ["train.max_steps=1"], run_dir=tmp_path / "run", device="cpu")
    file = tmp_path / "d" / "images" / "1.png"
    cut(file)
    check(evaluate, ["eval-imagenet", "--task", "loc", "--oracle", str(run)], file, "1 of 6")

    proposals = tmp_path / "p.npz"
    argv = ["predict", str(run), "--proposals", str(proposals), "--device", "cpu"]
    assert main(argv) == 0
    proposals.unlink()
    assert main([*argv, "data.max_broken=0"]) == 1
    assert f"{file}: damaged image file" in capsys.readouterr().err and proposals.exists()
