"""The RPN gives Detectron2's losses, gradients and proposals on the same weights and samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resdet.models.rpn import RPN, AnchorSamples
from resdet.structures import TargetBatch
from tests.fixtures.names import assert_gradients, gradient_errors, load
from tests.fixtures.recipe import Fixture, pyramid

CASES = ["l1", "smooth_l1", "giou", "two_convs", "all"]


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("detectron2_rpn")


def make_rpn(facts: dict[str, Any]) -> RPN:
    given = facts["options"]
    loss = given.get("BBOX_REG_LOSS_TYPE", "smooth_l1")
    beta = given.get("SMOOTH_L1_BETA", 0.0)
    return RPN(
        facts["channels"],
        [4, 8, 16, 32, 64],
        anchor_sizes=facts["anchor_sizes"],
        aspect_ratios=[0.5, 1.0, 2.0],
        round_anchors=False,
        anchor_spacing="stride",
        num_convs=len(given.get("CONV_DIMS", [-1])),
        foreground_iou=0.7,
        background_iou=0.3,
        num_samples=given["BATCH_SIZE_PER_IMAGE"],
        positive_fraction=given["POSITIVE_FRACTION"],
        pre_nms_topk=(given["PRE_NMS_TOPK_TRAIN"], given["PRE_NMS_TOPK_TEST"]),
        post_nms_topk=(given["POST_NMS_TOPK_TRAIN"], given["POST_NMS_TOPK_TEST"]),
        nms_thresh=0.7,
        # Detectron2's smooth L1 with a beta of 0 is L1
        min_size=0.0,
        box_loss="l1" if loss == "smooth_l1" and beta == 0 else loss,
        smooth_l1_beta=beta or 0.1,
        loss_normalizer="num_samples",
    )


def make_targets(fixture: Fixture, case: str) -> TargetBatch:
    boxes = [torch.from_numpy(fixture[f"{case}/gt_boxes{i}"]) for i in range(3)]
    padded = torch.zeros(3, max(len(b) for b in boxes), 4)
    valid = torch.zeros(padded.shape[:2], dtype=torch.bool)
    for i, b in enumerate(boxes):
        padded[i, : len(b)], valid[i, : len(b)] = b, True
    zeros = torch.zeros(valid.shape, dtype=torch.int64)
    keys = torch.arange(3)
    return TargetBatch(padded, zeros, valid, None, zeros, keys, keys >= 0, [0, 1, 2])


def given_samples(labels: np.ndarray, drawn: AnchorSamples, matched: Tensor) -> AnchorSamples:
    """The anchors that the reference drew, in our slots, with the objects that we matched."""
    width = int((labels >= 0).sum(axis=1).max())
    order = np.argsort(-labels.astype(np.int64), axis=1, kind="stable")[:, :width]
    picked = torch.from_numpy(np.take_along_axis(labels, order, axis=1))
    positions = torch.from_numpy(order)
    gt_boxes = matched.gather(1, positions[..., None].expand(-1, -1, 4))
    return AnchorSamples(positions, picked == 1, picked >= 0, gt_boxes)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(fixture: Fixture, case: str) -> None:
    facts = fixture.facts(case)
    rpn = make_rpn(facts).train()
    load(rpn, fixture.state(case))
    maps = pyramid(facts["features_seed"], 3, facts["channels"], tuple(facts["size"]))
    features = {k: torch.from_numpy(v).requires_grad_() for k, v in maps.items()}
    targets = make_targets(fixture, case)
    levels = list(features.values())
    logits, deltas = rpn.predict(levels)
    anchors = torch.cat(rpn.anchors(levels))

    drawn = rpn.sample(anchors, targets, seed=0, step=0)
    labels = fixture[f"{case}/labels"]
    if case == "all":
        samples = drawn
        ours = np.full(labels.shape, -1)
        rows = np.arange(3)[:, None]
        keep = drawn.valid.numpy()
        ours[np.broadcast_to(rows, keep.shape)[keep], drawn.positions.numpy()[keep]] = (
            drawn.positive.numpy()[keep]
        )
        np.testing.assert_array_equal(ours, labels)
    else:
        # every anchor's object: sample once more, everything this time
        rpn.num_samples, rpn.positive_fraction = len(anchors), 1.0
        everything = rpn.sample(anchors, targets, seed=0, step=0)
        matched = torch.zeros(3, len(anchors), 4)
        where = everything.positions[..., None].expand(-1, -1, 4)
        matched.scatter_(1, where, everything.gt_boxes)
        samples = given_samples(labels, drawn, matched)
        rpn.num_samples = facts["options"]["BATCH_SIZE_PER_IMAGE"]
        # as many of each kind are drawn
        assert drawn.valid.sum(dim=1).tolist() == (labels >= 0).sum(axis=1).tolist()
        assert drawn.positive.sum(dim=1).tolist() == (labels == 1).sum(axis=1).tolist()

    outputs = torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
    losses = rpn.losses(*outputs, anchors, samples, num_images=targets.readable.sum())
    assert losses["loss_rpn_cls"].item() == pytest.approx(
        float(fixture[f"{case}/loss/loss_rpn_cls"]), rel=1e-6
    )
    assert losses["loss_rpn_box"].item() == pytest.approx(
        float(fixture[f"{case}/loss/loss_rpn_loc"]), rel=2e-6
    )
    torch.stack(list(losses.values())).sum().backward()
    assert_gradients(gradient_errors(rpn, fixture.group(f"{case}/grad")))
    unused = torch.nn.Module()
    assert_gradients(gradient_errors(unused, fixture.group(f"{case}/grad_features"), features))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["train", "test"])
def test_proposals(fixture: Fixture, case: str, mode: str) -> None:
    facts = fixture.facts(case)
    rpn = make_rpn(facts).train(mode == "train")
    load(rpn, fixture.state(case))
    maps = pyramid(facts["features_seed"], 3, facts["channels"], tuple(facts["size"]))
    sizes = torch.tensor(facts["image_sizes"])
    with torch.no_grad():
        found, losses = rpn([torch.from_numpy(v) for v in maps.values()], sizes, None)
    assert losses == {}
    for i in range(3):
        boxes = fixture[f"{case}/{mode}_boxes{i}"]
        count = int(found.valid[i].sum())
        assert count == len(boxes) and bool(found.valid[i, :count].all())
        np.testing.assert_allclose(found.boxes[i, :count].numpy(), boxes, rtol=1e-6, atol=1e-4)
        logits = fixture[f"{case}/{mode}_logits{i}"]
        np.testing.assert_allclose(found.scores[i, :count].numpy(), logits, rtol=1e-5, atol=1e-6)


def test_selection_of_given_boxes() -> None:
    """Top-k a level, clip, drop the empty, NMS a level, top-k: the same boxes in the same order."""
    fixture = Fixture("detectron2_inference")
    facts = fixture.facts("proposals")
    boxes = [torch.from_numpy(fixture[f"proposals/level_boxes{i}"]) for i in range(3)]
    logits = [torch.from_numpy(fixture[f"proposals/level_logits{i}"]) for i in range(3)]
    rpn = RPN(
        4,
        [4, 8, 16],
        anchor_sizes=[8, 16, 32],
        aspect_ratios=[1.0],
        round_anchors=False,
        anchor_spacing="stride",
        num_convs=1,
        foreground_iou=0.7,
        background_iou=0.3,
        num_samples=8,
        positive_fraction=0.5,
        pre_nms_topk=(facts["pre_nms_topk"],) * 2,
        post_nms_topk=(facts["post_nms_topk"],) * 2,
        nms_thresh=facts["nms_thresh"],
        min_size=0.0,
        box_loss="l1",
        smooth_l1_beta=0.1,
        loss_normalizer="num_samples",
    ).eval()
    sizes = torch.tensor(facts["sizes"])
    for i in range(2):
        # as anchors with deltas of 0, an image at a time since both share the anchors
        found = rpn.select(
            [x[i : i + 1] for x in logits],
            [torch.zeros_like(b[i : i + 1]) for b in boxes],
            [b[i] for b in boxes],
            sizes[i : i + 1],
        )
        kept = fixture[f"proposals/found_boxes{i}"]
        assert int(found.valid.sum()) == len(kept)
        np.testing.assert_allclose(found.boxes[0, : len(kept)].numpy(), kept, atol=1e-4)
        scores = fixture[f"proposals/found_logits{i}"]
        np.testing.assert_array_equal(found.scores[0, : len(kept)].numpy(), scores)
