import numpy as np
import pytest
import torch
from torch import nn

from resdet.config.loading import load_config
from resdet.engine.detection import largest_area
from resdet.engine.estimate import ACTIVATIONS, MIB, _counting_saved, describe_batch, largest_batch


def test_what_autograd_keeps_is_counted_once_and_without_weights():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    saved: list[int] = []
    images = torch.randn(8, 64)
    with _counting_saved(model, saved):
        model(images).sum()
    # the input, and the ReLU's output, which the second layer keeps too
    assert sum(saved) == 4 * (8 * 64 + 8 * 32)


@pytest.mark.parametrize(
    ("overrides", "area"),
    [
        # 300 × 200 at four times its size, 1200 rounded up
        ([], 1216 * 800),
        (["data.augment.resize.max_size=800"], 608 * 800),
        (["data.augment.crop=[512, 512]"], 512 * 512),
        (["data.augment.resize.mode=large_scale_jitter"], 1024 * 1024),
    ],
)
def test_the_largest_image_that_the_transforms_make(tiny, overrides, area):
    resize = ["data.augment.resize.short_edges=[640, 800]", "data.augment.resize.max_size=1333"]
    config = load_config(tiny.config, [*resize, *overrides])
    sizes = np.array([[480, 640], [300, 200]], dtype=np.int32)
    assert largest_area(config, sizes, 32) == area


def test_the_largest_batch_within_the_free_memory() -> None:
    needed = {"weights": 100.0, "gradients": 100.0, ACTIVATIONS: 50.0}
    assert largest_batch(needed, 2, 1000 * MIB) == 16  # 24 would fit, 25 MiB each
    assert largest_batch(needed, 2, 200 * MIB) == 0
    assert "up to 16 images per process" in describe_batch(16, 1000 * MIB)
    assert "smaller images" in describe_batch(0, 200 * MIB)
