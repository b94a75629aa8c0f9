"""What `resdet analyze` prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from resdet import cli
from resdet.commands.analyze import analyze_command
from resdet.errors import UserError


def analyze(*argv: str) -> int:
    return cli.main(["analyze", *argv])


def test_a_table_with_a_line_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert analyze("resnet18", "cifar_resnet20", "--image-size", "64x32") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[:4] == ["network", "input", "classes", "layers"]
    assert lines[1].split()[:5] == ["resnet18", "64×32", "1000", "18", "11,689,512"]
    assert lines[2].split()[:5] == ["cifar_resnet20", "64×32", "10", "20", "269,722"]
    assert not list(tmp_path.iterdir())


def test_layers_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert analyze("cifar_resnet20", "model.num_classes=5", "--layers", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    total = next(line for line in printed.splitlines() if line.startswith("total"))
    assert total.split()[1] == f"{269_722 - 5 * 65:,}"
    assert {path.name for path in out.iterdir()} == {
        "analysis.json",
        "analysis.csv",
        "layers_cifar_resnet20.csv",
    }
    (record,) = json.loads((out / "analysis.json").read_text())
    assert (record["depth"], record["num_classes"], record["height"]) == (20, 5, 32)
    assert record["layers"][0]["output"] == [16, 32, 32]
    with (out / "layers_cifar_resnet20.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["multiply_adds"]) for row in rows) == record["multiply_adds"]
    assert rows[-1]["name"] == "head.fc"


def test_a_note_on_auxiliary_classifiers(capsys: pytest.CaptureFixture[str]) -> None:
    analyze_command(names=["googlenet"])
    assert "used in training only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a NAME_CONFIG_OR_RUN, or --compare"),
        (["--layers", "--compare"], "--layers needs a NAME_CONFIG_OR_RUN"),
        (["--compare", "--image-size", "32"], "--image-size needs a NAME_CONFIG_OR_RUN"),
        (["--curves", "a", "--image-size", "0"], "'0': pixels, such as 224"),
        (["resnet18", "--max-error", "5"], "--max-error needs --curves"),
        (["--curves", "a", "--max-error", "101"], "percent above 0, at most 100"),
        (["resnet18", "--device", "cpu"], "--device needs --responses"),
    ],
)
def test_mistakes_in_the_options(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        analyze(*argv)
    assert done.value.code == 2
    assert message in capsys.readouterr().err


def test_a_failed_command_leaves_no_folder(tmp_path: Path) -> None:
    for arguments in ({"names": ["resnet5"]}, {"curves": [str(tmp_path)]}):
        with pytest.raises(UserError):
            analyze_command(**arguments, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made a folder"):
        analyze_command(names=["cifar_resnet20"], out=tmp_path / "file")
