"""Repeat factors against Detectron2's formula, image by image."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from resdet.data.detection.repeats import class_factors, image_factors
from resdet.data.loader import TrainPlan


def detectron2(images: list[list[int]], threshold: float) -> list[float]:
    """RepeatFactorTrainingSampler.repeat_factors_from_category_frequency of Detectron2 0.6, with
    its loops; `images` are the classes of each image's objects."""
    category_freq: dict[int, float] = defaultdict(int)
    for labels in images:
        for cat_id in set(labels):
            category_freq[cat_id] += 1
    for k, v in category_freq.items():
        category_freq[k] = v / len(images)
    category_rep = {
        cat_id: max(1.0, math.sqrt(threshold / cat_freq))
        for cat_id, cat_freq in category_freq.items()
    }
    return [max({category_rep[cat_id] for cat_id in set(labels)}, default=1.0) for labels in images]


@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.7, 1.0])
def test_factors_are_detectron2s(threshold: float) -> None:
    rng = np.random.default_rng(0)
    images = [(rng.zipf(1.5, rng.integers(0, 6)) % 40).tolist() for _ in range(500)]
    flat = np.array([label for labels in images for label in labels])
    of_image = np.repeat(np.arange(500), [len(labels) for labels in images])
    of_class = class_factors(of_image, flat, num_images=500, num_classes=41, threshold=threshold)
    assert of_class[40] == 1  # an absent class
    factors = image_factors(of_image, flat, of_class, 500)
    np.testing.assert_allclose(factors, detectron2(images, threshold), rtol=1e-12)


def test_a_rare_class_comes_as_often_as_its_factor() -> None:
    """One image in a hundred has class 1: t = .25 makes that √25 = 5 times as many."""
    images, labels = np.arange(1000), np.zeros(1000, int)
    labels[::100] = 1
    of_class = class_factors(images, labels, num_images=1000, num_classes=2, threshold=0.25)
    np.testing.assert_allclose(of_class, [1, 5])
    plan = TrainPlan(1000, 10, seed=0, factors=image_factors(images, labels, of_class, 1000))
    assert plan.steps_per_epoch == 104
    keys = [key for step in range(104) for key in plan.batch(step)]
    counts = np.bincount([index for _, index in keys], minlength=1000)
    assert (counts[labels == 1] == 5).all() and (counts[labels == 0] == 1).all()
