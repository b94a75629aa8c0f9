"""Detectors' runs side by side: from logs as runs leave them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from resdet.analysis.detector_curves import are_detectors, read_detector_curves
from resdet.commands.analyze import analyze_command
from resdet.errors import UserError
from tests.analysis.test_curves import train_line, write_run


def lines(start: float, *, masks: bool = False) -> list[str]:
    result = []
    for step in range(10, 210, 10):
        result.append(json.dumps({"step": step, "loss": start / step, "lr": 0.1}))
        if step % 100 == 0:
            found = {"bbox": {"AP": step / 1000, "AP50": 0.9}}
            found |= {"segm": {"AP": -1.0, "AP50": -1.0}} if masks else {}
            result.append(json.dumps({"step": step, "eval": found, "val_loss": 1.0}))
    return result


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    one = write_run(tmp_path / "one", "resnet18", lines(100))
    two = write_run(tmp_path / "two", "resnet50", [*lines(200, masks=True), '{"step": 300, "l'])
    begun = write_run(tmp_path / "begun", None, [])
    return [str(one), str(two), str(begun)]


def test_curves_of_detectors(runs: list[str]) -> None:
    assert are_detectors(runs)
    one, two, begun = read_detector_curves(runs)
    assert (one.name, one.network, one.steps, one.final_loss) == ("one", "resnet18", 200, 0.5)
    assert one.metrics["bbox AP"].tolist() == [[100, 0.1], [200, 0.2]]
    assert (one.final("bbox AP"), one.best("bbox AP"), one.final("segm AP")) == (0.2, 0.2, None)
    assert (two.final("bbox AP"), two.best("segm AP")) == (0.2, None)
    assert (begun.steps, begun.final_loss, begun.metrics) == (0, None, {})


@pytest.mark.parametrize(
    ("summary", "name"),
    [
        ({"voc07": {"mAP": 0.4}}, "voc07 mAP"),
        ({"loc_percent": 60.0, "num_images": 4}, "loc_percent"),
    ],
)
def test_other_metrics(tmp_path: Path, summary: dict[str, object], name: str) -> None:
    text = [json.dumps({"step": 5, "loss": 1.0}), json.dumps({"step": 5, "eval": summary})]
    (curve,) = read_detector_curves([str(write_run(tmp_path / "run", None, text))])
    assert list(curve.metrics) == [name]


def test_kinds_are_not_mixed(runs: list[str], tmp_path: Path) -> None:
    classifier = write_run(tmp_path / "cls", "resnet18", [train_line(10, 50.0)])
    assert not are_detectors([str(classifier), runs[2]])
    with pytest.raises(UserError, match=r"one is a detector's run and .*cls a classifier's"):
        are_detectors([*runs, str(classifier)])


def test_the_command(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = analyze_command(curves=runs, out=tmp_path / "out")
    assert [path.name for path in written] == ["curves.csv", "curves.png"]
    with written[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["bbox AP"] for row in rows] == ["0.2", "0.2", ""]
    assert "0.5000" in capsys.readouterr().out
    with pytest.raises(UserError, match="--max-error"):
        analyze_command(curves=runs, max_error=20, out=tmp_path / "out")
