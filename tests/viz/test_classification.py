"""Pictures of a classifier's answers are written, readable, and show what they are given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.structures import Classification
from resdet.viz.classification import plot_confusion
from resdet.viz.draw import MIN_WIDTH, draw_classification


def confusion(num_classes: int, images: int = 50) -> np.ndarray:
    """Predictions near the true class, as ImageNet's neighbours are alike."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for row in range(num_classes):
        guesses = np.clip(np.round(row + 0.6 * rng.standard_t(1, images)), 0, num_classes - 1)
        np.add.at(matrix[row], guesses.astype(int), 1)
    return matrix


def found(num_classes: int, names: list[str], top: int = 5) -> Classification:
    logits = 3 * torch.randn(num_classes, generator=torch.Generator().manual_seed(0))
    scores, labels = logits.softmax(0).sort(descending=True)
    return Classification(labels[:top], scores[:top], logits.softmax(0), names)


@pytest.mark.parametrize("num_classes", [2, 20, 60, 101, 1000])
def test_confusion_of_any_number_of_classes(tmp_path: Path, num_classes: int) -> None:
    names = [f"a class of some length {i}" for i in range(num_classes)]
    path = plot_confusion(confusion(num_classes), names, tmp_path / "c.png", title="a run")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 500 and max(pixels.shape) < 2000
    assert 0.02 < (pixels < 250).mean() < 0.6
    # nothing is cut off
    border = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, -2:].ravel()])
    assert (border > 250).all()
    assert [each.name for each in tmp_path.iterdir()] == ["c.png"]


def test_confusion_without_images_of_a_class(tmp_path: Path) -> None:
    matrix = confusion(1000, images=1)
    matrix[::3] = 0
    assert plot_confusion(matrix, [str(i) for i in range(1000)], tmp_path / "c.png", title="x")
    perfect = np.diag(np.full(30, 5))
    assert plot_confusion(perfect, [str(i) for i in range(30)], tmp_path / "p.png", title="x")


def test_the_picture_stays_above_the_panel(shared_data: Path) -> None:
    folder = shared_data / "imagenet1k_sample_256"
    wnids = [each["wnid"] for each in json.loads((folder / "classes.json").read_text())]
    pixels = np.asarray(Image.open(next((folder / "images" / wnids[1]).iterdir())).convert("RGB"))
    pixels = np.tile(pixels, (2, 2, 1))
    drawn = np.asarray(draw_classification(pixels, found(1000, wnids)))
    height, width, _ = pixels.shape
    assert width > MIN_WIDTH
    assert drawn.shape[1] == width and drawn.shape[0] > height + 50
    assert (drawn[:height] == pixels).all()
    bars = drawn[height:, width // 2 + 4 : width // 2 + 6]
    assert len({tuple(color) for color in bars.reshape(-1, 3).tolist()}) >= 4


def test_small_pictures_are_enlarged_and_narrow_ones_centred() -> None:
    rng = np.random.default_rng(0)
    tiny = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    drawn = np.asarray(draw_classification(tiny, found(10, [str(i) for i in range(10)])))
    left = (MIN_WIDTH - 256) // 2
    assert (drawn[4:256:8, left + 4 : left + 256 : 8] == tiny).all()
    narrow = rng.integers(0, 256, (200, 90, 3), dtype=np.uint8)
    drawn = np.asarray(draw_classification(narrow, found(2, ["ants", "bees"], top=2)))
    assert drawn.shape[1] == MIN_WIDTH
    assert (drawn[:200, 135:225] == narrow).all()


def test_long_names_and_no_class_at_all(shared_data: Path) -> None:
    pixels = np.zeros((100, 400, 3), np.uint8)
    draw_classification(pixels, found(5, ["a very long name of a class " * 3] * 5))
    empty = found(5, list("abcde")).above(0.999)
    assert len(empty.labels) == 0
    assert draw_classification(pixels, empty).height > 100
