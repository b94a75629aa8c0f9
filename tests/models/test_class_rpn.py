"""The per-class RPN against plain loops over anchors and classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from resdet.models.class_rpn import ClassRPN
from resdet.ops.boxes import decode_boxes
from resdet.structures import TargetBatch

K, STRIDE, SIDE = 5, 16, 96
SIZES, RATIOS = [24.0, 48.0], [0.5, 1.0, 2.0]
BETA = 0.2


def make_rpn(trained_classes: str = "own", num_samples: int = 8) -> ClassRPN:
    torch.manual_seed(0)
    rpn = ClassRPN(
        12,
        K,
        STRIDE,
        anchor_sizes=SIZES,
        aspect_ratios=RATIOS,
        num_convs=1,
        conv_dim=16,
        foreground_iou=0.7,
        background_iou=0.3,
        num_samples=num_samples,
        positive_fraction=0.5,
        trained_classes=trained_classes,
        box_loss="smooth_l1",
        smooth_l1_beta=BETA,
    )
    for layer in (rpn.logits, rpn.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.normal_(layer.bias)
    return rpn.double()


def make_targets() -> TargetBatch:
    """Four images: one object, two of one class, none in its crop, and one that no anchor fits."""
    boxes = torch.zeros(4, 2, 4)
    boxes[0, 0] = torch.tensor([20.0, 10, 66, 60])
    boxes[1] = torch.tensor([[5.0, 40, 50, 90], [60, 3, 90, 30]])
    boxes[3, 0] = torch.tensor([40.0, 40, 46, 44])
    valid = torch.tensor([[True, False], [True, True], [False, False], [True, False]])
    labels = torch.tensor([[2, 0], [4, 4], [0, 0], [1, 0]])
    keys = torch.arange(4) + 100
    return TargetBatch(boxes, labels, valid, None, torch.zeros(4, 2).long(), keys, keys >= 0)


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def plain_anchors(side: int) -> list[list[float]]:
    """Place by place, then size by size and ratio by ratio."""
    anchors = []
    for y in range(side // STRIDE):
        for x in range(side // STRIDE):
            for size in SIZES:
                for ratio in RATIOS:
                    width = math.sqrt(size * size / ratio)
                    height = width * ratio
                    cx, cy = x * STRIDE, y * STRIDE
                    anchors.append(
                        [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
                    )
    return anchors


def plain_label(anchor: list[float], objects: list[list[float]], anchors: list) -> int:
    """1, 0 or −1 as in Ren et al. 2015, 3.1.2."""
    overlaps = [iou(anchor, each) for each in objects]
    for each, own in zip(objects, overlaps, strict=True):
        if own > 0 and own >= max(iou(other, each) for other in anchors) - 1e-9:
            return 1
    return 1 if max(overlaps) >= 0.7 else 0 if max(overlaps) < 0.3 else -1


def test_the_sampled_anchors_are_those_of_a_plain_assignment():
    rpn, targets = make_rpn(), make_targets()
    hidden = torch.zeros(4, 16, SIDE // STRIDE, SIDE // STRIDE)
    anchors = rpn.anchors(hidden)
    plain = plain_anchors(SIDE)
    torch.testing.assert_close(anchors, torch.tensor(plain).double(), atol=1e-5, rtol=0)
    for step in range(5):
        samples = rpn.sample(anchors, targets, seed=3, step=step)
        assert samples.positions.shape == (4, 8)
        assert samples.valid.sum(dim=1).tolist() == [8, 8, 0, 8]
        for image in (0, 1, 3):
            objects = targets.boxes[image][targets.valid[image]].tolist()
            labels = [plain_label(anchor, objects, plain) for anchor in plain]
            rows = samples.positions[image].tolist()
            drawn = [labels[row] for row in rows]
            assert drawn == samples.positive[image].long().tolist()
            # 1:1, and negatives for the positives that are missing
            assert sum(drawn) == min(4, labels.count(1))
            assert len(set(rows)) == 8
            for row, box in zip(rows, samples.gt_boxes[image].tolist(), strict=True):
                if labels[row] == 1:
                    best = max(objects, key=lambda each: iou(plain[row], each))
                    assert box == pytest.approx(best)


@torch.no_grad()
def plain_loss(
    rpn: ClassRPN, features: Tensor, targets: TargetBatch, step: int, *, every_class: bool
) -> tuple[float, float]:
    """Both losses from whole maps of all classes, sample by sample."""
    hidden = rpn.conv(features)
    logits = rpn.logits(hidden).unflatten(1, (K, len(SIZES) * len(RATIOS)))
    deltas = rpn.deltas(hidden).unflatten(1, (K, len(SIZES) * len(RATIOS), 4))
    anchors = rpn.anchors(hidden)
    samples = rpn.sample(anchors, targets, seed=7, step=step)
    plain = plain_anchors(SIDE)
    cls = box = count = 0.0
    for image in range(len(features)):
        own = int(targets.labels[image, 0])
        for slot in range(samples.positions.shape[1]):
            if not samples.valid[image, slot]:
                continue
            count += 1
            place, anchor = divmod(int(samples.positions[image, slot]), logits.shape[2])
            y, x = divmod(place, SIDE // STRIDE)
            positive = bool(samples.positive[image, slot])
            for label in range(K) if every_class else [own]:
                z = float(logits[image, label, anchor, y, x])
                wanted = positive and label == own
                cls += math.log1p(math.exp(-z if wanted else z))
            if positive:
                a = plain[int(samples.positions[image, slot])]
                g = samples.gt_boxes[image, slot].tolist()
                width, height = a[2] - a[0], a[3] - a[1]
                targets_of_box = [
                    ((g[0] + g[2]) - (a[0] + a[2])) / 2 / width,
                    ((g[1] + g[3]) - (a[1] + a[3])) / 2 / height,
                    math.log((g[2] - g[0]) / width),
                    math.log((g[3] - g[1]) / height),
                ]
                for part, wanted_delta in enumerate(targets_of_box):
                    gap = abs(float(deltas[image, own, anchor, part, y, x]) - wanted_delta)
                    box += gap * gap / (2 * BETA) if gap < BETA else gap - BETA / 2
    return cls / count, box / count


@pytest.mark.parametrize("trained_classes", ["own", "all"])
def test_the_losses_are_those_of_a_plain_loop(trained_classes):
    rpn, targets = make_rpn(trained_classes), make_targets()
    features = torch.randn(4, 12, SIDE // STRIDE, SIDE // STRIDE).double()
    for step in range(3):
        losses = rpn(features, targets, seed=7, step=step)
        wanted = plain_loss(rpn, features, targets, step, every_class=trained_classes == "all")
        got = (losses["loss_rpn_cls"].item(), losses["loss_rpn_box"].item())
        assert got == pytest.approx(wanted, rel=1e-6)


def test_only_the_classes_of_the_images_get_gradients():
    targets, features = make_targets(), torch.randn(4, 12, SIDE // STRIDE, SIDE // STRIDE).double()
    for trained_classes in ("own", "all"):
        rpn = make_rpn(trained_classes)
        sum(rpn(features, targets, seed=0, step=0).values()).backward()
        for layer, size in ((rpn.logits, 6), (rpn.deltas, 24)):
            learned = layer.weight.grad.flatten(1).unflatten(0, (K, size)).abs().sum(dim=(1, 2)) > 0
            own = [label in (1, 2, 4) for label in range(K)]
            both = layer is rpn.logits and trained_classes == "all"
            assert learned.tolist() == ([True] * K if both else own)


def test_a_batch_without_objects_has_a_loss_of_zero():
    targets = make_targets()
    targets.valid = torch.zeros_like(targets.valid)
    rpn = make_rpn()
    losses = rpn(torch.randn(4, 12, 6, 6).double(), targets, seed=0, step=0)
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]


def test_some_classes_score_and_decode_as_all_do():
    rpn, hidden = make_rpn(), torch.randn(2, 16, 4, 5).double()
    every = rpn.score(hidden)
    assert every.shape == (2, K, 4 * 5 * 6)
    wanted = torch.tensor([3, 0])
    torch.testing.assert_close(rpn.score(hidden, wanted), every[:, wanted])
    # place by place, then anchor by anchor: as the anchors are
    maps = rpn.logits(hidden)[1].unflatten(0, (K, 6))
    torch.testing.assert_close(every[1, 2, (3 * 5 + 1) * 6 + 4], maps[2, 4, 3, 1])
    boxes = rpn.boxes(hidden, wanted)
    deltas = rpn.deltas(hidden)[1].unflatten(0, (K, 6, 4))[3, 4, :, 3, 1]
    row = (3 * 5 + 1) * 6 + 4
    expected = decode_boxes(deltas, rpn.anchors(hidden)[row], (1, 1, 1, 1))
    torch.testing.assert_close(boxes[1, 0, row], expected)
