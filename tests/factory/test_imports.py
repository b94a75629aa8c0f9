"""A user's own modules: who imports them, and who never does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import resdet
from resdet.errors import UserError
from resdet.factory.imports import import_modules

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
    """In other processes, where the module was not imported before."""
    (tmp_path / "own_stored.py").write_text(BACKBONE.replace("NAME", "own_stored"))
    write_config(tmp_path, "own_stored")
    make = (
        "import resdet, torch\nfrom pathlib import Path\nfrom resdet.files import checkpoint\n"
        "from resdet.config import config_to_dict\n"
        "model = resdet.build('own_stored.yaml')\n"
        "config = config_to_dict(model.config)\n"
        "checkpoint.save(Path('w.pt'), checkpoint.contents('detector', config, ['a', 'b'], [1, 2],"
        " 0, model.state_dict()))\n"
    )
    load = (
        "import sys, resdet\n"
        "try:\n    resdet.load('w.pt', device='cpu')\n"
        "except resdet.errors.UserError as error:\n    print(error)\n"
        "assert 'own_stored' not in sys.modules\n"
        "print(resdet.load('w.pt', device='cpu', imports=['own_stored']).num_classes)\n"
    )
    outputs = []
    for code in (make, load):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    lines = outputs[1].splitlines()
    assert "no backbone 'own_stored'" in lines[0]
    assert "pass --imports own_stored" in lines[0]
    assert lines[-1] == "2"


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
