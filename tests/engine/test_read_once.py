"""A run parses its config once and reads its start weights once, from the command to the loop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from resdet import cli
from resdet.config import loading
from resdet.interop import weights


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of a config was parsed, and each file of weights read."""
    counted: Counter[str] = Counter()
    parse, read_file = loading.parse, weights.read_tensor_file

    def counting_parse(text: str, name: str) -> loading.Layer:
        counted[Path(name).name] += 1
        return parse(text, name)

    def counting_read(path: Path) -> dict:
        counted[path.name] += 1
        return read_file(path)

    monkeypatch.setattr(loading, "parse", counting_parse)
    monkeypatch.setattr(weights, "read_tensor_file", counting_read)
    return counted


def test_a_run_on_the_weights_network(tiny, tmp_path: Path, calls: Counter[str]) -> None:
    run = ["train-det", str(tiny.config), "train.max_steps=1", "data.val=null"]
    assert cli.main([*run, "--device", "cpu", "--run-dir", str(tmp_path / "first")]) == 0
    assert calls == {"tiny.yaml": 1}
    weights_file = f"model.weights={tmp_path / 'first/last.pt'}"
    text = tiny.config.read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text[text.index("data:") :] + "model: {backbone: {name: null}}\n")
    run = ["train-det", str(own), weights_file, "train.max_steps=1", "data.val=null"]
    assert cli.main([*run, "--device", "cpu", "--run-dir", str(tmp_path / "second")]) == 0
    assert calls == {"tiny.yaml": 1, "own.yaml": 1, "last.pt": 1}


def test_a_run_with_start_weights_of_its_backbone(
    tiny, tmp_path: Path, calls: Counter[str]
) -> None:
    keys = ["model.backbone.norm=bn", f"model.backbone.weights={tiny.backbone}"]
    run = ["train-det", str(tiny.config), *keys, "train.max_steps=1", "data.val=null"]
    assert cli.main([*run, "--device", "cpu", "--run-dir", str(tmp_path / "run")]) == 0
    assert calls == {"tiny.yaml": 1, "resnet18.pt": 1}
