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


def test_groups_and_a_test_part(config: Path, tmp_path: Path, caplog) -> None:
    """Names 000001 to 000012, of which those with the same last digit stay together."""
    keys = ["data.split.test=0.25", r"data.split.group_pattern=(\d)\.jpg$"]
    run = train(config, keys, run_dir=tmp_path / "run", device="cpu")
    split = split_of(run)
    assert [len(split[part]) for part in ("train", "val", "test")] == [7, 3, 2]
    part_of = {key: part for part in ("train", "val", "test") for key in split[part]}
    assert part_of["000001"] == part_of["000011"] and part_of["000002"] == part_of["000012"]
    assert split["groups"].startswith("group_pattern=")
    folder = run / "test"
    args = ["eval-voc", str(run), "data.split.evaluate=test", "--device", "cpu"]
    before = (run / "eval.json").read_bytes()
    assert cli.main(args) == 0
    assert (folder / "eval.json").is_file() and (run / "eval.json").read_bytes() == before
    _, validation = evaluate_run(run, ["data.split.evaluate=test"], device="cpu")
    assert sorted(validation.result.truth.image_ids) == sorted(split["test"])
    losses = losses_of(run)
    train(None, ["train.max_steps=3"], run_dir=run, resume=True, device="cpu")
    assert split_of(run) == split and {**losses_of(run), **losses} == losses_of(run)
    with pytest.raises(UserError, match=r"split\.evaluate: test is for evaluating a run"):
        train(config, [*keys, "data.split.evaluate=test"], run_dir=tmp_path / "b", device="cpu")
    other = ["data.split.group_pattern=^(.)"]
    with pytest.raises(UserError, match=r"but the run was split with val 0\.25, test 0\.25, gr"):
        evaluate_run(run, other, device="cpu")


def test_a_copy_in_the_test_part_is_a_leak(config: Path, tmp_path: Path) -> None:
    keys = ["data.split.test=0.25"]
    data = build_data(load_config(config, keys))
    assert data.test is not None
    sizes = [list(map(tuple, part.sizes.tolist())) for part in (data.train, data.test)]
    [size, *_] = set(sizes[0]) & set(sizes[1])
    source, target = (
        part.path(own.index(size)) for part, own in zip((data.train, data.test), sizes, strict=True)
    )
    target.write_bytes(source.read_bytes())
    data = build_data(load_config(config, keys), decode_all=True)
    assert data.test is not None
    found = [str(finding) for finding in data.test.findings]
    assert any("byte for byte equal" in each for each in found), found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data.split.val=0.6", "data.split.test=0.5"], "leave nothing to train on"),
        (["data.split.evaluate=test"], "evaluate: test needs a test part"),
        (["data.split.group_pattern=("], "is not a regular expression"),
        (["data.split.group_pattern=a", "data.split.group_key=b"], "give one of them"),
    ],
)
def test_splits_that_cannot_be(config: Path, keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(config, keys)
