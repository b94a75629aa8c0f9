import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from resdet.ops import masks as ops
from resdet.ops.boxes import clip_boxes
from resdet.ops.masks import encode_rle, paste_masks, resample_masks
from tests.ops.test_boxes import random_boxes


def blobs(count: int, size: int, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(size, size), mode="bicubic").clamp(0, 1)[:, 0]


def paste_by_grid_sample(probs, box, height, width):
    x1, y1, x2, y2 = box.tolist()
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return F.grid_sample(probs[None, None], grid[None], align_corners=False)[0, 0]


def test_pasting_is_bilinear_at_pixel_centres() -> None:
    probs = blobs(20, 28)
    boxes = random_boxes(20, extent=90) - 15  # some hang over the edge
    pasted = paste_masks(probs, boxes, (80, 100))
    for prob, box, mask in zip(probs, boxes, pasted, strict=True):
        expected = paste_by_grid_sample(prob, box, 80, 100)
        assert torch.equal(
            mask[(expected - 0.5).abs() > 1e-5], (expected >= 0.5)[(expected - 0.5).abs() > 1e-5]
        )


@pytest.mark.parametrize("paste", ["continuous", "rounded"])
def test_pasting_in_parts_or_windows_is_the_same(paste: str, monkeypatch) -> None:
    """A GPU pastes whole images, a few at a time, and a CPU the pixels that a mask reaches."""
    probs, boxes = blobs(9, 28), random_boxes(9, extent=60)
    masks = paste_masks(probs, boxes, (70, 90), paste=paste)
    monkeypatch.setattr(ops, "MAX_PASTE_ELEMENTS", 70 * 90 * 2)
    assert torch.equal(ops._paste_in_parts(probs, boxes, (70, 90), paste), masks)
    decoded = coco_mask.decode(encode_rle(probs, boxes, (70, 90), paste=paste))
    assert np.array_equal(decoded.transpose(2, 0, 1), masks.numpy())


def test_masks_are_no_coarser_under_an_autocast() -> None:
    probs, boxes = blobs(60, 28), random_boxes(60, extent=300)
    whole = (blobs(60, 112, seed=1) > 0.5).byte()
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            targets = resample_masks(whole, boxes, boxes + 3, 28)
            results.append((targets, paste_masks(probs, boxes, (300, 400))))
    for plain, under in zip(*results, strict=True):
        assert torch.equal(plain, under)


def test_nothing_to_paste() -> None:
    none, boxes = torch.zeros(0, 28, 28), torch.zeros(0, 4)
    assert paste_masks(none, boxes, (5, 6)).shape == (0, 5, 6)
    assert encode_rle(none, boxes, (5, 6)) == []


def test_targets_in_the_gt_box_itself_are_its_mask_made_smaller() -> None:
    masks = (blobs(6, 112) > 0.5).byte()
    boxes = random_boxes(6)
    coverage = F.avg_pool2d(masks[:, None].float(), 4)[:, 0]
    sure = (coverage - 0.5).abs() > 1e-3
    assert torch.equal(resample_masks(masks, boxes, boxes, 28)[sure], (coverage >= 0.5)[sure])


def test_targets_of_a_shifted_proposal_are_cut_and_empty_outside() -> None:
    gt = torch.tensor([[20.0, 30.0, 76.0, 86.0]])
    full = torch.ones(1, 112, 112, dtype=torch.uint8)
    proposal = gt + torch.tensor([28.0, 0.0, 28.0, 0.0])  # half its width to the right
    target = resample_masks(full, gt, proposal, 28)[0]
    assert target[:, :14].all() and not target[:, 14:].any()
    away = resample_masks(full, gt, gt + 500, 28)
    assert not away.any()


@pytest.mark.parametrize("size", [14, 28])
def test_rounded_pasting_is_torchvisions(size: int) -> None:
    """To the pixel, also for boxes at the edge, of a fraction of a pixel, and of no size."""
    probs = torch.cat(
        [blobs(40, size), torch.rand(20, size, size, generator=torch.Generator().manual_seed(size))]
    )
    boxes = torch.cat([random_boxes(40, extent=90) - 15, random_boxes(20, extent=90, seed=1)])
    boxes[:3] = torch.tensor(
        [[10.2, 10.7, 10.9, 11.1], [0.0, 0.25, 0.75, 40.0], [79.5, 60.0, 130.0, 140.0]]
    )
    boxes[3, 2:] = boxes[3, :2]
    boxes = clip_boxes(boxes, torch.tensor([80, 100]))
    expected = paste_masks_in_image(probs[:, None], boxes, (80, 100))[:, 0] > 0.5
    pasted = paste_masks(probs, boxes, (80, 100), paste="rounded")
    assert torch.equal(pasted, expected) and pasted.any()
    decoded = coco_mask.decode(encode_rle(probs, boxes, (80, 100), paste="rounded"))
    assert np.array_equal(decoded.transpose(2, 0, 1), expected.numpy())
    continuous = paste_masks(probs, boxes, (80, 100))
    assert not torch.equal(continuous, expected)  # or the option would be none


@pytest.mark.parametrize("paste", ["continuous", "rounded"])
def test_windows_hold_all_of_a_mask(paste: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU pastes in the part of the image that a mask can reach is what a GPU pastes."""
    probs = blobs(30, 28) * 1.2
    boxes = random_boxes(30, extent=90) - 20
    boxes[0], boxes[1] = torch.tensor([200.0, 5, 230, 20]), torch.tensor([-50.0, -50, 300, 300])
    put, whole = ops._paste_continuous, (0, 0, 100, 80)
    if paste == "rounded":
        put = ops._paste_rounded
    dense = put(probs, boxes, whole)
    for threshold in (0.1, 0.5):
        expected = dense > threshold if paste == "rounded" else dense >= threshold
        monkeypatch.setattr(ops, "THRESHOLD", threshold)
        pasted = paste_masks(probs, boxes, (80, 100), paste=paste)
        assert torch.equal(pasted, expected) and pasted.any()


@pytest.mark.parametrize("size", [(80, 100), (37, 51), (1, 9), (9, 1)])
def test_rle_is_that_of_pycocotools(size: tuple[int, int]) -> None:
    """Also of masks that fill the image, touch all its sides, or are empty."""
    probs = torch.cat([blobs(20, 28), torch.ones(2, 28, 28), torch.zeros(1, 28, 28)])
    boxes = random_boxes(23, extent=90) - 20
    boxes[20] = torch.tensor([-50.0, -50, 300, 300])
    boxes[21] = torch.tensor([3.0, -20, 8, 200])
    pasted = paste_masks(probs, boxes, size)
    columns = np.asfortranarray(pasted.permute(1, 2, 0).numpy().astype(np.uint8))
    expected = [
        {"size": rle["size"], "counts": rle["counts"].decode()} for rle in coco_mask.encode(columns)
    ]
    assert encode_rle(probs, boxes, size) == expected
