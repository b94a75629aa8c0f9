"""One setting is varied at a time, and several processes take their steps together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.benchmark import cost, detectors
from tools.benchmark.cost import AXES, Setting, draw_cost, settings, value_of
from tools.benchmark.scenes import write_scene
from tools.benchmark.turns import Contender, take_turns

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(
        write_scene(
            tmp_path_factory.mktemp("scene"),
            batch_size=1,
            size=(64, 96),
            objects=2,
            num_classes=7,
        )
    )


@pytest.mark.parametrize("work", ["train", "infer"])
def test_one_setting_is_varied_at_a_time(work: str) -> None:
    base = Setting((800, 1216), 2)
    found = settings(work, base, CPU)
    assert set(AXES) - set(found) == ({"processes"} if work == "infer" else set())
    for axis, varied in found.items():
        values = [value_of(axis, one) for one in varied]
        assert values == sorted(set(values)) and value_of(axis, base) in values
        for other in set(found) - {axis}:
            assert {value_of(other, one) for one in varied} == {value_of(other, base)}
    assert all(side % 32 == 0 for one in found["size"] for side in one.size)


def test_the_chart_leaves_out_what_failed(tmp_path: Path) -> None:
    rows = [
        {
            "work": "train",
            "axis": axis,
            "value": value,
            "images": 2,
            **{
                key: None if value == 4 else share * value
                for key, share in (("fastest_s", 0.9), ("seconds", 1.0), ("slowest_s", 1.3))
            },
            "peak_mb": None if value == 4 else 1000.0 * value,
            "error": "out of memory" if value == 4 else None,
        }
        for axis in AXES
        for value in (1, 2, 4)
    ]
    draw_cost(rows, tmp_path / "cost.png", title="a title")
    assert (tmp_path / "cost.png").stat().st_size > 10_000


def test_inference_keeps_as_many_objects_as_it_is_told(scene: str) -> None:
    step, _ = cost.make_infer(
        scene=scene, device="cpu", precision="fp32", compiled=False, objects=5
    )
    [masks] = step()
    assert masks.shape == (5, 64, 96)


def test_weights_of_other_numbers_of_classes(scene: str) -> None:
    found = detectors.load_scene(scene)
    assert found["num_classes"] == 7 and int(found["labels"].max()) < 7


@pytest.mark.slow
def test_two_processes_take_a_step_together(scene: str) -> None:
    given = {"scene": scene, "device": "cpu", "precision": "fp32", "compiled": False}
    contenders = [Contender("two", "tools.benchmark.cost:make_train", {**given, "processes": 2})]
    [timing] = take_turns(contenders, rounds=1, steps=2, warmup=1, device="cpu")
    assert timing.error is None and timing.seconds is not None
