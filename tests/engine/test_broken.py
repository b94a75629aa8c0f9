"""Images that turn out to be broken during a run, and errors that end one."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import resdet
from resdet.data.detection import checks
from resdet.data.loader import TrainPlan
from resdet.engine import train as module
from resdet.engine.broken import BrokenImages
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import evaluate_run
from resdet.engine.step import divisors
from resdet.errors import UserError
from resdet.files import checkpoint
from resdet.models.rcnn import RCNN
from tests.engine.conftest import Tiny, assert_same_end, log_of, losses_of
from tests.engine.test_distributed import torchrun

ALONE = Processes(0, 1, 1, torch.device("cpu"))


def copied(tiny: Tiny, folder: Path, count: int = 4) -> tuple[Path, list[str]]:
    """The images of the tiny task's training data once more, and overrides that train and validate
    on them; the file of the first image."""
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
    run = train(tiny, [*overrides, "train.max_steps=2"], tmp_path / "run")
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
    paths = (tmp_path / "b.json", file.parent / "a.json")
    without, with_it = (resdet_eval(run, [f"data.val.annotations={path}"]) for path in paths)
    for kind, numbers in without.items():
        assert {**numbers, "num_broken": 1} == with_it[kind]


def resdet_eval(run: Path, overrides: list[str]) -> dict[str, Any]:
    _, validation = evaluate_run(run, overrides, device="cpu")
    return validation.result.summary


def test_too_many_broken_images_save_and_stop(tiny, tmp_path):
    """Deleted and replaced by text; the run goes on once they are restored."""
    file, overrides = copied(tiny, tmp_path / "data")
    other = sorted(file.parent.glob("*.png"))[-1]
    other = other if other != file else sorted(file.parent.glob("*.png"))[0]
    whole = {path: path.read_bytes() for path in (file, other)}
    update = module.update

    def breaking(training, micro_batches, step):
        if step == 0:
            file.unlink()
            other.write_text("no image")
        return update(training, micro_batches, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "update", breaking)
        with pytest.raises(UserError, match=r"2 of 4 images are broken, and data.max_broken 0.01"):
            train(tiny, [*overrides, "train.max_steps=5"], tmp_path / "run")
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert 2 <= state["step"] < 5 and len(state["broken"]["train"]) == 2
    for path, content in whole.items():
        path.write_bytes(content)
    run = resdet.train(None, [], run_dir=tmp_path / "run", resume=True, device="cpu")
    assert sorted(losses_of(run)) == list(range(1, 6))


@pytest.mark.slow
def test_an_error_saves_the_last_step_and_the_run_resumes_exactly(tiny, tmp_path, monkeypatch):
    """With a broken image, and with another number of loader workers."""
    file, overrides = copied(tiny, tmp_path / "data")
    cut(file)
    overrides += ["train.max_steps=3", "eval.val_loss=false"]
    whole = train(tiny, overrides, tmp_path / "whole")
    update = module.update

    def failing(training, micro_batches, step):
        if step == 2:
            raise RuntimeError("a bug")
        return update(training, micro_batches, step)

    with monkeypatch.context() as patch:
        patch.setattr(module, "update", failing)
        with pytest.raises(RuntimeError, match="a bug"):
            train(tiny, [*overrides, "data.workers=3"], tmp_path / "run")
    assert multiprocessing.active_children() == []
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 2
    resdet.train(None, [], run_dir=tmp_path / "run", resume=True, device="cpu")
    assert_same_end(whole, tmp_path / "run")
    counts = [[line.get("num_broken") for line in log_of(r)] for r in (whole, tmp_path / "run")]
    assert counts[0] == counts[1] and 1 in counts[0]


def test_a_step_without_any_image_trains_nothing(tiny, tmp_path):
    """Its losses are 0, and the next step is made as ever."""
    file, overrides = copied(tiny, tmp_path / "data")
    images = json.loads((file.parent / "a.json").read_text())["images"]
    for _, index in TrainPlan(len(images), batch_size=2, seed=0).batch(0):
        cut(file.parent / images[index]["file_name"])
    overrides += ["train.max_steps=2", "data.max_broken=0.5", "data.val=null"]
    run = train(tiny, overrides, tmp_path / "run")
    none, some = losses_of(run).values()
    assert {value for name, value in none.items() if name != "lr"} == {0.0}
    assert all(value > 0 for value in some.values())
    assert log_of(run)[0]["num_broken"] == 2


@pytest.mark.slow
def test_a_process_without_any_image(repo, tiny, tmp_path):
    """Two processes of an image each are one process of both, if both images are broken (step 1)
    and if one of them is (step 2)."""
    file, overrides = copied(tiny, tmp_path / "data")
    images = json.loads((file.parent / "a.json").read_text())["images"]
    plan = TrainPlan(len(images), batch_size=2, seed=0)
    for _, index in [*plan.batch(0), plan.batch(1)[0]]:
        cut(file.parent / images[index]["file_name"])
    backbone = ["model.backbone.norm=frozen_bn", f"model.backbone.weights={tiny.backbone}"]
    overrides += ["train.max_steps=3", *backbone, "train.precision=fp64", "data.max_broken=0.75"]
    one = train(tiny, overrides, tmp_path / "one")
    done = torchrun(repo, tiny.config, tmp_path / "two", overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = losses_of(one), losses_of(tmp_path / "two")
    assert sorted(second) == [1, 2, 3]
    for step, losses in first.items():
        assert second[step] == pytest.approx(losses, rel=1e-5, abs=1e-8)
    lines = [log_of(run) for run in (one, tmp_path / "two")]
    counts = [[line.get("num_broken") for line in of_run] for of_run in lines]
    assert counts[0] == counts[1] == [2, 3, 3, None]
    evals = [of_run[-1]["eval"] for of_run in lines]
    for kind, numbers in evals[0].items():
        assert evals[1][kind] == pytest.approx(numbers)


def test_a_wrong_size_that_is_corrected_after_training_met_it(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checks, "HEADERS_AT_START", 0)
    file, overrides = copied(tiny, tmp_path / "data")
    annotations = file.parent / "a.json"
    right = annotations.read_text()
    wrong = json.loads(right)
    wrong["images"][0]["height"] += 8
    annotations.write_text(json.dumps(wrong))
    run = train(tiny, [*overrides, "train.max_steps=2", "data.val=null"], tmp_path / "run")
    assert f"{file}: is 256×256 pixels, but {annotations} gives image 1 256×264" in caplog.text
    annotations.write_text(right)
    caplog.clear()
    resdet.train(None, ["train.max_steps=4"], run_dir=run, resume=True, device="cpu")
    assert f"1 image(s) (image 1 ({file.name})): left out as broken so far" in caplog.text
    assert "broken image(s) left out" not in caplog.text
    assert sorted(losses_of(run)) == [1, 2, 3, 4]


def test_an_error_in_a_validation_ends_its_workers(tiny, tmp_path, monkeypatch):
    def failing(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(RCNN, "infer", failing)
    with pytest.raises(RuntimeError, match="a bug"):
        train(tiny, ["data.workers=1", "train.max_steps=1"], tmp_path / "run")
    assert multiprocessing.active_children() == []
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert (state["step"], state["validation_is_due"]) == (1, True)


def test_no_metric_means_no_best(tiny, tmp_path, caplog):
    _, overrides = copied(tiny, tmp_path / "data")
    data = json.loads((tmp_path / "data" / "a.json").read_text())
    (tmp_path / "v.json").write_text(json.dumps({**data, "annotations": []}))
    overrides += [f"data.val.annotations={tmp_path}/v.json", "train.max_steps=1"]
    run = train(tiny, overrides, tmp_path / "run")
    assert not (run / "best.pt").exists()
    assert checkpoint.load(run / "last.pt")["best"] is None
    caplog.clear()
    resdet.load(run, device="cpu")
    assert "no validation gave a best.pt, so last.pt is used" in caplog.text


def test_micro_batches_weigh_by_their_readable_images():
    assert divisors([4, 4, 4], ALONE) == ([3.0] * 3, [3.0] * 3)
    assert divisors([2, 1], ALONE)[0] == [1.5, 3.0]
    assert divisors([2, 0], ALONE)[0] == [1.0, float("inf")]
    assert divisors([0, 0], ALONE)[0] == [2.0, 2.0]
    assert divisors([0], ALONE)[0] == [1.0]


def test_one_image_of_a_small_set_may_be_broken():
    limits = [BrokenImages("data.train", n, 0.01).limit for n in (1, 6, 100, 101, 118_000)]
    assert limits == [1, 1, 1, 2, 1180]
    assert BrokenImages("data.train", 118_000, 0.0).limit == 0
