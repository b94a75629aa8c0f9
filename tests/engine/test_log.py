import errno
import io
import json
import logging
import math
import shutil
import sys

import pytest

from resdet.engine.log import RunLog, _Console, cut_log, show, start_console
from resdet.files.findings import DataError


def log_of(folder, start_step=0, tensorboard=False) -> RunLog:
    return RunLog(
        folder, is_main=True, tensorboard=tensorboard, start_step=start_step, total_steps=8
    )


def train_line(step: int, **more) -> dict:
    return {
        "step": step,
        "epoch": step / 4,
        "loss": 1 / step,
        "loss_cls": 1 / step,
        "lr": 0.1,
        "images_per_s": 2.0,
        "memory_mb": 100.0,
        **more,
    }


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_keep_every_bit_of_a_number(tmp_path):
    log = log_of(tmp_path)
    log.training(train_line(3), eta_s=1.0)
    log.close()
    assert read(tmp_path / "log.jsonl")[0]["loss"] == 1 / 3


def test_infinite_gradient_norms_stay_json(tmp_path):
    log = log_of(tmp_path)
    log.training(train_line(1, grad_norm=math.inf), eta_s=1.0)
    log.close()
    assert read(tmp_path / "log.jsonl")[0]["grad_norm"] is None


def test_infinite_validation_losses_stay_json(tmp_path):
    line = {"step": 1, "epoch": 1.0, "eval": {}, "eval_s": 1.0}
    line |= {"val_loss": math.nan, "val_losses": {"loss_cls": math.nan, "loss_box": 1.0}}
    log = log_of(tmp_path)
    log.evaluation(line, "")
    log.close()
    [written] = read(tmp_path / "log.jsonl")
    assert written["val_loss"] is None
    assert written["val_losses"] == {"loss_cls": None, "loss_box": 1.0}


def test_later_and_broken_lines_are_cut(tmp_path):
    log = log_of(tmp_path)
    for step in (2, 4, 6):
        log.training(train_line(step), eta_s=1.0)
    log.close()
    path = tmp_path / "log.jsonl"
    with path.open("a") as file:
        file.write('{"step": 8, "los')
    assert cut_log(path, 4) == 2
    assert [line["step"] for line in read(path)] == [2, 4]
    log = log_of(tmp_path, start_step=4)
    log.training(train_line(6), eta_s=1.0)
    log.close()
    assert [line["step"] for line in read(path)] == [2, 4, 6]


def test_metrics_that_come_again_are_cut(tmp_path):
    log = log_of(tmp_path)
    log.training(train_line(4), eta_s=1.0)
    metrics = {"bbox": {"AP": 0.5, "AP50": 0.7, "AP75": 0.4}}
    log.evaluation({"step": 4, "eval": metrics, "val_loss": None, "eval_s": 1.0}, "")
    log.close()
    assert cut_log(tmp_path / "log.jsonl", 4) == 0
    assert cut_log(tmp_path / "log.jsonl", 4, validation_is_due=True) == 1
    assert ["eval" in line for line in read(tmp_path / "log.jsonl")] == [False]


def test_no_log_is_nothing_to_cut(tmp_path):
    assert cut_log(tmp_path / "log.jsonl", 4) == 0


def test_tensorboard_and_metrics(tmp_path, caplog):
    log = log_of(tmp_path, tensorboard=True)
    log.training(train_line(2), eta_s=1.0)
    line = {"step": 2, "epoch": 0.5, "eval": {"bbox": {"AP": 0.5, "AP50": 0.7, "AP75": 0.4}}}
    log.evaluation(
        {**line, "val_loss": 1.5, "val_losses": {"loss_cls": 1.5}, "eval_s": 3.0}, "AP 0.5"
    )
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert read(tmp_path / "log.jsonl")[1]["eval"]["bbox"]["AP"] == 0.5


