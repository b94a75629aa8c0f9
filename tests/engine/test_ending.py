"""Runs that end before their last step by their own rules, and those that become longer."""

import logging
import time

import pytest

import resdet
from resdet.engine import distributed
from resdet.engine.ending import Ending
from resdet.errors import UserError
from resdet.files import checkpoint
from tests.engine.conftest import assert_same_end, log_of, losses_of

EVERY = ["train.max_steps=6", "eval.every=1", "eval.val_loss=false"]
NO_GAIN = [*EVERY, "optim.lr=1e-12"]
"""The weights hardly move, so that no validation is better than the first."""


def messages(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_a_run_ends_when_validation_no_longer_gets_better(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    stopping = [*NO_GAIN, "train.early_stop.patience=2"]
    resdet.train(tiny.config, stopping, run_dir=run, device="cpu")
    assert [line["step"] for line in log_of(run) if "eval" in line] == [1, 2, 3]
    state = checkpoint.load(run / "last.pt")
    assert (state["step"], state["best"]["step"]) == (3, 1)
    assert state["ending"]["waited"] == 2
    assert not (run / "previous.pt").exists()
    assert "done: 3 of 6 steps (no better validation in 2" in messages(caplog)

    # It is done: resuming it changes nothing, and without the limit it continues exactly.
    before = (run / "log.jsonl").read_text()
    resdet.train(None, run_dir=run, resume=True, device="cpu")
    assert (run / "log.jsonl").read_text() == before
    resdet.train(None, ["train.early_stop=null"], run_dir=run, resume=True, device="cpu")
    whole = resdet.train(tiny.config, NO_GAIN, run_dir=tmp_path / "whole", device="cpu")
    assert_same_end(run, whole)


def test_a_better_validation_starts_the_count_again():
    ending = Ending(patience=2, max_hours=None)
    for is_better in (True, False, True, False):
        ending.see_metric(is_better=is_better)
        assert not ending.is_stalled
    ending.see_metric(is_better=False)
    assert ending.is_stalled


def test_hours_of_all_resumes_count():
    ending = Ending(patience=None, max_hours=2.0)
    assert not ending.is_over_time
    ending.restore({"waited": 0, "seconds": 7000.0})
    assert not ending.is_over_time
    ending.started = time.monotonic() - 300
    assert ending.is_over_time
    assert ending.state()["seconds"] == pytest.approx(7300, abs=1)


def test_a_run_without_time_left_saves_and_continues_exactly(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    common = ["train.max_steps=4", "eval.every=2", "eval.val_loss=false"]
    resdet.train(tiny.config, [*common, "train.max_hours=1e-9"], run_dir=run, device="cpu")
    state = checkpoint.load(run / "last.pt")
    assert state["step"] == 1
    assert "done: 1 of 4 steps (train.max_hours 1e-09 are over" in messages(caplog)
    # half way, at a step whose validation the limit has put off
    resdet.train(None, [], run_dir=run, resume=True, device="cpu")
    assert checkpoint.load(run / "last.pt")["validation_is_due"]
    resdet.train(None, ["train.max_hours=null"], run_dir=run, resume=True, device="cpu")
    whole = resdet.train(tiny.config, common, run_dir=tmp_path / "whole", device="cpu")
    assert_same_end(run, whole)


def test_the_last_step_is_validated_without_time_left(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    overrides = ["train.max_steps=1", "train.max_hours=1e-9", "model.roi.mask_head=null"]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert "eval" in log_of(run)[-1] and (run / "best.pt").is_file()
    assert not checkpoint.load(run / "last.pt")["validation_is_due"]
    assert "done: 1 steps; best" in messages(caplog)


def test_the_main_process_tells_all_whether_validation_is_better(tiny, tmp_path, monkeypatch):
    # process 1's best may be one that the disk of the main process refused
    told, broadcast = [], distributed.broadcast

    def of_main(value, processes):
        if not isinstance(value, bool):
            return broadcast(value, processes)
        told.append(value)
        return len(told) == 2

    monkeypatch.setattr(distributed, "broadcast", of_main)
    overrides = ["train.max_steps=2", "eval.every=1", "model.roi.mask_head=null"]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "run", device="cpu")
    state = checkpoint.load(run / "last.pt")
    assert told == [True, True]
    assert state["best"]["step"] == 2 and state["ending"]["waited"] == 0


@pytest.mark.parametrize("overrides", [["data.val=null"], ["eval.every=0"]])
def test_without_validations_nothing_stops_early(tiny, tmp_path, overrides):
    given = ["train.early_stop.patience=3", *overrides]
    with pytest.raises(UserError, match=r"train\.early_stop: ends the run by validations; give"):
        resdet.train(tiny.config, given, run_dir=tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("schedule", "words", "is_exact"),
    [
        ("cosine", "the cosine now ends there, so that the rate continues at", False),
        pytest.param("plateau", "as in a run of that length", True, marks=pytest.mark.slow),
    ],
)
def test_a_longer_run_says_what_its_schedule_does(
    tiny, tmp_path, caplog, schedule, words, is_exact
):
    caplog.set_level(logging.INFO)
    common = [f"optim.schedule={schedule}", "eval.every=2", "eval.val_loss=false"]
    common += ["model.roi.mask_head=null"]
    short, whole = tmp_path / "short", tmp_path / "whole"
    resdet.train(tiny.config, [*common, "train.max_steps=2"], run_dir=short, device="cpu")
    resdet.train(None, ["train.max_steps=4"], run_dir=short, resume=True, device="cpu")
    assert "longer: 2 → 4 steps" in messages(caplog)
    assert words in messages(caplog)
    resdet.train(tiny.config, [*common, "train.max_steps=4"], run_dir=whole, device="cpu")
    assert (losses_of(short) == losses_of(whole)) == is_exact
    # the last rates are those of a run of four steps
    assert losses_of(short)[4]["lr"] == losses_of(whole)[4]["lr"]


def test_no_run_becomes_shorter(tiny, tmp_path):
    run = resdet.train(tiny.config, ["train.max_steps=2"], run_dir=tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match=r"train\.max_steps: 2 → 1"):
        resdet.train(None, ["train.max_steps=1"], run_dir=run, resume=True, device="cpu")
