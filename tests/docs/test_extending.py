"""Every example of docs/extending.md runs as printed, from a folder with the sample data alone."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from resdet import backbones
from resdet.cli import COMMANDS, main
from resdet.data.detection.readers import READERS
from resdet.engine.trackers import TRACKERS
from resdet.evaluation import METRICS
from resdet.export import EXPORTS
from resdet.models.branches import BRANCHES

pytestmark = pytest.mark.usefixtures("blank_figures")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE))
MAX_LINES = 40


def blocks(section: str, language: str) -> list[str]:
    every = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", SECTIONS[section])
    return [text for name, text in every if name == language]


def commands(section: str) -> list[list[str]]:
    """The commands of a section."""
    text = "".join(blocks(section, "")).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def run(words: list[str]) -> int:
    """Run `resdet …` in this process, and `python FILE …` after the file's own imports."""
    if words[0] == "python":
        importlib.import_module(words[1].removesuffix(".py"))
        return main(words[2:])
    assert words[0] == "resdet"
    return main(words[1:])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with the sample data; what an example registers is taken back."""
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    tables: list[dict] = [backbones._BUILDERS, READERS, METRICS, BRANCHES, TRACKERS, EXPORTS]
    tables.append(COMMANDS)
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    yield tmp_path
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


def backbone_is_used(folder: Path) -> None:
    assert "name: tiny_net" in (folder / "runs/my_backbone/config.yaml").read_text()
    assert (folder / "drawn/detections.json").exists()


def boxes_are_read(folder: Path) -> None:
    log = (folder / "runs/my_csv/log.jsonl").read_text()
    assert '"step": 2' in log
    summary = json.loads((folder / "runs/my_csv/eval.json").read_text())
    assert "bbox" in json.dumps(summary)


def objects_are_counted(folder: Path) -> None:
    summary = json.loads((folder / "runs/my_metric/eval.json").read_text())
    assert summary["counting_error"] >= 0
    assert (folder / "runs/my_metric/best.pt").exists()


def areas_are_predicted(folder: Path) -> None:
    assert "loss_area" in (folder / "runs/my_branch/log.jsonl").read_text()
    records = json.loads((folder / "drawn/detections.json").read_text())
    assert records and all(record["predicted_area"] > 0 for record in records)


def numbers_are_tracked(folder: Path) -> None:
    text = (folder / "runs/my_tracker/numbers.csv").read_text()
    assert text.startswith("1,train/") and "1,train/loss," in text
    assert "# plots/losses: " in text


def weights_are_written(folder: Path) -> None:
    assert "backbone.conv1.weight" in load_file(folder / "short.safetensors")
    assert json.loads((folder / "short.json").read_text())["class_names"] == ["nucleus"]


def command_runs(folder: Path) -> None:
    assert "count" in COMMANDS


CHECKS: dict[str, Callable[[Path], None]] = {
    "Backbone": backbone_is_used,
    "Annotation format": boxes_are_read,
    "Metric": objects_are_counted,
    "RoI branch": areas_are_predicted,
    "Tracker": numbers_are_tracked,
    "Export target": weights_are_written,
    "Command": command_runs,
}


def test_every_section_is_run() -> None:
    assert set(CHECKS) == set(SECTIONS)


@pytest.mark.parametrize("section", CHECKS)
def test_the_example_runs(section: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for language in ("python", "yaml", "csv"):
        for text in blocks(section, language):
            name = re.match(r"# (\S+)\n", text)
            assert name is not None, "the first line of a block names its file"
            assert len(text.splitlines()) <= MAX_LINES
            (folder / name[1]).write_text(text, encoding="utf-8")
    for words in commands(section):
        assert run(words) == 0, capfd.readouterr().err
    CHECKS[section](folder)
