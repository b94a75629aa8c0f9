import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from resdet.errors import UserError
from resdet.files import checkpoint


def contents(**changes) -> dict:
    found = {
        "format": checkpoint.FORMAT,
        "kind": "detector",
        "resdet_version": "0.1.0",
        "config": {"train": {"max_steps": 3}},
        "class_names": ["nucleus"],
        "category_ids": [1],
        "step": 3,
        "model": {"weight": torch.arange(6.0)},
    }
    return {**found, **changes}


def test_saved_is_loaded(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, contents())
    found = checkpoint.load(path)
    assert torch.equal(found["model"]["weight"], torch.arange(6.0))
    assert found["config"] == {"train": {"max_steps": 3}}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, contents())
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"last\.pt"):
            checkpoint.load(path)
    path.write_text("just text")
    with pytest.raises(UserError, match=r"last\.pt"):
        checkpoint.load(path)


@pytest.mark.parametrize("kind", ["classifier", "localizer"])
def test_classifiers_resize_to_a_number_of_pixels(tmp_path, kind):
    config = {"data": {"test_resize": 256}}
    torch.save(contents(kind=kind, config=config), tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt")["config"] == config


@pytest.mark.parametrize(
    "config",
    [
        {"model": "resnet50"},
        {"model": {"backbone": ["resnet50"]}},
        {"model": {"backbone": {"options": 5}}},
        {"data": [1]},
        {"model": {"pixel_mean": torch.ones(3)}},
        {3: {}},
    ],
)
def test_a_config_without_its_sections_is_damaged(tmp_path, config):
    torch.save(contents(config=config), tmp_path / "last.pt")
    with pytest.raises(UserError, match="damaged checkpoint: its config"):
        checkpoint.load(tmp_path / "last.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "last.pt"
    torch.save(contents(config=Path("x")), path)
    with pytest.raises(UserError, match="config, class_names or category_ids have the wrong type"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "other"}, "not a checkpoint of a resdet run"),
        ({"format": 99}, "format 99"),
    ],
)
def test_other_files_are_refused(tmp_path, changes, words):
    path = tmp_path / "last.pt"
    torch.save(contents(**changes), path)
    with pytest.raises(UserError, match=words):
        checkpoint.load(path)


def test_missing_parts_and_files_are_named(tmp_path):
    path = tmp_path / "last.pt"
    found = contents()
    del found["class_names"]
    torch.save(found, path)
    with pytest.raises(UserError, match="lacks class_names"):
        checkpoint.load(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


def test_a_refusing_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, contents())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        checkpoint.save(path, contents(step=4))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


WRITER = """
import sys, torch
from pathlib import Path
from resdet.files import checkpoint
path, step = Path(sys.argv[1]), 0
base = {"format": 1, "kind": "detector", "config": {}, "class_names": [], "category_ids": []}
while True:
    step += 1
    checkpoint.save(path, {**base, "step": step, "model": {"w": torch.full((500_000,), step)}})
    print(step, flush=True)
"""


def test_killed_while_writing_leaves_a_whole_file(tmp_path, repo):
    path = tmp_path / "last.pt"
    command = [sys.executable, "-c", WRITER, str(path)]
    writer = subprocess.Popen(command, cwd=repo, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    time.sleep(0.003)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    found = checkpoint.load(path)
    assert found["step"] >= 3
    assert (found["model"]["w"] == found["step"]).all()
