"""Images that turn out to be broken during a run, and errors that end one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import resdet
from resdet.engine.distributed import Processes
from resdet.files import checkpoint
from tests.engine.conftest import Tiny, log_of

ALONE = Processes(0, 1, 1, torch.device("cpu"))
EXACT = ["checkpoint.every=2", "train.max_steps=6", "eval.every=3"]


def copied(tiny: Tiny, folder: Path, count: int = 4) -> tuple[Path, list[str]]:
    """The images of the tiny task's training data once more, and overrides that train and validate
    on them; the file of the first image."""
    import yaml

    config = yaml.safe_load(tiny.config.read_text())["data"]["train"]
    data = json.loads(Path(config["annotations"]).read_text())
    data["images"] = data["images"][:count]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    folder.mkdir()
    for image in data["images"]:
        whole = (Path(config["images"]) / image["file_name"]).read_bytes()
        (folder / image["file_name"]).write_bytes(whole)
    (folder / "a.json").write_text(json.dumps(data))
    sets = [f"data.{part}.{key}" for part in ("train", "val") for key in ("images", "annotations")]
    paths = [str(folder), f"{folder}/a.json"] * 2
    overrides = [f"{key}={path}" for key, path in zip(sets, paths, strict=True)]
    return folder / data["images"][0]["file_name"], overrides


def cut(file: Path) -> bytes:
    """Truncate a file behind its header; returns what it was."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return whole


def train(tiny: Tiny, overrides: list[str], run: Path, **options: Any) -> Path:
    return resdet.train(tiny.config, overrides, run_dir=run, device="cpu", **options)


def test_a_truncated_image_in_training_and_validation(tiny, tmp_path, caplog):
    file, overrides = copied(tiny, tmp_path / "data")
    cut(file)
    run = train(tiny, overrides, tmp_path / "run")
    lines = log_of(run)
    assert [line["num_broken"] for line in lines if "num_broken" in line][-1] == 1
    assert lines[-1]["eval"]["bbox"]["num_broken"] == 1
    assert "data.train: 1 broken image(s) left out, 1 of 4 so far: " in caplog.text
    assert "data.val: 1 broken image(s) left out, 1 of 4 so far: " in caplog.text
    assert f"{file}: damaged image file" in caplog.text
    state = checkpoint.load(run / "last.pt")
    for known in state["broken"].values():
        assert list(known) == [0] and known[0].startswith(f"{file}: damaged")

    # the same numbers as from a file that does not list the image
    data = json.loads((file.parent / "a.json").read_text())
    gone = data["images"].pop(0)["id"]
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != gone]
    (tmp_path / "b.json").write_text(json.dumps(data))
    _, (without, with_it) = (
        None,
        (
            resdet_eval(run, [f"data.val.annotations={path}"])
            for path in (tmp_path / "b.json", file.parent / "a.json")
        ),
    )
    for kind, numbers in without.items():
        assert {**numbers, "num_broken": 1} == with_it[kind]


def resdet_eval(run: Path, overrides: list[str]) -> dict[str, Any]:
    from resdet.engine.evaluate_detection import evaluate_run

    _, validation = evaluate_run(run, overrides, device="cpu")
    return validation.result.summary