def test_other_processes_write_nothing(tmp_path):
    log = RunLog(tmp_path, is_main=False, tensorboard=True, start_step=0, total_steps=8)
    log.training(train_line(2), eta_s=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_shows_its_warnings_again(capsys, monkeypatch):
    logger = logging.getLogger("resdet")
    monkeypatch.setattr(logger, "handlers", [_Console()])
    monkeypatch.setattr(logger, "propagate", False)
    for _ in range(2):
        start_console(is_main=True)
        logger.warning("odd boxes")
        logger.warning("odd boxes")
    assert capsys.readouterr().out == "warning: odd boxes\n" * 2


def test_names_cannot_act_on_the_terminal(capsys):
    logger = logging.getLogger("resdet.test_names")
    logger.addHandler(_Console())
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.info("%s: is \x1b[2J", "a\nerror: all is lost.jpg")
    logger.error("%s", DataError("a\nb: is wrong", "see below"))
    assert capsys.readouterr().out.splitlines() == [
        r"a\nerror: all is lost.jpg: is \x1b[2J",
        r"error: a\nb: is wrong",
        "see below",
    ]


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_reads_the_events_and_hides_those_that_are_repeated(tmp_path):
    log = log_of(tmp_path, tensorboard=True)
    for step in (2, 4):
        log.training(train_line(step, grad_norm=math.inf), eta_s=1.0)
    log.close()
    log = log_of(tmp_path, start_step=2, tensorboard=True)
    log.training(train_line(3), eta_s=1.0)
    log.close()
    found = scalars(tmp_path)
    assert found["train/lr"] == [(2, pytest.approx(0.1)), (3, pytest.approx(0.1))]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_full_disk_ends_no_run_and_loses_no_line(tmp_path, monkeypatch, caplog):
    log = log_of(tmp_path, tensorboard=True)
    log.training(train_line(1), eta_s=1.0)

    class Full(io.FileIO):
        def write(self, data, /):
            raise OSError(errno.ENOSPC, "No space left on device")

    files = [log._file, log._events._file]
    own = [file._file for file in files]
    with monkeypatch.context() as patch:
        for file in files:
            patch.setattr(file, "_file", Full(file.path, "a"))
        log.training(train_line(2), eta_s=1.0)
        log.training(train_line(3), eta_s=1.0)
    assert [file._file for file in files] == own
    assert "log.jsonl: cannot be written: no space left on device" in caplog.text
    assert len(read(tmp_path / "log.jsonl")) == 1
    log.training(train_line(4), eta_s=1.0)
    log.close()
    assert [line["step"] for line in read(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3, 4]


def test_a_removed_folder_ends_no_run(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    log = log_of(tmp_path / "run", tensorboard=True)
    shutil.rmtree(tmp_path / "run")
    log.training(train_line(1), eta_s=1.0)
    log.close()
    assert "the folder was removed" in caplog.text


def test_a_damaged_log_is_cut(tmp_path):
    path = tmp_path / "log.jsonl"
    bad = [b"\xff\xfe", b"[" * 10**5, b'{"step": 1e999}', b"7", b'{"step": "x"}', b"null"]
    path.write_bytes(b'{"step": 1}\n' + b"\n".join(bad) + b'\n{"step": 2}\n{"step": 3}')
    assert cut_log(path, 2) == len(bad) + 1
    assert [line["step"] for line in read(path)] == [1, 2]


@pytest.mark.parametrize("stream", ["broken", "full", "closed", "ascii", "none"])
def test_lines_that_cannot_be_printed_end_no_run(monkeypatch, stream):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError if stream == "broken" else OSError(errno.ENOSPC, "full")

    out = {
        "ascii": io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
        "closed": io.StringIO(),
        "none": None,
    }.get(stream, Broken())
    if stream == "closed":
        out.close()
    monkeypatch.setattr(sys, "stdout", out)
    show("20 → 10 images")
    if stream == "ascii":
        assert out.buffer.getvalue() == b"20 \\u2192 10 images\n"
