"""OUT.json: which files it describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resdet.errors import UserError
from resdet.files.exported import (
    Crop,
    Description,
    described_beside,
    read_description,
    sha256,
    write_description,
)


def about(**changes: Any) -> Description:
    values: dict[str, Any] = {
        "task": "classification",
        "class_names": ["cat", "dog"],
        "crop": Crop(short_edge=40, size=32, interpolation="bilinear"),
        "dynamic": True,
        "source": "runs/pets",
        "resdet": "0.1.0",
        "torch": "2",
    }
    return Description(**values | changes)


def write(folder: Path, *names: str) -> Path:
    """Files with their names as their content; returns the first."""
    for name in names:
        (folder / name).write_text(name)
    return folder / names[0]


def test_models_of_one_name_share_a_description(tmp_path: Path) -> None:
    for names in (["pets.onnx"], ["pets.xml", "pets.bin"], ["pets.pt2"]):
        write_description(about(torch=names[0]), write(tmp_path, *names))
    files = json.loads((tmp_path / "pets.json").read_text())["files"]
    assert list(files) == [".pt2", ".xml", ".bin", ".onnx"]
    for suffix in (".onnx", ".xml", ".pt2"):
        assert read_description(tmp_path / f"pets{suffix}").files == files
    # written again, and one that is gone is left out
    (tmp_path / "pets.xml").unlink()
    write_description(about(), write(tmp_path, "pets.onnx"))
    files = json.loads((tmp_path / "pets.json").read_text())["files"]
    assert list(files) == [".onnx", ".pt2", ".bin"]


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"precision": "int8"}, "precision"),
        ({"source": "runs/b", "class_names": ["a", "b"]}, "class_names, source"),
        ({"config": {"task": "classification"}}, "config"),
    ],
)
def test_models_that_differ_do_not(tmp_path: Path, changes: dict[str, Any], keys: str) -> None:
    write_description(about(config={}), write(tmp_path, "pets.onnx"))
    other = write(tmp_path, "pets.pt2")
    with pytest.raises(UserError, match=rf"pets\.json: describes pets\.onnx, .* in {keys}; rename"):
        described_beside(about(**{"config": {}} | changes), other)
    assert read_description(tmp_path / "pets.onnx").precision == "fp32"
    # the same file may be replaced
    write_description(about(**changes), write(tmp_path, "pets.onnx"))
    (tmp_path / "pets.onnx").unlink()
    assert described_beside(about(), other) == {}


def test_all_files_may_be_renamed(tmp_path: Path) -> None:
    write_description(about(), write(tmp_path, "pets.xml", "pets.bin"))
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_stem("new"))
    assert read_description(tmp_path / "new.xml").files[".bin"] == sha256(tmp_path / "new.bin")
    (tmp_path / "new.bin").unlink()
    with pytest.raises(UserError, match=r"new\.xml: new\.bin is not beside it, which has its w"):
        read_description(tmp_path / "new.xml")
