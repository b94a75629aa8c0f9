"""The figures of `analyze` are written, and show what they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdet.analysis.compare import Compared, Published
from resdet.analysis.curves import Curve, family_of
from resdet.analysis.responses import Response, RunResponses
from resdet.viz.analysis import plot_compare, plot_curves, plot_responses


def curve(name: str, end: float, lines: int = 100) -> Curve:
    steps = np.arange(1, lines + 1) * 50.0
    errors = end + 60 * np.exp(-steps / 800)
    train = np.stack([steps, errors], axis=1)
    return Curve(name, name, family_of(name), train, train[9::10] + np.array([0, 2]))


def picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def ink(path: Path) -> float:
    """Share of the picture that is not white."""
    return float((picture(path).min(axis=2) < 250).mean())


def test_plain_and_residual_have_a_panel_each(tmp_path: Path) -> None:
    plain, residual = curve("plain20", 9), curve("resnet20", 8)
    both = plot_curves([plain, residual], tmp_path / "both.png")
    one = plot_curves([plain, curve("plain56", 12)], tmp_path / "one.png")
    assert all(0.02 < ink(path) < 0.4 for path in (both, one))
    assert picture(both).shape[1] > 1.5 * picture(one).shape[1]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_runs_that_have_just_begun(tmp_path: Path, lines: int) -> None:
    path = plot_curves([curve("resnet20", 8, lines), curve("vgg16", 9)], tmp_path / "a.png")
    assert ink(path) > 0.02
    assert ink(plot_curves([curve("resnet20", 8, lines)], tmp_path / "b.png")) > 0.005


def test_the_error_axis_ends_where_it_is_told_and_shows_high_errors(tmp_path: Path) -> None:
    high = curve("resnet50", 55)
    shown = plot_curves([high], tmp_path / "auto.png")
    cut = plot_curves([high], tmp_path / "cut.png", max_error=20)
    blue = np.array([0, 114, 178])  # the first line's colour
    inside = np.s_[60:, 100:550]  # without the legend
    amount = [(abs(picture(p)[inside] - blue).sum(axis=2) < 30).sum() for p in (shown, cut)]
    assert amount[0] > 500 > 10 > amount[1]


def test_responses(tmp_path: Path) -> None:
    def run(name: str, count: int, after_norm: bool) -> RunResponses:
        std = np.linspace(2, 1, count) + 0.1 * np.sin(np.arange(count))
        layers = [Response(f"conv{k}", f"bn{k}", float(value)) for k, value in enumerate(std)]
        return RunResponses(name, 10, after_norm, layers)

    path = plot_responses(
        [run("plain20", 19, True), run("resnet110", 109, True), run("preact20", 19, False)],
        tmp_path / "responses.png",
    )
    assert 0.02 < ink(path) < 0.4
    assert ink(plot_responses([run("one", 1, True)], tmp_path / "one.png")) > 0.01


def test_comparison(tmp_path: Path) -> None:
    rows = [
        Compared(Published("ResNet-50", "imagenet", 50, None, 6.71, "resnet50"), 50, 25_557_032),
        Compared(Published("FitNet", "cifar10", 19, 2.5e6, 8.39), 19, None),
        Compared(Published("ResNet-20", "cifar10", 20, 0.27e6, 8.75, "x"), 20, 269_722),
        Compared(Published("ResNet-56", "cifar10", 56, 0.85e6, 6.97, "x"), 56, 853_018),
    ]
    assert 0.03 < ink(plot_compare(rows, tmp_path / "compare.png")) < 0.5
    assert ink(plot_compare(rows[:1], tmp_path / "one.png")) > 0.02
