import logging

import pytest
import torch

from resdet.config.loading import config_to_dict, load_config
from resdet.engine.distributed import Processes
from resdet.engine.run_folder import Run, choose_folder, has_begun, open_run, prepare_folder
from resdet.errors import UserError
from resdet.files import checkpoint
from resdet.files.lock import LOCK_FILE

YAML = "train: {max_steps: 8, batch_size: 2}\noptim: {milestones: [6]}\n"


def opened(path, overrides, *, run_dir, resume) -> Run:
    """As `train` opens the run of a config file."""
    folder = choose_folder(path, run_dir)
    if path is None:
        return open_run(None, folder, resume=resume, overrides=overrides)
    return open_run(load_config(path, overrides), folder, resume=resume)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return path


@pytest.fixture
def begun(tmp_path, config):
    """A run folder with a checkpoint at step 4."""
    run = opened(config, [], run_dir=tmp_path / "run", resume=False)
    prepare_folder(run)
    state = {"format": 1, "kind": "detector", "class_names": [], "category_ids": []}
    state |= {"config": config_to_dict(run.config), "step": 4, "model": {"w": torch.zeros(1)}}
    state |= {"ema": None, "optimizer": {}, "scaler": {}, "best": None, "threads": 1}
    state |= {"validation_is_due": False, "data": "3 images"}
    checkpoint.save(run.folder / "last.pt", state)
    return run.folder


def test_the_folder_takes_the_configs_name(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = opened(config, [], run_dir=None, resume=False)
    assert run.folder.as_posix() == "runs/tiny"
    assert not run.folder.exists()


def test_a_run_is_not_overwritten(config, begun):
    with pytest.raises(UserError, match=r"--resume, or give another one with --run-dir"):
        opened(config, [], run_dir=begun, resume=False)
    with pytest.raises(UserError, match=r"last\.pt: is a file; give a folder for the run"):
        opened(config, [], run_dir=begun / "last.pt", resume=False)


def test_a_run_has_begun_once_it_has_written_files(begun, tmp_path):
    alone = Processes(0, 1, 1, torch.device("cpu"))
    killed = tmp_path / "killed"
    assert has_begun(begun, alone) and not has_begun(killed, alone)
    killed.mkdir()
    (killed / LOCK_FILE).touch()
    assert not has_begun(killed, alone)
    assert not has_begun(begun / "last.pt", alone)
    (killed / "config.yaml").touch()
    assert has_begun(killed, alone)


def test_a_folder_that_cannot_be_made_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    run = opened(config, [], run_dir=tmp_path / "file" / "run", resume=False)
    with pytest.raises(UserError, match=r"cannot be made a folder: .*--run-dir"):
        prepare_folder(run)


def test_an_empty_folder_is_taken(config, tmp_path):
    (tmp_path / "empty").mkdir()
    assert opened(config, [], run_dir=tmp_path / "empty", resume=False).checkpoint is None


def test_resume_needs_no_config(begun, config):
    run = opened(None, [], run_dir=begun, resume=True)
    assert run.checkpoint is not None
    assert run.checkpoint["step"] == 4
    assert run.config == load_config(config)


def test_resume_before_the_first_checkpoint_starts_over(begun, config, caplog):
    state = checkpoint.load(begun / "last.pt")
    (begun / "last.pt").unlink()
    for had_last in (None, False):  # a validation may come before the first checkpoint
        checkpoint.save(begun / "best.pt", state | {"had_last": had_last})
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="resdet"):
            run = opened(None, [], run_dir=begun, resume=True)
        assert run.checkpoint is None
        assert run.config == load_config(config)
        assert "has no last.pt yet; the run starts from its beginning" in caplog.text
    (begun / "best.pt").write_bytes(b"damaged")
    assert opened(None, [], run_dir=begun, resume=True).checkpoint is None


def test_a_removed_last_checkpoint_does_not_cost_the_best(begun, config):
    state = checkpoint.load(begun / "last.pt")
    (begun / "last.pt").unlink()
    checkpoint.save(begun / "best.pt", state | {"had_last": True})
    with pytest.raises(UserError, match=r"last\.pt: is missing, .*model\.weights=.*best\.pt"):
        opened(None, [], run_dir=begun, resume=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=0.5", r"optim\.lr: 0\.02 → 0\.5"),
        ("train.batch_size=4", r"train\.batch_size: 2 → 4"),
        ("train.max_steps=6", r"train\.max_steps: 8 → 6"),
        ("train.epochs=3", r"train\.max_steps: 8 → None"),
    ],
)
def test_changed_keys_are_named(begun, config, override, words):
    for first in (config, None):
        with pytest.raises(UserError, match=words):
            opened(first, [override], run_dir=begun, resume=True)


@pytest.mark.parametrize(
    "override",
    [
        "data.workers=3",
        "log.every=1",
        "log.tensorboard=false",
        "checkpoint.every=2",
        "train.max_steps=20",
    ],
)
def test_keys_that_change_no_number_are_free(begun, override):
    assert opened(None, [override], run_dir=begun, resume=True).checkpoint is not None


def test_nothing_to_resume(config, tmp_path):
    with pytest.raises(UserError, match="no run to resume"):
        opened(config, [], run_dir=tmp_path / "none", resume=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"neither last\.pt nor config\.yaml"):
        opened(config, [], run_dir=tmp_path / "other", resume=True)
    with pytest.raises(UserError, match="no run folder"):
        opened(None, [], run_dir=None, resume=True)
    with pytest.raises(UserError, match="give a CONFIG"):
        opened(None, [], run_dir=tmp_path / "new", resume=False)
