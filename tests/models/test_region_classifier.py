"""The R-CNN of localization: its losses and its answers against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resdet.data.localization.regions import RegionBatch
from resdet.errors import UserError
from resdet.models.predict import inference_mode
from resdet.models.region_classifier import (
    RegionAnswers,
    RegionClassifier,
    fill_of,
    mean_answer,
    refined_boxes,
)

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Colours(nn.Module):
    """A backbone whose map is its input at half the size, with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"c5": self.scale * images[:, :, ::2, ::2]}


def make(**changes: object) -> RegionClassifier:
    torch.manual_seed(0)
    options: dict[str, object] = {
        **{"feature": "c5", "side": 16, "context": 0.0, "flip": False, "box_weights": WEIGHTS},
        **{"box_loss": "smooth_l1", "smooth_l1_beta": 1.0, "box_loss_weight": 2.0},
        **{"pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 60.0, 50.0]},
        **{"channel_order": "rgb", "channels_last": True, "config": None},
        **{"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3]},
    }
    model = RegionClassifier(Colours(), 3, **options | changes)  # type: ignore[arg-type]
    nn.init.normal_(model.cls_score.weight)
    nn.init.normal_(model.bbox_pred.weight)
    return model


def make_batch(count: int = 6) -> RegionBatch:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 50
    size = torch.rand(count, 2, generator=generator) * 40 + 5
    moved = corner + torch.rand(count, 2, generator=generator) * 6
    return RegionBatch(
        torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8),
        torch.cat([corner, corner + size], 1),
        torch.cat([moved, moved + size * 1.2], 1),
        torch.tensor([True, False, True, True, False, False][:count]),
        torch.tensor([0, 2, 1, 1, 0, 2][:count]),
        torch.ones(count, dtype=torch.bool),
        list(range(count)),
        [f"{i}.jpg" for i in range(count)],
        [],
    )


def plain_answer(model: RegionClassifier, crop: Tensor, label: int) -> tuple[float, list[float]]:
    """Logit and weighted deltas of one crop, number by number."""
    mean, std = model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()
    hidden = [0.5 * (crop[c, ::2, ::2].double().mean().item() - mean[c]) / std[c] for c in range(3)]
    rows = [model.cls_score.weight[label], *model.bbox_pred.weight[4 * label : 4 * label + 4]]
    values = [sum(w * h for w, h in zip(row.tolist(), hidden, strict=True)) for row in rows]
    return values[0], values[1:]


def test_losses_equal_a_plain_loop() -> None:
    model, batch = make(), make_batch()
    cls, box = 0.0, 0.0
    for i in range(6):
        logit, deltas = plain_answer(model, batch.crops[i], int(batch.labels[i]))
        share = 1 / (1 + math.exp(-logit))
        cls -= math.log(share if batch.positive[i] else 1 - share)
        if not batch.positive[i]:
            continue
        x1, y1, x2, y2 = batch.frames[i].tolist()
        gx1, gy1, gx2, gy2 = batch.gt_boxes[i].tolist()
        targets = [
            10 * ((gx1 + gx2) / 2 - (x1 + x2) / 2) / (x2 - x1),
            10 * ((gy1 + gy2) / 2 - (y1 + y2) / 2) / (y2 - y1),
            5 * math.log((gx2 - gx1) / (x2 - x1)),
            5 * math.log((gy2 - gy1) / (y2 - y1)),
        ]
        for d, t in zip(deltas, targets, strict=True):
            off = abs(d - t)
            box += 0.5 * off**2 if off < 1 else off - 0.5
    losses = model(batch)
    assert losses["loss_cls"].item() == pytest.approx(cls / 6, rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(2 * box / 6, rel=1e-5)
    sum(losses.values()).backward()
    assert model.backbone.scale.grad is not None and model.backbone.scale.grad != 0


def test_only_the_class_of_a_proposal_learns_from_it() -> None:
    model, batch = make(), make_batch(1)
    sum(model(batch).values()).backward()
    assert model.cls_score.weight.grad[0].abs().sum() > 0
    assert model.cls_score.weight.grad[1:].abs().sum() == 0
    assert model.bbox_pred.weight.grad[4:].abs().sum() == 0


def test_answers_are_scores_and_deltas_without_weights() -> None:
    model, batch = make(), make_batch()
    with inference_mode(model):
        answers = model.answer(batch.crops, batch.labels)
    for i in range(6):
        logit, deltas = plain_answer(model, batch.crops[i], int(batch.labels[i]))
        assert answers.scores[i].item() == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-5)
        plain = [d / w for d, w in zip(deltas, WEIGHTS, strict=True)]
        assert answers.deltas[i].tolist() == pytest.approx(plain, rel=1e-4, abs=1e-6)


def test_the_mirror_image_of_a_test_crop_moves_the_box_the_other_way() -> None:
    plain, both, batch = make(), make(flip=True), make_batch()
    both.load_state_dict(plain.state_dict())
    one = plain.answer(batch.crops, batch.labels)
    other = plain.answer(batch.crops.flip(-1), batch.labels)
    mean = both.answer(batch.crops, batch.labels)
    torch.testing.assert_close(mean.scores, (one.scores + other.scores) / 2)
    torch.testing.assert_close(mean.deltas[:, 0], (one.deltas[:, 0] - other.deltas[:, 0]) / 2)
    torch.testing.assert_close(mean.deltas[:, 1:], (one.deltas + other.deltas)[:, 1:] / 2)


def test_boxes_are_refined_from_their_frames_and_stay_in_the_image() -> None:
    answers = RegionAnswers(
        torch.tensor([0.5, 0.7]),
        torch.tensor([[0.1, -0.2, math.log(2), 0.0], [9.0, 0.0, 0.0, 0.0]]),
    )
    boxes = refined_boxes(answers, torch.tensor([[10.0, 20, 30, 60], [10, 20, 30, 60]]), (80, 100))
    # centre 20, 40 → 22, 32; width 20 → 40
    torch.testing.assert_close(boxes[0], torch.tensor([2.0, 12, 42, 52]))
    assert boxes[1].tolist() == [100, 20, 100, 60]
    twice = mean_answer([answers, RegionAnswers(answers.scores + 0.2, -answers.deltas)])
    torch.testing.assert_close(twice.scores, torch.tensor([0.6, 0.8]))
    assert twice.deltas.abs().max() == 0


def test_crops_are_cut_where_training_cuts_them() -> None:
    model = make(context=0.25, channel_order="bgr", pixel_mean=[1.0, 2.0, 300.0])
    assert model.fill == (255, 2, 1) == fill_of([1.0, 2.0, 300.0], "bgr")
    pixels = np.full((40, 60, 3), 77, np.uint8)
    crops, regions = model.cut(pixels, np.array([[0.0, 0, 24, 24], [20, 10, 50, 30]]))
    assert crops.shape == (2, 3, 16, 16) and regions.windows[0].tolist() == [-4, -4, 28, 28]
    assert crops[0, :, 0, 0].tolist() == [255, 2, 1] and (crops[1] == 77).all()
    assert model.cut(pixels, np.zeros((0, 4)))[0].shape == (0, 3, 16, 16)


def test_it_says_that_it_needs_proposals() -> None:
    with pytest.raises(UserError, match="--proposals"):
        make().predict(np.zeros((20, 20, 3), np.uint8), precision="fp32")
