"""The benchmark runs and writes what it prints; how fast it is is no test's business."""

from __future__ import annotations

import json

import pytest
import torch

from resdet import hardware
from tests.engine.cls_data import write_cifar10
from tools.benchmark import cifar


def test_what_is_timed(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    monkeypatch.setattr(hardware, "choose_compile", lambda *_: (True, "on"))
    found = cifar.variants(torch.device("cpu"), compiled=True)
    ways = [f"resdet, {kind}, {how}" for kind in ("fp32", "bf16") for how in ("eager", "compiled")]
    assert list(found) == ways
    assert found["resdet, bf16, compiled"] == ["train.precision=bf16", "train.compile=true"]
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    assert list(cifar.variants(torch.device("cpu"), compiled=False)) == ways[:1]


@pytest.mark.slow
def test_every_way_is_timed(tmp_path, monkeypatch, capsys):
    overrides = {"resdet, fp32": ["train.precision=fp32", "train.compile=false"]}
    monkeypatch.setattr(cifar, "variants", lambda device, compiled: overrides)
    root = write_cifar10(tmp_path / "data")
    found = cifar.benchmark_cifar(
        root, batch_size=4, rounds=2, steps=1, device="cpu", out=tmp_path / "out"
    )
    assert [each["name"] for each in found] == ["plain PyTorch, fp32", "resdet, fp32"]
    assert found[0]["ratio"] == 1 and found[0]["note"].endswith("worker(s)")
    assert found[1]["full_minutes"] == pytest.approx(found[1]["seconds"] * 64_000 / 60)
    written = json.loads((tmp_path / "out/benchmark_cifar.json").read_text())
    assert [each["name"] for each in written["rows"]] == [each["name"] for each in found]
    assert "extrapolated" in capsys.readouterr().out
