"""Plots are written, readable, and show what they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.viz.class_curves import plot_class_curves
from resdet.viz.classification import plot_confusion
from resdet.viz.plots import new_figure, plot_pr_curves, plot_text, plot_training, smooth


def make_log(steps: int) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = []
    for step in range(20, 20 * (steps + 1), 20):
        parts = {"loss_rpn_cls": 8 / step, "loss_cls": 20 / step, "loss_mask": 0.5 + 5 / step}
        log.append({"step": step, "loss": sum(parts.values()), "lr": 0.02, **parts})
        if step % 100 == 0:
            numbers = {"AP": 1 - 20 / step, "AP50": 1 - 10 / step}
            log.append({"step": step, "eval": {"bbox": numbers, "segm": numbers}, "val_loss": 1.0})
    return log


def ink(path: Path) -> float:
    """Share of the picture that is not white."""
    with Image.open(path) as picture:
        return float((np.asarray(picture.convert("L")) < 250).mean())


def test_training_plots(tmp_path: Path) -> None:
    written = plot_training(make_log(100), tmp_path / "plots")
    assert [path.name for path in written] == ["losses.png", "lr.png", "metrics.png"]
    assert all(0.01 < ink(path) < 0.5 for path in written)
    assert len(list((tmp_path / "plots").iterdir())) == 3


@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_lines_are_enough(tmp_path: Path, steps: int) -> None:
    assert [p.name for p in plot_training(make_log(steps), tmp_path)] == ["losses.png", "lr.png"]


def test_without_records_nothing_is_written(tmp_path: Path) -> None:
    assert plot_training([], tmp_path) == []


def test_gaps_in_the_log_are_passed_over(tmp_path: Path) -> None:
    log = make_log(10)
    log[3]["loss"] = None  # log.jsonl has null where a value was not finite
    log[4]["loss"] = float("nan")
    log.append({"step": 400, "eval": {"bbox": {"AP": -1.0, "AP50": -1.0}}, "val_loss": None})
    assert len(plot_training(log, tmp_path)) == 3
    only_minus_one = [log[-1]]
    assert [p.name for p in plot_training(only_minus_one, tmp_path / "b")] == ["metrics.png"]


def test_smoothing_is_centred_and_not_misled_by_spikes() -> None:
    values = np.linspace(2, 1, 101)
    assert smooth(values, 5)[10:-10] == pytest.approx(values[10:-10])
    assert smooth(values, 0) == pytest.approx(values)
    values[50] = 1e6
    assert smooth(values, 5).max() < 2.5
    values[50] = np.nan
    assert np.isfinite(smooth(values, 5)).all()
    assert np.isnan(smooth(np.full(3, np.nan), 5)).all()


@pytest.mark.parametrize("classes", [1, 20, 80])
def test_pr_curves(tmp_path: Path, classes: int) -> None:
    precision = np.broadcast_to(np.linspace(1, 0, 101)[None, :, None], (10, 101, classes)).copy()
    precision[..., -1] = -1 if classes > 1 else precision[..., -1]
    path = plot_pr_curves(precision, tmp_path / "pr.png", title="bbox")
    assert 0.01 < ink(path) < 0.6


def test_pr_curves_without_objects(tmp_path: Path) -> None:
    path = plot_pr_curves(np.full((10, 101, 2), -1.0), tmp_path / "pr.png", title="bbox")
    assert ink(path) > 0.005


HOSTILE = ["$\\frac$", "a$b$", "x\ny\x1b[1m\udcff", "=SUM(A1)"]


def test_names_of_classes_are_text_and_no_formulas(tmp_path: Path) -> None:
    precision = np.full((10, 101, len(HOSTILE)), 0.5)
    plot_class_curves(precision, HOSTILE, tmp_path / "a.png", title="$\\x\n", values={})
    plot_confusion(np.eye(len(HOSTILE), dtype=np.int64), HOSTILE, tmp_path / "b.png", title="$")
    assert plot_text("a$b\n") == r"a\$b\n"


def test_a_title_of_several_lines() -> None:
    _, axes = new_figure("Mask R-CNN,\n$ per image", width=3, height=2)
    assert axes.get_title(loc="left") == "Mask R-CNN,\n\\$ per image"
