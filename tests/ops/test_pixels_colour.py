"""AlexNet's colour noise, against a plain loop over images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.ops.pixels import DIRECTIONS, STRENGTHS, distort_colour
from resdet.ops.sampler import normal


def _run(images, keys, *, std=0.1, step=5):
    return distort_colour(images, std=std, keys=keys, seed=3, step=step)


def test_the_colours_are_orthonormal():
    directions = torch.tensor(DIRECTIONS, dtype=torch.float64)
    assert directions.T @ directions == pytest.approx(torch.eye(3).double(), abs=2e-4)


def test_as_the_paper_writes_it():
    images = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8)
    keys = torch.arange(10, 14)
    result = _run(images, keys)
    assert result.dtype == torch.float32
    draws = [normal(keys, seed=3, step=5, stream=40 + i).numpy() for i in range(3)]
    for number, image in enumerate(images.numpy().astype(np.float64)):
        alphas = 0.1 * np.array([draw[number] for draw in draws])
        # [p1, p2, p3] [α1 λ1, α2 λ2, α3 λ3]ᵀ, added to every pixel
        shift = np.array(DIRECTIONS) @ (alphas * np.array(STRENGTHS)) * 255
        expected = image + shift[:, None, None]
        assert result[number].numpy() == pytest.approx(expected, abs=1e-3)


def test_the_spread_is_that_of_the_principal_colours():
    keys = torch.arange(20000)
    shifts = _run(torch.zeros(20000, 3, 1, 1), keys).flatten(1) / 255
    along = shifts @ torch.tensor(DIRECTIONS)
    assert along.mean(dim=0).abs().max() < 1e-3
    assert along.std(dim=0) == pytest.approx(0.1 * torch.tensor(STRENGTHS), rel=0.03)


def test_an_image_gets_the_same_in_any_batch():
    images = torch.rand(8, 3, 4, 4) * 255
    keys = torch.arange(8)
    whole = _run(images, keys)
    assert torch.equal(_run(images[3:5], keys[3:5]), whole[3:5])
    assert not torch.equal(_run(images, keys, step=6), whole)
    assert torch.equal(_run(images, keys, std=0.0), images)
    last = _run(images.contiguous(memory_format=torch.channels_last), keys)
    assert torch.equal(last, whole)
    assert last.is_contiguous(memory_format=torch.channels_last)
