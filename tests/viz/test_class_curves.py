"""Curves per class: one panel for each class with objects."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdet.viz import class_curves
from resdet.viz.class_curves import plot_class_curves


@pytest.mark.parametrize("thresholds", [1, 10])
def test_more_classes_take_more_room(tmp_path: Path, thresholds: int) -> None:
    sizes = []
    for count in (2, 12):
        precision = np.tile(np.linspace(1, 0, 101)[None, :, None], (thresholds, 1, count))
        names = [f"a class with a long name {label}" for label in range(count)]
        values = dict.fromkeys(names, 0.5) | {names[0]: math.nan}
        path = tmp_path / f"{count}.png"
        assert plot_class_curves(precision, names, path, title="Title", values=values) == path
        with Image.open(path) as picture:
            sizes.append(picture.size[0] * picture.size[1])
    assert sizes[1] > 2 * sizes[0]


def test_classes_without_objects_are_left_out(tmp_path: Path) -> None:
    nothing = np.full((1, 101, 3), -1.0)
    for name, precision in (("none", nothing), ("one", nothing.copy())):
        precision[..., 1:] = -1.0 if name == "none" else 0.5
        path = tmp_path / f"{name}.png"
        plot_class_curves(precision, ["a", "b", "c"], path, title="Title", values={})
        with Image.open(path) as picture:
            assert min(picture.size) > 200


def test_a_picture_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = set()
    monkeypatch.setattr(class_curves, "MAX_CLASSES", 6)
    for count in (6, 40):
        names = [str(label) for label in range(count)]
        path = tmp_path / f"{count}.png"
        plot_class_curves(np.full((1, 101, count), 0.5), names, path, title="Title", values={})
        with Image.open(path) as picture:
            sizes.add(picture.size)
    assert len(sizes) == 1
