"""An image that could not be read has no weight: the losses are those of the other images alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resdet.data.localization.regions import RegionBatch
from resdet.models.losses import ClassificationLoss
from resdet.structures import ImageBatch, TargetBatch
from tests.models import test_class_rpn, test_region_classifier
from tests.models.tiny import nuclei_batch, tiny_model

STAGES = [
    {"foreground_iou": iou, "box_weights": [scale, scale, scale / 2, scale / 2]}
    for iou, scale in ((0.5, 10), (0.6, 20), (0.7, 30))
]
KINDS: dict[str, dict[str, Any]] = {
    "mask": {},
    "everything": {
        "rpn": {"loss_normalizer": "sampled"},
        "roi": {
            "context": True,
            "stages": STAGES,
            "box_head": {"class_agnostic": True, "box_loss": "giou"},
        },
    },
    "sampled": {"rpn": {"loss_normalizer": "sampled"}, "roi": {"box_head": {"box_loss": "giou"}}},
    "context": {"roi": {"context": True}},
    "cascade": {"roi": {"stages": STAGES, "box_head": {"class_agnostic": True}}},
}


def with_blank(images: ImageBatch, targets: TargetBatch, at: int) -> tuple[ImageBatch, TargetBatch]:
    """The batch with one more image, which could not be read, at a position."""

    def inserted(values: Tensor, value: Tensor) -> Tensor:
        return torch.cat([values[:at], value[None].to(values.dtype), values[at:]])

    pixels = inserted(images.images, torch.zeros_like(images.images[0]))
    sizes = inserted(images.sizes, torch.ones(2))
    empty = {
        name: inserted(getattr(targets, name), torch.zeros_like(getattr(targets, name)[0]))
        for name in ("boxes", "labels", "valid", "mask_rows", "readable")
    }
    keys = inserted(targets.image_keys, torch.tensor(77))
    ids = [*targets.image_ids[:at], 77, *targets.image_ids[at:]]
    return ImageBatch(pixels, sizes), replace(targets, **empty, image_keys=keys, image_ids=ids)


def losses_and_gradients(model: nn.Module, *batch: Any) -> tuple[dict[str, float], list[Tensor]]:
    model.zero_grad(set_to_none=False)
    losses = model(*batch, seed=3, step=5)
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return {name: value.item() for name, value in losses.items()}, gradients


def assert_same(model: nn.Module, batch: Any, reference: Any) -> None:
    losses, gradients = losses_and_gradients(model, *batch)
    wanted, wanted_gradients = losses_and_gradients(model, *reference)
    assert losses == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert all(value > 0 for value in wanted.values())
    for one, other in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "fixed"),
    [
        ("mask", False),
        ("everything", True),
        *(
            pytest.param(kind, fixed, marks=pytest.mark.slow)
            for kind in ("sampled", "context", "cascade")
            for fixed in (False, True)
        ),
    ],
)
def test_a_detector(nuclei: Path, kind: str, fixed: bool) -> None:
    model = tiny_model(KINDS[kind]).double().train()
    model.set_fixed_slots(fixed)
    sound = nuclei_batch(nuclei)
    assert_same(model, with_blank(*sound, at=1), sound)


@pytest.mark.parametrize("fixed", [False, True])
def test_a_detector_without_any_image_has_no_losses(nuclei: Path, fixed: bool) -> None:
    model = tiny_model().train()
    model.set_fixed_slots(fixed)
    images, targets = nuclei_batch(nuclei, keys=(0,))
    images, targets = with_blank(images, targets, at=0)
    blank = ImageBatch(images.images[:1], images.sizes[:1])
    none = {
        name: getattr(targets, name)[:1]
        for name in ("boxes", "labels", "valid", "mask_rows", "readable", "image_keys")
    }
    losses, gradients = losses_and_gradients(model, blank, replace(targets, **none))
    assert set(losses.values()) == {0.0} and len(losses) == 5
    assert not any(gradient.any() for gradient in gradients)


def test_a_per_class_rpn() -> None:
    for trained in ("own", "all"):
        rpn = test_class_rpn.make_rpn(trained)
        targets = test_class_rpn.make_targets()
        features = torch.randn(4, 12, 6, 6, dtype=torch.float64)
        batch = ImageBatch(features, torch.ones(4, 2))
        more, with_one = with_blank(batch, targets, at=2)
        assert_same(rpn, (more.images, with_one), (features, targets))


def test_crops_of_an_rcnn_for_localization() -> None:
    model = test_region_classifier.make().double()
    sound = test_region_classifier.make_batch()
    zeros = [torch.zeros_like(getattr(sound, name)[:2]) for name in ("crops", "frames", "gt_boxes")]
    zeros[1][:, 2:] = 16
    no = torch.zeros(2, dtype=torch.bool)
    blank = (*zeros, no, torch.zeros(2, dtype=torch.int64), no)
    names = ("crops", "frames", "gt_boxes", "positive", "labels", "valid")
    joined = {
        name: torch.cat([getattr(sound, name), value])
        for name, value in zip(names, blank, strict=True)
    }
    with_blank_crops: RegionBatch = replace(sound, **joined)
    losses, wanted = model(with_blank_crops), model(sound)
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-9, atol=0)
    only = {name: value[-2:] for name, value in joined.items()}
    assert [value.item() for value in model(replace(sound, **only)).values()] == [0, 0]


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_a_classifier(name: str) -> None:
    loss = ClassificationLoss(
        name=name,
        label_smoothing=0.1,
        bce_target_thresh=None,
        aux_weight=0.3,
        teacher_weight=0.5,
        teacher_temperature=2.0,
    )
    logits, labels = torch.randn(4, 5), torch.tensor([1, -1, 4, 0])
    keep = labels >= 0
    losses = loss([logits, logits * 2], labels, logits.flip(1))
    wanted = loss([logits[keep], logits[keep] * 2], labels[keep], logits.flip(1)[keep])
    assert losses.keys() == {"loss_cls", "loss_aux", "loss_teacher"}
    for key, value in wanted.items():
        torch.testing.assert_close(losses[key], value)
