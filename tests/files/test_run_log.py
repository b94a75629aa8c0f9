"""log.jsonl is read whatever happened to it."""

import json
from pathlib import Path

import pytest

from resdet.files.run_log import parse_record, read_log
from resdet.viz.plots import plot_training

SOUND = {"step": 3, "loss": 0.5, "lr": 0.1, "eval": {"top1": 0.5, "bbox": {"AP": 0.1}}}


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", "null", '{"step": "3"}', '{"step": 1.5}', '{"step": true}', '{"step": -1}',
     '{"step": 1' + "0" * 400 + "}", '{"loss": 1}', "[" * 100_000, "\ufeff{}"],
)  # fmt: skip
def test_a_line_without_a_step_is_no_record(line: str) -> None:
    assert parse_record(line) is None


def test_a_record_has_numbers_only() -> None:
    assert parse_record(json.dumps(SOUND)) == SOUND
    odd = {
        **SOUND,
        "loss": [1],
        "lr": 10**400,
        "val_loss": None,
        "val_losses": 5,
        "loss_cls": "0.5",
        "loss_box": float("nan"),
        "eval": {"AP": True, "bbox": {"AP": {"a": 1}, "AR": 0.5}},
    }
    assert parse_record(json.dumps(odd)) == {
        "step": 3,
        "lr": None,
        "val_loss": None,
        "loss_box": None,
        "eval": {"bbox": {"AR": 0.5}},
    }


def test_a_damaged_file_still_has_its_sound_lines_and_its_plots(tmp_path: Path) -> None:
    lines = [json.dumps({**SOUND, "step": step}).encode() for step in (1, 2, 3)]
    broken = [b"\xff\xfe{", lines[0][:-9], b'{"step": 2, "lr": null, "loss": null, "eval": 5}']
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join([*lines, *broken]))
    records = read_log(path)
    assert [record["step"] for record in records] == [1, 2, 3, 2]
    assert len(plot_training(records, tmp_path / "plots")) == 3
