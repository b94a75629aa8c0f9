"""Small detectors of every kind, images for them, and what their exports are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resdet.models.rcnn import RCNN
from resdet.structures import ImageBatch
from tests.models.tiny import tiny_model

ONE_MAP = {"fpn": None, "rpn": {"anchor_sizes": [[16, 32, 64]]}}
KINDS: dict[str, dict[str, Any]] = {
    "mask": {},
    "faster": {"roi": {"mask_head": None}},
    "cascade": {
        "roi": {
            "stages": [
                {"foreground_iou": 0.5, "box_weights": [10, 10, 5, 5]},
                {"foreground_iou": 0.6, "box_weights": [20, 20, 10, 10]},
                {"foreground_iou": 0.7, "box_weights": [30, 30, 15, 15]},
            ],
            "box_head": {"class_agnostic": True},
        }
    },
    "torchvision": {
        "rpn": {"anchor_spacing": "rounded", "round_anchors": True, "min_size": 1e-3},
        "roi": {"aligned": False, "sampling_ratio": 2},
        "min_detection_size": 0.01,
    },
    "pool": {"roi": {"pooling": "pool"}},
    "C4": {
        **ONE_MAP,
        "roi": {
            "box_head": {"type": "res5", "num_fcs": 0, "pool_size": 8},
            "mask_head": {"num_convs": 0, "pool_size": 8},
        },
    },
    "DC5": {**ONE_MAP, "backbone": {"name": "resnet50", "res5_dilation": 2}},
    "context": {"roi": {"context": True}},
    "frozen": {"backbone": {"norm": "frozen_bn"}},
}
"""Changes to the config of `tiny_model`."""
QUICK = ("mask", "cascade", "torchvision", "C4", "pool")
EVERY_KIND = [
    kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS
]


def make(kind: str, score_thresh: float = 0.3) -> RCNN:
    """A detector with many detections on noise."""
    changes = dict(KINDS[kind])
    return tiny_model(changes | {"score_thresh": score_thresh}).eval()


def noise(height: int, width: int, count: int = 1) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8 and their true sizes; the second is smaller."""
    generator = torch.Generator().manual_seed(height * width + count)
    images = torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator
    )
    sizes = torch.tensor([[height, width]]).repeat(count, 1)
    if count > 1:
        sizes[1] -= torch.tensor([20, 11])
        images[1, :, height - 20 :] = 0
        images[1, :, :, width - 11 :] = 0
    return images, sizes


def assert_same(
    model: RCNN, outputs: Mapping[str, Tensor | np.ndarray], images: Tensor, sizes: Tensor
) -> int:
    """Every detection of the eager model, in its order, and 0 in all other rows; returns how many
    detections there were."""
    with torch.no_grad():
        expected = model.detect(ImageBatch(images, sizes))
    got = {name: torch.as_tensor(values) for name, values in outputs.items()}
    limit = model.roi_heads.detections_per_image
    assert got["boxes"].shape == (len(images), limit, 4)
    for image, count in enumerate(got["counts"].tolist()):
        own = expected.images == image
        assert count == int(own.sum())
        fields = {"boxes": expected.boxes, "scores": expected.scores, "labels": expected.labels}
        if model.has_masks:
            fields["masks"] = expected.extra["mask_probs"]
        assert got.keys() == {*fields, "counts"}
        for name, values in fields.items():
            rows = got[name][image]
            atol = 1e-2 if name == "boxes" else 1e-3
            torch.testing.assert_close(rows[:count], values[own], rtol=0, atol=atol)
            assert not rows[count:].any()
    return len(expected.boxes)
