"""Global context (He et al. 2016, appendix B) against a loop over regions, one at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from resdet.models.rcnn import RCNN
from resdet.models.regions import RegionSamples
from resdet.models.roi_heads import RoIHeads
from resdet.structures import ImageBatch
from tests.models.test_rcnn import CASCADE
from tests.models.tiny import merged, nuclei_batch, tiny_model

C4: dict[str, Any] = {
    "fpn": None,
    "rpn": {"anchor_sizes": [[16, 32, 64]]},
    "roi": {
        "box_head": {"type": "res5", "num_fcs": 0, "pool_size": 4},
        "mask_head": {"num_convs": 0, "pool_size": 4},
    },
}
VGG: dict[str, Any] = {
    "backbone": {"name": "vgg16", "norm": "none"},
    "fpn": None,
    "rpn": {"anchor_sizes": [[16, 32, 64]]},
    "roi": {"mask_head": None, "box_head": {"type": "vgg", "fc_dim": 24, "dropout": 0.0}},
}
CASES = {
    "fpn": {},
    "res5": C4,
    "vgg": VGG,
    "cascade": merged(CASCADE, {"roi": {"mask_head": None}}),
}
FEW: dict[str, Any] = {
    "rpn": {"pre_nms_topk_test": 30, "post_nms_topk_test": 6, "post_nms_topk_train": 20},
    "roi": {"num_samples": 8, "positive_fraction": 0.5},
    "detections_per_image": 4,
    "score_thresh": 0.2,
}
CONTEXT = {"roi": {"context": True}}


def with_context(name: str) -> RCNN:
    model = tiny_model(merged(merged(CASES[name], FEW), CONTEXT)).double()
    with torch.no_grad():
        for head in model.roi_heads.box_heads:
            # as they start, deltas are too small to tell their halves apart
            head.bbox_pred.weight.normal_(std=0.01)
    return model


def plainly(
    heads: RoIHeads, levels: list[Tensor], box: list[float], image: int, stage: int
) -> Tensor:
    """Hidden features (D,) of one region, written out from the paper's text."""
    size = heads.box_pool_size
    level = 0
    if len(heads.strides) > 1:
        area = max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
        # a region of 224 pixels belongs to p4, the whole image like any other
        level = math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-8))
        level = min(max(level, 2), 5) - 2
    region = torch.tensor([[float(image), *box]], dtype=torch.float64)
    pooled = roi_align(levels[level], region, size, 1 / heads.strides[level], 0, True)
    if heads.res5 is not None:
        return heads.res5(pooled).mean((2, 3))[0]
    hidden = pooled.flatten()
    for number in (0, 2):
        weight = heads.get_parameter(f"stages.{stage}.fcs.{number}.weight")
        hidden = (weight @ hidden + heads.get_parameter(f"stages.{stage}.fcs.{number}.bias")).relu()
    return hidden


