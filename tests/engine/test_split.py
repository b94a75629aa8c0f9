"""data.split in a run: both parts, split.json, resuming, evaluating, --check, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from resdet import cli
from resdet.config.loading import load_config
from resdet.engine.evaluate_detection import evaluate_run
from resdet.engine.start import train
from resdet.errors import UserError
from resdet.factory.detection_data import build_data
from tests.data import layouts
from tests.engine.conftest import losses_of

VOC = """
model: {roi: {mask_head: null}}
data:
  train: {images: YEAR/JPEGImages, annotations: YEAR/ImageSets/Main/trainval.txt, format: voc}
  val: null
  split: {val: 0.25}
eval: {metric: voc07}
train: {max_steps: 2}
"""


def write_config(folder: Path, base: Path) -> Path:
    """The tiny detector on 12 drawn images, some of which are held out."""
    year = layouts.small_voc(folder, count=12)
    file = folder / "voc.yaml"
    file.write_text(f"_base_: {base}\n" + VOC.replace("YEAR", str(year)))
    return file


@pytest.fixture
def config(tiny, tmp_path: Path) -> Path:
    return write_config(tmp_path, tiny.config)


def split_of(run: Path) -> dict:
    return json.loads((run / "split.json").read_text())


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, voc.yaml and a finished run."""
    folder = tmp_path_factory.mktemp("split")
    train(write_config(folder, tiny.config), run_dir=folder / "run", device="cpu")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, whose data are shared."""
    return shutil.copytree(finished / "run", tmp_path / "run")


def test_a_run_holds_out_and_evaluates_on_the_same_images(run: Path) -> None:
    split = split_of(run)
    data = build_data(load_config(run / "config.yaml"))
    assert data.val is not None
    assert data.train.image_ids == split["train"] and data.val.image_ids == split["val"]
    assert len(split["val"]) + len(split["train"]) == 12
    _, validation = evaluate_run(run, device="cpu")
    assert len(validation.result.truth.image_ids) == len(split["val"])
    # the checkpoint alone splits again, and gets the same
    (run / "split.json").unlink()
    _, again = evaluate_run(run / "best.pt", device="cpu")
    assert again.losses == validation.losses


def test_the_stored_split_is_what_counts(run: Path) -> None:
    split = split_of(run)
    split["val"].append(split["train"].pop())  # as if another version had made it
    (run / "split.json").write_text(json.dumps(split))
    _, validation = evaluate_run(run, device="cpu")
    assert sorted(validation.result.truth.image_ids) == sorted(split["val"])
    with pytest.raises(UserError, match=r"data\.train changed since this run started"):
        train(None, ["train.max_steps=3"], run_dir=run, resume=True, device="cpu")
    with pytest.raises(UserError, match=r"was split with val 0\.25 and seed 0; leave the keys out"):
        evaluate_run(run, ["data.split.seed=1"], device="cpu")


def test_evaluating_with_other_data(run: Path, finished: Path, tmp_path: Path) -> None:
    year = finished / "VOC2007"
    main = year / "ImageSets/Main/trainval.txt"
    fewer = layouts.write_lines(main.with_name("fewer.txt"), main.read_text().split()[1:])
    with pytest.raises(UserError, match=r"split\.json: 1 missing \('000001'\)"):
        evaluate_run(run, [f"data.train.annotations={fewer}"], device="cpu")
    other = ["data.split=null", f"data.val.images={year / 'JPEGImages'}"]
    other += [f"data.val.annotations={fewer}", "data.val.format=voc"]
    _, validation = evaluate_run(run, other, device="cpu")
    assert len(validation.result.truth.image_ids) == 11


def test_a_resumed_run_keeps_its_split(run: Path) -> None:
    before, losses = (run / "split.json").read_bytes(), losses_of(run)
    train(None, ["train.max_steps=3"], run_dir=run, resume=True, device="cpu")
    assert (run / "split.json").read_bytes() == before
    assert {**losses_of(run), **losses} == losses_of(run) and sorted(losses_of(run)) == [1, 2, 3]
    with pytest.raises(UserError, match=r"data\.split\.val: 0\.25 → 0\.5"):
        train(None, ["data.split.val=0.5"], run_dir=run, resume=True, device="cpu")


def test_check_shows_the_split_and_keeps_none(config: Path, tmp_path: Path, caplog) -> None:
    args = ["train-det", str(config), "--check", "--device", "cpu", "--run-dir"]
    assert cli.main([*args, str(tmp_path / "run")]) == 0
    first = split_of(tmp_path / "run_check")
    assert "of 12 images of data.train are held out for validation" in caplog.text
    # a changed data set is split again by the next check
    main = tmp_path / "VOC2007/ImageSets/Main/trainval.txt"
    main.write_text(main.read_text().replace("000001\n", ""))
    assert cli.main([*args, str(tmp_path / "run")]) == 0
    second = split_of(tmp_path / "run_check")
    assert len(second["train"] + second["val"]) == 11 < len(first["train"] + first["val"])


def test_split_and_val_are_refused(config: Path, tiny) -> None:
    keys = ["data.val.images=a", "data.val.annotations=b"]
    with pytest.raises(UserError, match=r"data\.split: holds out images of data\.train, and"):
        load_config(config, keys)
    with pytest.raises(UserError, match=r"data\.val=null or data\.split=null"):
        load_config(tiny.config, ["data.split.val=0.1"])
    assert load_config(tiny.config, ["data.val=null", "data.split={}"]).data.val_files is not None


def test_plateau_accepts_held_out_images(config: Path) -> None:
    keys = ["optim.schedule=plateau", "eval.every=1"]
    assert load_config(config, keys).optim.schedule == "plateau"
    with pytest.raises(UserError, match="plateau drops the rate by validations"):
        load_config(config, [*keys, "data.split=null"])
