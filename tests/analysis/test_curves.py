"""Curves are read from logs as runs leave them: finished, unfinished, cut short."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from resdet.analysis.curves import curve_table, family_of, read_curve, read_curves, run_names
from resdet.commands.analyze import analyze_command
from resdet.errors import UserError

TRAIN = {"epoch": 0.1, "loss": 1.2, "loss_cls": 1.2, "lr": 0.1, "images_per_s": 9, "memory_mb": 1}


def write_run(folder: Path, network: str | None, lines: list[str]) -> Path:
    folder.mkdir(parents=True)
    if network is not None:
        text = f"task: classification\nmodel:\n  backbone: {{name: {network}}}\n"
        (folder / "config.yaml").write_text(text)
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def train_line(step: int, error: float | None) -> str:
    return json.dumps({"step": step, **TRAIN, "error_percent": error})


def val_line(step: int, top1: float | None) -> str:
    numbers = {"top1_percent": top1, "top5_percent": 99.0, "num_images": 5000, "num_broken": 0}
    return json.dumps({"step": step, "epoch": 1, "eval": numbers, "val_loss": 0.4})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [train_line(100 * k, 50 - k) for k in range(1, 41)]
    lines.insert(20, val_line(2000, 70.0))
    return write_run(tmp_path / "plain", "cifar_plain20", [*lines, val_line(4000, 68.5)])


def test_a_finished_run(run: Path) -> None:
    curve = read_curve(str(run), "plain")
    assert (curve.network, curve.family, curve.steps) == ("cifar_plain20", "plain", 4000)
    assert curve.train.shape == (40, 2)
    assert curve.train[0].tolist() == [100, 49]
    assert curve.val.tolist() == [[2000, 30], [4000, 31.5]]
    # the last 5 % of 40 lines: 11 and 10
    assert (curve.final_train, curve.final_val, curve.best_val) == (10.5, 31.5, 30)


def test_an_unfinished_run_and_one_that_has_just_begun(tmp_path: Path) -> None:
    lines = [train_line(100, 80.0), train_line(200, None), val_line(200, None), '{"step": 300, "l']
    cut = read_curve(str(write_run(tmp_path / "cut", None, [*lines, "", "[1]"])), "resnet_cut")
    assert (cut.steps, cut.final_train, cut.final_val) == (100, 80.0, None)
    assert (cut.network, cut.family) == ("", "residual")
    begun = read_curve(str(write_run(tmp_path / "begun", "highway19", [])), "begun")
    assert (begun.steps, begun.final_train, begun.best_val) == (0, None, None)
    assert begun.family == "other"
    header, rows = curve_table([cut, begun])
    assert rows[1] == ["begun", "highway19", "0", "–", "–", "–"]
    assert len(header) == len(rows[0])


def test_a_checkpoint_stands_for_its_run(run: Path) -> None:
    (run / "best.pt").touch()
    assert read_curves([str(run / "best.pt")])[0].name == "plain"


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    assert run_names(["a/x", "b/y/"]) == ["x", "y"]
    assert run_names(["a/x", "b/x", "z"]) == ["a/x", "b/x", "z"]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("cifar_plain56", "plain"),
        ("plain34", "plain"),
        ("cifar_preact_resnet110", "residual"),
        ("resnet50", "residual"),
        ("highway32", "other"),
        ("vgg16", "other"),
    ],
)
def test_families(name: str, family: str) -> None:
    assert family_of(name) == family


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log\.jsonl cannot be read .*give the folder of a run"):
        read_curve(str(tmp_path), "x")


def test_the_command_writes_figure_and_table(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = analyze_command(curves=[str(run)], max_error=60, out=tmp_path / "out")
    assert [path.name for path in written] == ["curves.csv", "curves.png"]
    with written[0].open() as file:
        (row,) = csv.DictReader(file)
    assert (row["run"], row["val_error_percent"], row["iterations"]) == ("plain", "31.5", "4000")
    assert "10.50" in capsys.readouterr().out
