"""A run with the user's own backbone: its config imports it, and resuming needs --imports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import resdet
from resdet import backbones
from resdet.errors import UserError
from resdet.files import checkpoint

OWN = """
import resdet
from resdet.backbones import build_backbone


@resdet.register_backbone
def own_resumed(norm: str = "gn"):
    return build_backbone("resnet18", {"norm": norm})
"""


def test_resuming_imports_nothing_by_itself(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_resumed.py").write_text(OWN)
    config = tmp_path / "own.yaml"
    config.write_text(
        "imports: [own_resumed]\n" + tiny.config.read_text().replace("resnet18", "own_resumed")
    )
    keys = ["train.max_steps=1", "data.val=null", "optim.milestones=[3]"]
    run = resdet.train(config, keys, run_dir=tmp_path / "run", device="cpu")

    # as in a new process, where nothing has imported the module
    monkeypatch.delitem(sys.modules, "own_resumed")
    monkeypatch.delitem(backbones._BUILDERS, "own_resumed")
    again = {"run_dir": run, "resume": True, "device": "cpu"}
    with pytest.raises(UserError, match="pass --imports own_resumed"):
        resdet.train(None, ["train.max_steps=2"], **again)
    assert "own_resumed" not in sys.modules
    resdet.train(None, ["train.max_steps=2"], imports=["own_resumed"], **again)
    assert checkpoint.load(run / "last.pt")["step"] == 2

    # a network taken from the run's weights brings the names of its modules, and imports none
    monkeypatch.delitem(sys.modules, "own_resumed")
    monkeypatch.delitem(backbones._BUILDERS, "own_resumed")
    changes = ["imports=[]", "model={backbone: {name: null}}", f"model.weights={run}", *keys]
    tuned = {"run_dir": tmp_path / "tuned", "device": "cpu"}
    with pytest.raises(UserError, match="pass --imports own_resumed"):
        resdet.train(config, changes, **tuned)
    assert "own_resumed" not in sys.modules
    resdet.train(config, changes, imports=["own_resumed"], **tuned)
    assert checkpoint.load(tmp_path / "tuned" / "last.pt")["config"]["imports"] == ["own_resumed"]
