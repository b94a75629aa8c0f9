"""Whole Mask R-CNNs give Detectron2's proposals, detections, masks, losses and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resdet.config.loading import config_from_dict
from resdet.factory import build_model
from resdet.interop.detectron2.config import from_detectron2
from resdet.models.branches import mask
from resdet.models.rcnn import RCNN
from resdet.models.regions import RoIDetections
from resdet.structures import ImageBatch, TargetBatch
from tests.fixtures.names import assert_gradients, gradient_errors, load
from tests.fixtures.recipe import Fixture, random_image, relative_error
from tests.models.detectron2_heads import by_image, make_targets
from tests.models.tiny import tiny_model

TRAINED = ["r18", "r50", "c4", "dc5", "cascade"]
CASES = [*TRAINED, "lsj"]


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("detectron2_rcnn")


def make_model(fixture: Fixture, case: str) -> RCNN:
    """Built from Detectron2's own settings and weights, as an imported file is."""
    facts = fixture.facts(case)
    config = config_from_dict(from_detectron2(facts["options"], "the fixture"), "the fixture")
    names = [f"class {number}" for number in range(facts["num_classes"])]
    net = build_model(config, class_names=names, category_ids=[1, 2, 3])
    state = fixture.state(case)
    for name, factor in facts["scale"].items():
        state[name] = state[name] * np.float32(factor)
    load(net, state)
    return net.double() if facts.get("dtype") == "float64" else net


def make_images(facts: dict[str, Any], multiple: int) -> ImageBatch:
    """The two images padded to a common size with what must not matter."""
    sizes = facts["image_sizes"]
    height = -(-max(h for h, _ in sizes) // multiple) * multiple
    width = -(-max(w for _, w in sizes) // multiple) * multiple
    images = torch.full((len(sizes), 3, height, width), 77, dtype=torch.uint8)
    for i, (h, w) in enumerate(sizes):
        image = random_image(facts["seed"] + i, h, w)
        images[i, :, :h, :w] = torch.from_numpy(image).permute(2, 0, 1)
    return ImageBatch(images, torch.tensor(sizes))


@pytest.mark.parametrize("case", CASES)
def test_detections(fixture: Fixture, case: str) -> None:
    facts = fixture.facts(case)
    model = make_model(fixture, case).eval()
    images = make_images(facts, model.size_divisibility)
    with torch.no_grad():
        pyramid = list(model.pyramid(model.normalize(images)).values())
        proposals, _ = model.rpn(pyramid, images.sizes, None)
    originals = [tuple(size) for size in facts["original_sizes"]]
    for i, found in enumerate(model.infer(images, originals)):
        boxes = fixture[f"{case}/test_proposals{i}"]
        assert int(proposals.valid[i].sum()) == len(boxes)
        ours = proposals.boxes[i, : len(boxes)].numpy()
        np.testing.assert_allclose(ours, boxes, rtol=1e-5, atol=2e-3)
        boxes = fixture[f"{case}/test_boxes{i}"]
        np.testing.assert_allclose(found.boxes.numpy(), boxes, rtol=1e-5, atol=2e-3)
        scores = fixture[f"{case}/test_scores{i}"]
        np.testing.assert_allclose(found.scores.numpy(), scores, rtol=1e-4)
        np.testing.assert_array_equal(found.labels.numpy(), fixture[f"{case}/test_classes{i}"])
        assert found.mask_probs is not None and found.masks is not None
        for row, reference in enumerate(fixture[f"{case}/test_probs{i}"]):
            assert relative_error(found.mask_probs[row].numpy(), reference) <= 1e-4
        masks = found.masks.numpy()
        theirs = np.unpackbits(fixture[f"{case}/test_masks{i}"])[: masks.size]
        # a probability may round to either side of the threshold
        assert (masks.reshape(-1) != theirs.astype(bool)).mean() <= 1e-4


def fixed_masks(masks: Tensor, gt_boxes: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Stands in for the resampling: the fixture's targets are those of the object, 28×28."""
    assert masks.shape[-1] == size
    return masks.bool()


def make_mask_targets(fixture: Fixture, case: str) -> TargetBatch:
    targets = make_targets(fixture, case, images=2)
    masks = []
    for i, boxes in enumerate(by_image(fixture, f"{case}/gt_boxes", 2)):
        bits = torch.from_numpy(np.unpackbits(fixture[f"{case}/gt_masks{i}"]))
        side = 4 if case == "c4" else 28
        masks.append(bits[: len(boxes) * side**2].view(len(boxes), side, side))
    targets.masks = torch.cat(masks)
    return targets


@pytest.mark.parametrize(
    ("case", "fixed"),
    [
        pytest.param(
            case,
            fixed,
            id=f"{case}-as on a {'GPU' if fixed else 'CPU'}",
            # 10 to 30 s; test_context.py compares the slots of a small res5 head
            marks=[pytest.mark.slow] if fixed and case in ("c4", "dc5") else [],
        )
        for case in TRAINED
        for fixed in (False, True)
    ],
)
def test_losses_and_gradients(
    fixture: Fixture, case: str, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every anchor and every proposal is a sample, so that none is drawn."""
    monkeypatch.setattr(mask, "resample_masks", fixed_masks)
    facts = fixture.facts(case)
    model = make_model(fixture, case).train()
    model.set_fixed_slots(fixed)
    targets = make_mask_targets(fixture, case)
    losses = model(make_images(facts, model.size_divisibility), targets, seed=0, step=0)
    theirs = fixture.group(f"{case}/loss")
    names = {"loss_box": "loss_box_reg", "loss_rpn_box": "loss_rpn_loc"}
    for stage in range(3):
        names[f"loss_cls_stage{stage + 1}"] = f"loss_cls_stage{stage}"
        names[f"loss_box_stage{stage + 1}"] = f"loss_box_reg_stage{stage}"
    assert len(losses) == len(theirs)
    for name, value in losses.items():
        reference = float(theirs[names.get(name, name)])
        assert value.item() == pytest.approx(reference, rel=1e-5), name
    torch.stack(list(losses.values())).sum().backward()
    assert_gradients(gradient_errors(model, fixture.group(f"{case}/grad")))


def test_detections_at_the_original_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes scaled and clipped, those that are empty then dropped, masks pasted at that size."""
    given = Fixture("detectron2_inference")
    facts = given.facts("postprocess")
    boxes = torch.from_numpy(given["postprocess/boxes"])
    count = len(boxes)
    detections = RoIDetections(
        boxes,
        torch.linspace(0.9, 0.2, count),
        torch.arange(count),
        torch.zeros(count, dtype=torch.int64),
        {"mask_probs": torch.from_numpy(given["postprocess/probs"])},
    )
    model = tiny_model(classes=count).eval()
    monkeypatch.setattr(model.roi_heads, "detect", lambda *_: detections)
    images = ImageBatch(
        torch.zeros(1, 3, 128, 160, dtype=torch.uint8), torch.tensor([facts["size"]])
    )
    [found] = model.infer(images, [tuple(facts["original"])])
    np.testing.assert_array_equal(found.labels.numpy(), given["postprocess/found_classes"])
    assert len(found) < count
    np.testing.assert_allclose(found.boxes.numpy(), given["postprocess/found_boxes"], rtol=1e-6)
    assert found.masks is not None
    masks = found.masks.numpy()
    theirs = np.unpackbits(given["postprocess/found_masks"])[: masks.size].astype(bool)
    assert (masks.reshape(-1) != theirs).sum() <= 2
