"""Anchors, box coding, matching, RoI pooling and pasting give Detectron2's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.ops.boxes import cell_anchors, decode_boxes, encode_boxes, grid_anchors, pairwise_iou
from resdet.ops.masks import paste_masks, resample_masks
from resdet.ops.roi_pool import assign_levels, pool_rois
from resdet.ops.sampler import match_boxes
from tests.fixtures.recipe import (
    Fixture,
    jitter_boxes,
    normal,
    pyramid,
    random_boxes,
    relative_error,
)

LARGE = (512, 640)
STRIDES = [4, 8, 16, 32]


@pytest.fixture(scope="module")
def ops() -> Fixture:
    return Fixture("detectron2_ops")


def test_anchors(ops: Fixture) -> None:
    facts = ops.facts("anchors")
    for level, (size, grid) in enumerate(zip(facts["sizes"], facts["grids"], strict=True)):
        ours = grid_anchors(cell_anchors([size], [0.5, 1.0, 2.0]), tuple(grid), 4 << level)
        np.testing.assert_array_equal(ours.numpy(), ops[f"anchors/p{level + 2}"])


@pytest.mark.parametrize("case", ["coder_rpn", "coder_roi"])
def test_box_coder(ops: Fixture, case: str) -> None:
    weights = ops.facts(case)["weights"]
    sources = random_boxes(1, 40, LARGE, 4, 500)
    targets = jitter_boxes(2, sources, 1, 0.4)
    deltas = torch.from_numpy(normal(3, 40, 12) * np.float32(3))
    ours = encode_boxes(torch.from_numpy(targets), torch.from_numpy(sources), weights)
    np.testing.assert_allclose(ours.numpy(), ops[f"{case}/deltas"], rtol=1e-5, atol=1e-6)
    boxes = decode_boxes(
        deltas.view(40, 3, 4), torch.from_numpy(sources)[:, None], weights
    ).reshape(40, 12)
    np.testing.assert_allclose(boxes.numpy(), ops[f"{case}/boxes"], rtol=1e-6, atol=1e-4)
    # weights of 1 reach the clamp of dw and dh, and a box grows 62.5 times at most
    assert case == "coder_roi" or (deltas[:, 2::4] > np.log(1000 / 16)).any()


def test_matcher(ops: Fixture) -> None:
    boxes = torch.from_numpy(ops["matcher/boxes"])
    gt = torch.from_numpy(ops["matcher/gt_boxes"])
    iou = pairwise_iou(gt, boxes)
    np.testing.assert_allclose(iou.numpy(), ops["matcher/iou"], rtol=1e-6, atol=1e-7)
    valid = torch.ones(1, len(gt), dtype=torch.bool)
    for name, low, high, best in (("rpn", 0.3, 0.7, True), ("roi", 0.5, 0.5, False)):
        matches, labels = match_boxes(
            gt[None],
            valid,
            boxes,
            background_iou=low,
            foreground_iou=high,
            best_of_each_object=best,
        )
        np.testing.assert_array_equal(labels[0].numpy(), ops[f"matcher/{name}_labels"])
        # of equal IoUs either object will do, but it must be one of the best
        theirs = torch.from_numpy(ops[f"matcher/{name}_matches"])[None]
        assert torch.equal(iou.gather(0, matches), iou.gather(0, theirs))


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("packed", [False, True], ids=["a level at a time", "packed"])
def test_roi_pooling(ops: Fixture, size: int, packed: bool) -> None:
    facts = ops.facts("pooler")
    maps = pyramid(facts["seed"], 2, facts["channels"], tuple(facts["image"]))
    features = {
        name: torch.from_numpy(value).requires_grad_()
        for name, value in maps.items()
        if name != "p6"
    }
    boxes = torch.from_numpy(np.concatenate([ops["pooler/boxes0"], ops["pooler/boxes1"]]))
    images = torch.arange(2).repeat_interleave(24)
    levels = assign_levels(boxes, 2, 5)
    np.testing.assert_array_equal(levels.numpy(), ops["pooler/levels"])
    assert set(levels.tolist()) == {2, 3, 4, 5}

    pooled = pool_rois(list(features.values()), STRIDES, boxes, images, size, fixed_slots=packed)
    # packing is promised for boxes inside the image only, and the first two are partly outside;
    # its coordinates are larger, and so is their rounding
    first, limit = (2, 5e-5) if packed else (0, 3e-6)
    for row in range(first, len(boxes)):
        reference = ops[f"pooler/pooled{size}"][row]
        assert relative_error(pooled[row].detach().numpy(), reference) <= limit, row
    if not packed:
        cotangent = torch.from_numpy(normal(facts["cotangent_seed"] + size, *pooled.shape))
        (pooled * cotangent).sum().backward()
        for name, feature in features.items():
            assert feature.grad is not None
            reference = ops[f"pooler/grad{size}/{name}"]
            assert relative_error(feature.grad.numpy(), reference) <= 1e-5, name


def test_paste() -> None:
    fixture = Fixture("detectron2_inference")
    probs = torch.from_numpy(fixture["paste/probs"])
    boxes = torch.from_numpy(fixture["paste/boxes"])
    height, width = fixture.facts("paste")["size"]
    theirs = np.unpackbits(fixture["paste/pasted"])[: len(probs) * height * width]
    theirs = theirs.reshape(len(probs), height, width).astype(bool)
    ours = paste_masks(probs, boxes, (height, width)).numpy()
    # a value may round to either side of the threshold
    assert (ours != theirs).sum() <= 1
    assert theirs.any(axis=(1, 2)).all()


def test_mask_targets_against_polygons() -> None:
    """Targets resampled from M×M masks against those rasterised from the polygon in the proposal.

    Detectron2 rasterises each polygon at 28×28 inside the proposal; we rasterise it once at M×M
    inside its gt box and resample. They differ along the outline only: mean IoU .979, and .803 for
    the thinnest of them. Polygons filled exactly inside the proposal have .984 and .855 with it.
    """
    from resdet.data.detection.outlines import fill_polygons

    fixture = Fixture("detectron2_masks")
    facts = fixture.facts("polygons")
    points = fixture["polygons/points"].reshape(-1, 2)
    offsets = np.concatenate([[0], np.cumsum(fixture["polygons/ring_lengths"]) // 2])
    owners = fixture["polygons/ring_owners"]
    gt = fixture["polygons/gt_boxes"]
    size = facts["size"]
    theirs = np.unpackbits(fixture["polygons/targets"]).reshape(-1, size, size).astype(bool)
    rings = fill_polygons(points, offsets, gt[owners], (112, 112))
    masks = [rings[owners == i].max(axis=0) for i in range(facts["objects"])]
    copies = facts["copies"]
    ours = resample_masks(
        torch.from_numpy(np.stack(masks)).repeat(copies, 1, 1),
        torch.from_numpy(gt).repeat(copies, 1),
        torch.from_numpy(fixture["polygons/boxes"]),
        size,
    ).numpy()
    overlap = (ours & theirs).sum(axis=(1, 2)) / (ours | theirs).sum(axis=(1, 2))
    assert overlap.mean() >= 0.975
    assert overlap.min() >= 0.78
