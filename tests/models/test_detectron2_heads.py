"""Box heads, cascade and mask head give Detectron2's losses, gradients and detections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.models.branches.mask import MaskHead
from resdet.models.regions import RegionSamples
from resdet.models.roi_heads import RoIHeads
from resdet.models.suppress import suppress_slots
from tests.fixtures.names import assert_gradients, gradient_errors, load
from tests.fixtures.recipe import Fixture, normal, relative_error
from tests.models.detectron2_heads import (
    in_order,
    make_features,
    make_heads,
    make_proposals,
    make_targets,
    padded,
    stage_samples,
)

BOX_CASES = [
    "2fc_l1",
    "2fc_sampled",
    "2fc_smooth_l1",
    "2fc_giou",
    "2fc_agnostic",
    "2fc_agnostic_giou",
    "4conv1fc",
    "4conv1fc_gn",
]
BOX = [("detectron2_box", case, 1) for case in BOX_CASES]
CASCADE = [("detectron2_cascade", case, 3) for case in ("l1", "giou")]


def check_samples(
    fixture: Fixture, case: str, stage: int, ours: RegionSamples, classes: int
) -> None:
    """The same boxes with the same classes; foreground with the same object."""
    for i in range(3):
        theirs = {
            name: fixture[f"{case}/stage{stage}_{name}{i}"]
            for name in ("boxes", "classes", "gt_boxes")
        }
        keep = ours.valid[i].numpy()
        labels = ours.labels[i].numpy()[keep]
        front = (labels < classes)[:, None]
        table = in_order(
            ours.boxes[i].numpy()[keep], labels, ours.gt_boxes[i].numpy()[keep] * front
        )
        front = (theirs["classes"] < classes)[:, None]
        reference = in_order(theirs["boxes"], theirs["classes"], theirs["gt_boxes"] * front)
        np.testing.assert_allclose(table, reference, rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("fixed", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize(("file", "case", "stages"), BOX + CASCADE)
def test_losses_and_gradients(file: str, case: str, stages: int, fixed: bool) -> None:
    """On the valid samples only, as on a CPU, and on every slot, as on a GPU."""
    fixture = Fixture(file)
    facts = fixture.facts(case)
    classes = facts["num_classes"]
    heads = make_heads(facts, stages).train()
    heads.fixed_slots = fixed
    load(heads, fixture.state(case))
    features = make_features(facts)
    targets = make_targets(fixture, case)
    sizes = torch.tensor(facts["image_sizes"])

    drawn = heads.sample(make_proposals(fixture, case), targets, seed=0, step=0)
    if facts["sample"]:
        samples = stage_samples(fixture, case, 0, classes)
        theirs = samples.labels < classes
        assert drawn.valid.sum(dim=1).tolist() == samples.valid.sum(dim=1).tolist()
        assert (drawn.labels < classes).sum(dim=1).tolist() == theirs.sum(dim=1).tolist()
    else:
        samples = drawn
        check_samples(fixture, case, 0, drawn, classes)

    levels = heads.features(list(features.values()))
    losses, _ = heads.box_losses(levels, samples, sizes, targets)
    for stage in range(stages):
        ours, theirs = ("", "") if stages == 1 else (f"_stage{stage + 1}", f"_stage{stage}")
        for name, reference in (("loss_cls", "loss_cls"), ("loss_box", "loss_box_reg")):
            expected = float(fixture[f"{case}/loss/{reference}{theirs}"])
            assert losses[name + ours].item() == pytest.approx(expected, rel=3e-6), name + ours
    assert len(losses) == 2 * stages
    torch.stack(list(losses.values())).sum().backward()
    assert_gradients(gradient_errors(heads, fixture.group(f"{case}/grad")))
    grads = fixture.group(f"{case}/grad_features")
    assert_gradients(gradient_errors(torch.nn.Module(), grads, features))


@pytest.mark.parametrize("case", ["l1", "giou"])
def test_boxes_are_refined_between_stages(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Fixture("detectron2_cascade")
    facts = fixture.facts(case)
    heads = make_heads(facts, 3).train()
    load(heads, fixture.state(case))
    kept: list[RegionSamples] = []
    inner = RoIHeads._relabel

    def recorded(self: RoIHeads, *args: object) -> RegionSamples:
        kept.append(inner(self, *args))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr(RoIHeads, "_relabel", recorded)
    targets = make_targets(fixture, case)
    samples = heads.sample(make_proposals(fixture, case), targets, seed=0, step=0)
    levels = heads.features(list(make_features(facts).values()))
    heads.box_losses(levels, samples, torch.tensor(facts["image_sizes"]), targets)
    assert len(kept) == 2
    for stage, refined in enumerate(kept, start=1):
        check_samples(fixture, case, stage, refined, facts["num_classes"])
        assert not refined.boxes.requires_grad


@pytest.mark.parametrize("fixed", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize(("file", "case", "stages"), BOX + CASCADE)
def test_detections(file: str, case: str, stages: int, fixed: bool) -> None:
    fixture = Fixture(file)
    facts = fixture.facts(case)
    heads = make_heads(facts, stages).eval()
    heads.fixed_slots = fixed
    load(heads, fixture.state(case))
    with torch.no_grad():
        found = heads.detect(
            list(make_features(facts).values()),
            make_proposals(fixture, case),
            torch.tensor(facts["image_sizes"]),
        )
    for i in range(3):
        rows = found.images == i
        boxes = fixture[f"{case}/test_boxes{i}"]
        np.testing.assert_allclose(found.boxes[rows].numpy(), boxes, rtol=1e-6, atol=3e-4)
        scores = fixture[f"{case}/test_scores{i}"]
        np.testing.assert_allclose(found.scores[rows].numpy(), scores, rtol=1e-5)
        np.testing.assert_array_equal(found.labels[rows], fixture[f"{case}/test_classes{i}"])


@pytest.mark.parametrize("case", ["mask", "mask_agnostic", "mask_gn"])
def test_mask_head(case: str) -> None:
    fixture = Fixture("detectron2_mask")
    facts = fixture.facts(case)
    given = facts["options"]
    head = MaskHead(
        facts["channels"],
        facts["num_classes"],
        num_convs=given["NUM_CONV"],
        conv_dim=given["CONV_DIM"],
        norm="gn" if given.get("NORM") == "GN" else "none",
        class_agnostic=given.get("CLS_AGNOSTIC_MASK", False),
        pool_size=14,
    ).train()
    load(head, fixture.state(case))
    pooled = torch.from_numpy(normal(facts["pooled_seed"], 12, facts["channels"], 14, 14))
    pooled.requires_grad_()
    labels = torch.from_numpy(fixture[f"{case}/classes"])
    targets = np.unpackbits(fixture[f"{case}/targets"]).reshape(12, 28, 28)
    logits = head(pooled, labels)
    probs = logits.detach().sigmoid().numpy()
    for row in range(12):
        assert relative_error(probs[row], fixture[f"{case}/probs"][row]) <= 1e-6

    valid = torch.ones(12, dtype=torch.bool)
    loss = head.loss(logits, torch.from_numpy(targets).bool(), valid)
    assert loss.item() == pytest.approx(float(fixture[f"{case}/loss/loss_mask"]), rel=1e-6)
    loss.backward()
    assert_gradients(gradient_errors(head, fixture.group(f"{case}/grad")))
    grads = fixture.group(f"{case}/grad_features")
    assert_gradients(gradient_errors(torch.nn.Module(), grads, {"pooled": pooled}))


@pytest.mark.parametrize("fixed", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("case", ["detections", "agnostic"])
@pytest.mark.parametrize("top", [30, 1000])
def test_what_inference_keeps(case: str, top: int, fixed: bool) -> None:
    """Threshold, NMS a class and top-k on given boxes and scores: the same, in the same order."""
    fixture = Fixture("detectron2_inference")
    facts = fixture.facts(case)
    box_facts = Fixture("detectron2_box").facts("2fc_l1") | {"num_classes": facts["num_classes"]}
    heads = make_heads(box_facts, 1).eval()
    heads.detections_per_image = top
    sizes = torch.tensor(facts["sizes"])
    boxes = [torch.from_numpy(fixture[f"{case}/boxes{i}"]) for i in range(2)]
    stacked, valid = padded([b.view(len(b), -1, 4) for b in boxes])
    scores, _ = padded([torch.from_numpy(fixture[f"{case}/scores{i}"]) for i in range(2)])
    limits = sizes.flip(1).repeat(1, 2)[:, None, None].to(stacked.dtype)
    clipped = torch.minimum(stacked.clamp(min=0), limits)
    if fixed:
        found = suppress_slots(
            scores,
            clipped,
            valid,
            score_thresh=heads.score_thresh,
            min_size=0.0,
            nms_thresh=heads.nms_thresh,
            limit=top,
            fixed_slots=True,
        )
    else:
        images = torch.arange(2)[:, None].expand(valid.shape)
        found = heads.suppress(
            heads.candidates(
                scores.flatten(0, 1), clipped.flatten(0, 1), images.flatten(), valid.flatten()
            )
        )
    for i in range(2):
        rows = found.images == i
        start = f"{case}/top{top}_"
        np.testing.assert_array_equal(found.labels[rows].numpy(), fixture[f"{start}classes{i}"])
        np.testing.assert_array_equal(found.scores[rows].numpy(), fixture[f"{start}scores{i}"])
        np.testing.assert_array_equal(found.boxes[rows].numpy(), fixture[f"{start}boxes{i}"])
