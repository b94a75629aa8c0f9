"""Contenders alternate, each in its own process, and one that fails does not stop the others."""

from __future__ import annotations

import json
import multiprocessing

import torch

from tools.benchmark.report import Row, report
from tools.benchmark.turns import Contender, take_turns

WORK = "tests.tools.benchmark.work"


def test_they_alternate_and_failures_are_told(tmp_path, capsys, monkeypatch) -> None:
    # processes that need not import torch, each for itself
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.benchmark.turns"])
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda method: context)
    log = tmp_path / "log.txt"
    contenders = [
        Contender("first", f"{WORK}:make", {"log": str(log), "name": "first"}),
        Contender("late failure", f"{WORK}:make_failing", {"after": 2}),
        Contender("no such", f"{WORK}:make_nothing"),
        Contender("dying", f"{WORK}:make_dying"),
        Contender("last", f"{WORK}:make", {"log": str(log), "name": "last"}),
    ]
    found = take_turns(contenders, rounds=2, steps=2, warmup=1, device="cpu")
    assert log.read_text().split() == ["first", "last"] + ["first", "first", "last", "last"] * 2
    first, late, missing, dying, last = found
    for timing in (first, last):
        assert timing.error is None and timing.note == "a note" and timing.peak_mb > 50
        assert timing.fastest_s <= timing.seconds <= timing.slowest_s
    assert late.error == "RuntimeError: out of paper"
    assert "make_nothing" in missing.error
    assert "exit code 3" in dying.error

    rows = [Row(timing, 4, flops=2e6, limit=1e9, is_ours=False) for timing in found]
    values = report(
        rows, title="writing", unit="lines", name="turns", out=tmp_path, details={"seed": 0}
    )
    assert values[0]["ratio"] == 1 and values[0]["per_s"] == 4 / first.seconds
    assert values[4]["share_of_limit"] == 2e6 / last.seconds / 1e9
    written = json.loads((tmp_path / "benchmark_turns.json").read_text())
    assert written["rows"] == values and written["seed"] == 0 and written["cores"] >= 1
    assert (tmp_path / "benchmark_turns.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "failed: RuntimeError: out of paper" in printed and "lines/s" in printed
