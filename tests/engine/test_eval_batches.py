"""Switches of the section `test` and ensembles, on trained runs and from command to files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import resdet
from resdet.cli import main
from resdet.engine.evaluate_detection import evaluate_run, name_classes
from resdet.errors import UserError
from tests.engine.conftest import Tiny
from tests.golden import tiny_backbone  # noqa: F401  registers the backbone

STORED = Path("tests/golden/stored")
PLAIN = [
    "eval.val_loss=false",
    "data.workers=0",
    "data.val.annotations=tests/golden/data/train.json",
]


@pytest.fixture(autouse=True)
def _from_the_root(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stored configs have paths relative to the repository root."""
    monkeypatch.chdir(repo)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def numbers(run: str | list[str], *switches: str) -> dict[str, dict[str, float]]:
    runs = [STORED / name for name in ([run] if isinstance(run, str) else run)]
    _, validation = evaluate_run(runs, [*PLAIN, *switches], device="cpu", precision="fp32")
    assert validation.result.summary
    return validation.result.summary


@pytest.mark.parametrize("run", ["mask", pytest.param("cascade", marks=pytest.mark.slow)])
def test_each_switch_changes_the_numbers_and_none_breaks_them(run: str) -> None:
    base = numbers(run)
    size = resdet.load(STORED / run).config.data.test_resize.short_edge
    assert numbers(run, f"test.scales=[{size}]") == base, "the test size alone is the plain path"
    scales = f"test.scales=[{size * 3 // 4},{size},{size * 5 // 4}]"
    for switches in (
        ["test.refine=true"],
        ["test.box_voting=0.5"],
        [scales],
        ["test.flip=true"],
        ["test.merge=soft_nms"],
        [scales, "test.flip=true", "test.merge=wbf", "test.refine=true", "test.refine_classes=all"],
    ):
        changed = numbers(run, *switches)
        for kind, values in base.items():
            assert changed[kind] != values, switches
            assert changed[kind]["AP50"] > 0.6 * values["AP50"], switches


def test_an_ensemble_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [str(STORED / name) for name in ("fpn", "mask")]
    out = ["--device", "cpu", "--precision", "fp32", "--out", str(tmp_path)]
    assert main(["eval-coco", *runs, "--ensemble", "test.flip=true", *PLAIN, *out]) == 0
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written["bbox"] == numbers(["fpn", "mask"], "test.flip=true")["bbox"]
    assert written["bbox"] != numbers("fpn", "test.flip=true")["bbox"]
    assert "validation loss" not in capsys.readouterr().out
    for arguments in (runs, [runs[0], "--ensemble"]):
        with pytest.raises(SystemExit):
            main(["eval-coco", *arguments])
    error = capsys.readouterr().err
    assert "several runs need --ensemble" in error and "needs two runs or more" in error


def test_members_in_another_order_are_named_as_the_first() -> None:
    """The data calls the first model's `a` `x`, so that the second's `a` is `x` too."""
    models: Any = [SimpleNamespace(class_names=names) for names in (["a", "b"], ["b", "a"])]
    data: Any = SimpleNamespace(class_names=["x", "y"])
    name_classes(models, data, "the test")
    assert [model.class_names for model in models] == [["x", "y"], ["y", "x"]]


def test_predict_with_switches_and_an_ensemble(tmp_path: Path, nuclei: Path) -> None:
    image = tmp_path / "test.flip=true"  # what exists is a file
    shutil.copy(sorted((nuclei / "images").iterdir())[0], image)
    command = ["predict", str(STORED / "fpn"), str(image), "--device", "cpu", "--precision", "fp32"]
    records = []
    for name, more in (
        ("plain", []),
        ("scales", ["test.scales=[48,64]", "test.merge=wbf"]),
        ("both", ["--ensemble", str(STORED / "ema")]),
    ):
        out = tmp_path / name
        assert main([*command, *more, "--out", str(out), "--score-thresh", "0.05"]) == 0
        records.append((out / "detections.json").read_text())
    assert len(set(records)) == 3 and all(json.loads(each) for each in records)
    assert main(["predict", str(STORED / "classifier"), str(image), "test.refine=true",
                 "--out", str(tmp_path / "c")]) == 2  # fmt: skip
    with pytest.raises(UserError, match=r"is a classifier, and an ensemble is made of detectors"):
        resdet.load([STORED / "fpn", STORED / "classifier"])


def test_validation_in_training_uses_the_switches(tiny: Tiny, tmp_path: Path) -> None:
    run = resdet.train(
        tiny.config,
        ["train.max_steps=2", "test.flip=true", "test.refine=true", "model.score_thresh=0"],
        run_dir=tmp_path / "run",
    )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if "eval" in line)
    assert logged["val_loss"] > 0
    _, validation = evaluate_run(run, ["data.workers=0"], device="cpu")
    assert validation.result.summary == logged["eval"]
    _, plain = evaluate_run(run, ["data.workers=0", "test={}", "test.flip=false",
                                  "test.refine=false"], device="cpu")  # fmt: skip
    assert plain.losses == pytest.approx(validation.losses)
