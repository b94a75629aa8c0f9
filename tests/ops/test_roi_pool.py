import pytest
import torch
from torchvision.ops import roi_align

from resdet.ops.roi_pool import assign_levels, pool_rois

STRIDES = [4, 8, 16, 32]


def pyramid(height: int = 256, width: int = 320, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 6, height // s, width // s, generator=generator, dtype=dtype)
        for s in STRIDES
    ]


def rois(count: int, height: float = 256, width: float = 320) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = 2 ** (torch.rand(count, 2, generator=generator) * 8)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([corner, corner + size], dim=1)
    return torch.minimum(boxes, torch.tensor([width, height, width, height]))


def test_levels_follow_the_size() -> None:
    boxes = torch.tensor([[0.0, 0, s, s] for s in (10, 111, 113, 223, 225, 447, 449, 5000)])
    assert assign_levels(boxes, 2, 5).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]


def test_each_box_is_pooled_from_its_level() -> None:
    features, boxes = pyramid(), rois(60)
    images = torch.arange(60) % 2
    pooled = pool_rois(features, STRIDES, boxes, images, 7, fixed_slots=False)
    levels = assign_levels(boxes, 2, 5)
    for row in range(60):
        level = int(levels[row]) - 2
        roi = torch.cat([images[row : row + 1].float(), boxes[row]])[None]
        expected = roi_align(features[level], roi, (7, 7), 1 / STRIDES[level], 0, True)
        torch.testing.assert_close(pooled[row : row + 1], expected)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("count", [0, 1, 80])
def test_fixed_slots_give_the_same(count: int, aligned: bool) -> None:
    boxes, images = rois(count), torch.arange(count) % 2
    results = []
    for fixed in (False, True):
        features = [f.requires_grad_() for f in pyramid(dtype=torch.float64)]
        pooled = pool_rois(
            features,
            STRIDES,
            boxes.double(),
            images,
            7,
            fixed_slots=fixed,
            aligned=aligned,
            sampling_ratio=0 if aligned else 2,
        )
        gradients = torch.autograd.grad(pooled.square().sum(), features, allow_unused=True)
        results.append((pooled, [0 if g is None else g for g in gradients]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-9, rtol=1e-9)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one + 0 * other, other + 0 * one, atol=1e-9, rtol=1e-9)


def test_boxes_that_are_not_finite_stop_nothing() -> None:
    boxes = rois(4)
    boxes[1, 2], boxes[2] = torch.inf, torch.nan
    pooled = pool_rois(pyramid(), STRIDES, boxes, torch.arange(4) % 2, 7, fixed_slots=False)
    assert pooled.shape == (4, 6, 7, 7)
    alone = pool_rois(pyramid(), STRIDES, boxes[:1], torch.zeros(1), 7, fixed_slots=False)
    torch.testing.assert_close(pooled[:1], alone)
