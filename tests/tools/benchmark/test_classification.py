"""The step that is timed is one of the network named; its figures are no test's business."""

from __future__ import annotations

import pytest

from resdet.errors import UserError
from tools.benchmark.classification import benchmark_network


@pytest.mark.slow  # four processes that import torch
def test_the_table(tmp_path, capsys) -> None:
    rows = benchmark_network(
        "resnet18", batch_size=2, size=64, rounds=1, steps=1, compiled=False, out=tmp_path
    )
    assert rows[0]["name"] == "torchvision, fp32"
    assert not any(row["error"] for row in rows)
    assert all(row["flops"] > 0 for row in rows)
    assert (tmp_path / "benchmark_cls.json").is_file()
    assert "images/s" in capsys.readouterr().out


def test_a_network_that_torchvision_lacks() -> None:
    with pytest.raises(UserError, match="torchvision has no such model"):
        benchmark_network("resnet34c")


def test_a_network_that_resdet_has_no_recipe_for() -> None:
    with pytest.raises(UserError, match="no config imagenet_alexnet"):
        benchmark_network("alexnet")
