"""Anchors of the grid against boxes, and anchors that fit."""

from __future__ import annotations

import numpy as np
import torch

from resdet.data.detection.anchors import Anchors, best_overlaps, fit_anchors
from resdet.ops.boxes import cell_anchors, grid_anchors, pairwise_iou


def test_the_best_of_all_anchors_of_the_image() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [500, 300], (200, 2))
    sides = np.exp(rng.normal(3.7, 0.7, (200, 2)))
    boxes = np.concatenate([corners, np.minimum(corners + sides, [512, 320])], axis=1)
    anchors = Anchors([[32], [64], [128]], [0.5, 1, 2], [4, 8, 16])
    best = best_overlaps(boxes, np.full((200, 2), (320.0, 512.0)), anchors)
    every = torch.cat(
        [
            grid_anchors(cell_anchors(size, anchors.ratios), (320 // s, 512 // s), s)
            for size, s in zip(anchors.sizes, anchors.strides, strict=True)
        ]
    )
    exact = pairwise_iou(torch.from_numpy(boxes).float(), every).amax(dim=1).numpy()
    assert (best <= exact + 1e-6).all()
    assert np.abs(best - exact).max() < 0.02 and np.abs(best - exact).mean() < 0.001


def test_fitted_anchors_are_the_sizes_of_the_boxes() -> None:
    sizes = np.repeat([10.0, 40.0, 160.0], 50)
    boxes = np.stack([0 * sizes, 0 * sizes, sizes, 2 * sizes], axis=1)
    fitted = fit_anchors(boxes, Anchors([[32], [64], [128]], [1.0], [4, 8, 16]))
    assert fitted.sizes == [[14], [57], [226]] and fitted.ratios == [2.0]
    assert fitted.strides == [4, 8, 16]
