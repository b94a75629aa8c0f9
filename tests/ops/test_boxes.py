import pytest
import torch
from torchvision import ops as reference

from resdet.ops import boxes as ops
from resdet.ops.boxes import (
    MAX_LOG_SCALE,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    giou_loss,
    is_nonempty,
    nms_by_group,
    nms_of_groups,
    pairwise_iou,
)


def random_boxes(*shape: int, seed: int = 0, extent: float = 100.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * extent
    size = torch.rand(*shape, 2, generator=generator) * extent / 2 + 1
    return torch.cat([corner, corner + size], dim=-1)


def test_pairwise_iou_equals_torchvision_in_every_image() -> None:
    boxes1, boxes2 = random_boxes(3, 7), random_boxes(3, 11, seed=1)
    iou = pairwise_iou(boxes1, boxes2)
    for image in range(3):
        torch.testing.assert_close(iou[image], reference.box_iou(boxes1[image], boxes2[image]))


def test_empty_boxes_overlap_nothing() -> None:
    empty = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert pairwise_iou(empty, empty).item() == 0
    assert pairwise_iou(empty, torch.tensor([[0.0, 0.0, 9.0, 9.0]])).item() == 0
    assert not is_nonempty(empty).item()


def test_giou_loss_and_its_gradient_equal_torchvision() -> None:
    boxes1, boxes2 = random_boxes(50).requires_grad_(), random_boxes(50, seed=2)
    ours, theirs = giou_loss(boxes1, boxes2), reference.generalized_box_iou_loss(boxes1, boxes2)
    torch.testing.assert_close(ours, theirs)
    ours_gradient = torch.autograd.grad(ours.sum(), boxes1)[0]
    torch.testing.assert_close(ours_gradient, torch.autograd.grad(theirs.sum(), boxes1)[0])


def test_clip_boxes_to_each_images_size() -> None:
    boxes = torch.tensor([[[-5.0, -6.0, 300.0, 400.0]], [[10.0, 20.0, 300.0, 400.0]]])
    clipped = clip_boxes(boxes, torch.tensor([[100, 200], [50, 60]])[:, None])
    assert clipped.tolist() == [[[0, 0, 200, 100]], [[10, 20, 60, 50]]]


def test_nms_by_group_equals_nms_of_each_group() -> None:
    boxes, groups = random_boxes(400, extent=60), torch.arange(400) % 7
    scores = torch.rand(400, generator=torch.Generator().manual_seed(3))
    kept = nms_by_group(boxes, scores, groups, 0.4)
    expected = []
    for group in range(7):
        members = (groups == group).nonzero()[:, 0]
        expected += members[reference.nms(boxes[members], scores[members], 0.4)].tolist()
    assert sorted(kept.tolist()) == sorted(expected)
    assert (scores[kept].diff() <= 0).all()


def test_nms_by_group_keeps_fractions_of_pixels_far_from_the_origin() -> None:
    # IoU .499 and .501 at an offset where float32 steps are 1/64 px.
    pair = torch.tensor([[0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 1.503], [0.0, 0.0, 4.0, 1.497]])
    boxes = torch.cat([pair] * 3000)
    groups = torch.arange(3000).repeat_interleave(3)
    scores = torch.tensor([0.9, 0.8, 0.7]).repeat(3000)
    kept = nms_by_group(boxes[:, :] + 1300, scores, groups, 0.5)
    first_of_three = torch.arange(3000) * 3
    assert set(first_of_three.tolist()) <= set(kept.tolist())
    assert not set((first_of_three + 1).tolist()) & set(kept.tolist())


def test_nms_of_nothing() -> None:
    none = torch.zeros(0)
    assert nms_by_group(torch.zeros(0, 4), none, none.long(), 0.5).shape == (0,)


def test_decode_inverts_encode() -> None:
    anchors, boxes = random_boxes(100), random_boxes(100, seed=5)
    deltas = encode_boxes(boxes, anchors, (10, 10, 5, 5))
    torch.testing.assert_close(
        decode_boxes(deltas, anchors, (10, 10, 5, 5)), boxes, atol=1e-4, rtol=0
    )


def test_decode_limits_the_scale() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    box = decode_boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), anchor, (1, 1, 1, 1))
    assert abs((box[0, 2] - box[0, 0]).item() - 625) < 1e-2
    assert abs(MAX_LOG_SCALE - 4.135166556742356) < 1e-12


def test_nms_a_call_a_group_keeps_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, generator = random_boxes(400), torch.Generator().manual_seed(3)
    # few scores, so that many are equal
    scores = torch.randint(0, 20, (400,), generator=generator) / 20
    groups = torch.randint(0, 7, (400,), generator=generator)
    together = nms_by_group(boxes, scores, groups, 0.3)
    monkeypatch.setattr(ops, "MAX_BOXES_A_CALL", 10)
    assert 50 < len(together) < 400
    assert torch.equal(nms_by_group(boxes, scores, groups, 0.3), together)


def test_fixed_slots_keep_the_same_boxes_whatever_the_others_hold() -> None:
    boxes, counts = torch.stack([random_boxes(40, extent=30) for _ in range(3)]), [40, 0, 17]
    for group, count in enumerate(counts):
        boxes[group, count:] = torch.tensor([torch.nan, 0, torch.inf, 5])
    keep, fixed = (
        nms_of_groups(boxes, torch.tensor(counts), 0.3, fixed_slots=value)
        for value in (False, True)
    )
    assert torch.equal(keep, fixed) and 3 < keep.sum() < 57
