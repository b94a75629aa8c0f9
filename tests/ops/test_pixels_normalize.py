"""Mean and deviation, in place, equal the formula."""

from __future__ import annotations

import pytest
import torch

from resdet.ops.pixels import normalize_pixels

MEAN = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
STD = torch.tensor([57.4, 1.0, 58.4])[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 3, 1, 1), (3, 3, 5, 1), (1, 3, 7, 9)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_it_equals_the_formula(layout, shape, kind):
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    images = images.to(kind).contiguous(memory_format=layout)
    before = images.clone()
    whole = torch.rand((3, *shape[2:])) * 255
    for mean in (MEAN, whole, MEAN.double()):
        found = normalize_pixels(images, mean, STD.to(mean.dtype))
        expected = (images.to(mean.dtype) - mean) / STD.to(mean.dtype)
        assert found.dtype == mean.dtype
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=layout)
    assert torch.equal(images, before)


def test_it_takes_parts_and_mirrored_channels():
    whole = torch.randint(0, 256, (2, 3, 10, 14), dtype=torch.uint8)
    for images in (whole[:, :, 2:7, 3:9], whole.flip(1), whole[:1].expand(4, -1, -1, -1)):
        expected = (images.float() - MEAN) / STD
        assert torch.equal(normalize_pixels(images, MEAN, STD), expected)