def reference(
    heads: RoIHeads, levels: list[Tensor], boxes: Tensor, images: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits (R, K + 1) and deltas (R, K, 4) of the first stage."""
    head, logits, deltas = heads.box_heads[0], [], []
    for box, image in zip(boxes.tolist(), images.tolist(), strict=True):
        height, width = sizes[image].tolist()
        region = plainly(heads, levels, box, image, 0)
        whole = plainly(heads, levels, [0.0, 0.0, width, height], image, 0)
        both = torch.cat([region, whole])
        logits.append(head.cls_score.weight @ both + head.cls_score.bias)
        deltas.append((head.bbox_pred.weight @ both + head.bbox_pred.bias).view(-1, 4))
    return torch.stack(logits), torch.stack(deltas)


def smaller(images: ImageBatch) -> ImageBatch:
    """The second image with fewer rows and columns, so that its border is padding."""
    sizes = images.sizes.clone()
    sizes[1] = torch.tensor([50, 40])
    return ImageBatch(images.images, sizes)


@pytest.mark.parametrize(
    ("name", "fixed"),
    [("fpn", False), ("fpn", True), ("res5", False), ("res5", True), ("vgg", False)],
)
def test_logits_deltas_and_gradients(name: str, fixed: bool, nuclei: Path) -> None:
    model = with_context(name).eval()
    heads = model.roi_heads
    model.set_fixed_slots(fixed)
    images = smaller(nuclei_batch(nuclei, size=64)[0])
    boxes = torch.tensor(
        [[3, 5, 60, 50], [30, 10, 63, 64], [0, 0, 30, 9], [5, 5, 35, 45]], dtype=torch.float64
    )
    rows = torch.tensor([0, 0, 1, 1])
    levels = [level.detach().requires_grad_() for level in model.levels(images)]
    pull = torch.Generator().manual_seed(0)

    def gradients(logits: Tensor, deltas: Tensor) -> list[Tensor]:
        pull.manual_seed(0)
        scalars = [
            (values * torch.rand(values.shape, generator=pull, dtype=torch.float64)).sum()
            for values in (logits, deltas)
        ]
        wanted = [p for n, p in heads.named_parameters() if "mask" not in n and p.requires_grad]
        return list(torch.autograd.grad(sum(scalars), [*wanted, *levels], materialize_grads=True))

    hidden = heads.hidden(heads.features(levels), boxes, rows, images.sizes)
    ours = heads.box_heads[0].predict(hidden)
    theirs = reference(heads, levels[: len(heads.strides)], boxes, rows, images.sizes)
    for a, b in zip((*ours, *gradients(*ours)), (*theirs, *gradients(*theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    half = hidden.shape[1] // 2
    assert torch.equal(hidden[0, half:], hidden[1, half:])
    assert not torch.allclose(hidden[1, half:], hidden[2, half:])


@pytest.mark.parametrize("name", ["fpn", "res5", pytest.param("cascade", marks=pytest.mark.slow)])
def test_fixed_slots_give_the_counted_numbers(name: str, nuclei: Path) -> None:
    model = with_context(name)
    images, targets = nuclei_batch(nuclei, size=64)
    images = smaller(images)
    found = []
    for fixed in (False, True):
        model.set_fixed_slots(fixed)
        model.train()
        losses = model(images, targets, seed=0, step=0)
        sum(losses.values(), torch.zeros(())).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        detections = model.eval().infer(images, [(64, 64)] * 2)
        found.append((losses, gradient, detections))
    (losses, gradient, counted), (other, its_gradient, fixed_ones) = found
    assert losses.keys() == other.keys()
    torch.testing.assert_close(losses, other)
    torch.testing.assert_close(gradient, its_gradient)
    for a, b in zip(counted, fixed_ones, strict=True):
        assert len(a) == len(b) > 0
        torch.testing.assert_close(a.boxes, b.boxes)
        torch.testing.assert_close(a.scores, b.scores)


@pytest.mark.parametrize("name", ["fpn", "res5"])
def test_masks_do_not_see_it(name: str, nuclei: Path) -> None:
    """With predictors that ignore the context's half, everything is as without context."""
    plain = tiny_model(merged(CASES[name], FEW)).double()
    model = with_context(name)
    state = plain.state_dict()
    for key in ("cls_score.weight", "bbox_pred.weight"):
        key = f"roi_heads.stages.0.{key}"
        state[key] = torch.cat([state[key], torch.zeros_like(state[key])], dim=1)
    model.load_state_dict(state)
    images, targets = nuclei_batch(nuclei, size=64)
    images = smaller(images)
    losses = [m.train()(images, targets, seed=0, step=0) for m in (plain, model)]
    assert "loss_mask" in losses[0]
    torch.testing.assert_close(*losses)
    for a, b in zip(*(m.eval().infer(images, [(64, 64)] * 2) for m in (plain, model)), strict=True):
        assert len(a) == len(b) > 0
        torch.testing.assert_close(a.boxes, b.boxes)
        torch.testing.assert_close(a.mask_probs, b.mask_probs)


def test_the_regions_that_the_mask_branch_shares_are_the_samples(nuclei: Path) -> None:
    model = with_context("res5").train()
    images, targets = nuclei_batch(nuclei, size=64)
    levels = model.levels(images)
    proposals, _ = model.rpn(levels, images.sizes, targets, seed=0, step=0)
    features = model.roi_heads.features(levels)
    samples: RegionSamples = model.roi_heads.sample(proposals, targets, seed=0, step=0)
    _, pooled = model.roi_heads.box_losses(features, samples, images.sizes, targets)
    assert len(pooled) == int(samples.valid.sum())


# A step's losses of a fixed seed (1e-4 relative): C4 with RoI pooling, as the paper has it.
RPN_LOSSES = {"loss_rpn_cls": 0.387475, "loss_rpn_box": 0.00900644}
PINNED: dict[bool, dict[str, float]] = {
    False: {**RPN_LOSSES, "loss_cls": 1.07544, "loss_box": 0.0176608},
    True: {**RPN_LOSSES, "loss_cls": 1.27278, "loss_box": 0.0205954},
}


@pytest.mark.parametrize("context", [False, True])
def test_losses_of_c4_with_roi_pooling_are_pinned(context: bool, nuclei: Path) -> None:
    changes = merged(merged(C4, FEW), {"roi": {"pooling": "pool", "context": context}})
    model = tiny_model(merged(changes, {"roi": {"mask_head": None}})).double().train()
    losses = model(*nuclei_batch(nuclei, size=64), seed=1, step=2)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        PINNED[context], rel=1e-4
    )
