"""A user's own modules: who imports them, and who never does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import resdet
from resdet import backbones
from resdet.config import config_to_dict
from resdet.errors import UserError
from resdet.factory.imports import import_modules
from resdet.files import checkpoint

BACKBONE = """
import resdet
from resdet.backbones import build_backbone


@resdet.register_backbone
def NAME(norm: str = "gn"):
    return build_backbone("resnet18", {"norm": norm})
"""


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def write_config(folder: Path, name: str, more: str = "") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"imports: [{name}]\nmodel: {{num_classes: 2, backbone: {{name: {name}}}}}\n"
        f"data: {{train: {{images: a, annotations: a.json}}}}\ntrain: {{max_steps: 1}}\n{more}"
    )
    return path


def test_a_named_config_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "own_beside.py").write_text(BACKBONE.replace("NAME", "own_beside"))
    model = resdet.build(write_config(tmp_path, "own_beside"))
    assert "own_beside" in resdet.list_backbones()
    assert model.num_classes == 2


def test_a_checkpoint_imports_nothing_and_names_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the module was not imported before, though it can be."""
    name, path = "own_stored", tmp_path / "w.pt"
    (tmp_path / f"{name}.py").write_text(BACKBONE.replace("NAME", name))
    model = resdet.build(write_config(tmp_path, name))
    contents = checkpoint.contents(
        "detector", config_to_dict(model.config), ["a", "b"], [1, 2], 0, model.state_dict()
    )
    checkpoint.save(path, contents)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(backbones._BUILDERS, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"no backbone '{name}'.*pass --imports {name}"):
        resdet.load(path, device="cpu")
    assert name not in sys.modules
    assert resdet.load(path, device="cpu", imports=[name]).num_classes == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"imports: own_absent: no module 'own_absent' beside the config"),
        ("import own_nothing\n", r"imports: own_broken: ModuleNotFoundError: .*own_nothing"),
        ("x = 1\n1 / 0\n", r"imports: own_broken: ZeroDivisionError: .*own_broken\.py, line 2"),
        ("def f(:\n", r"imports: own_broken: SyntaxError"),
        ("import sys\nsys.exit(3)\n", r"imports: own_broken: SystemExit: 3 .*line 2"),
    ],
)
def test_a_module_that_is_missing_or_raises_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "own_broken.py").write_text(text)
    with pytest.raises(UserError, match=message):
        import_modules(["own_absent" if text is None else "own_broken"], tmp_path)
