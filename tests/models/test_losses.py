"""The classification losses, against torch's and against timm's formulas written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from resdet.models.losses import ClassificationLoss

CLASSES = 7
LABELS = torch.tensor([3, 0, 6, 3, 1])


def _loss(**changes) -> ClassificationLoss:
    values = {
        "name": "cross_entropy",
        "label_smoothing": 0.0,
        "bce_target_thresh": None,
        "aux_weight": 0.3,
        "teacher_weight": 0.5,
        "teacher_temperature": 1.0,
    }
    return ClassificationLoss(**{**values, **changes})


def _logits(seed: int = 0, rows: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64) * 3


def _mixed(share: float = 0.3) -> torch.Tensor:
    return share * F.one_hot(LABELS, CLASSES) + (1 - share) * F.one_hot(LABELS.flip(0), CLASSES)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch(smoothing):
    logits, loss = _logits(), _loss(label_smoothing=smoothing)
    expected = F.cross_entropy(logits, LABELS, label_smoothing=smoothing)
    assert loss((logits,), LABELS).keys() == {"loss_cls"}
    assert loss((logits,), LABELS)["loss_cls"] == pytest.approx(expected)
    # rows with a 1 are labels
    rows = F.one_hot(LABELS, CLASSES).double()
    assert loss((logits,), rows)["loss_cls"] == pytest.approx(expected)
    expected = F.cross_entropy(logits, _mixed(), label_smoothing=smoothing)
    assert loss((logits,), _mixed())["loss_cls"] == pytest.approx(expected)


def test_mixed_targets_are_timms():
    """timm smooths each label, then mixes; here they are mixed, then smoothed: the same."""
    off, on = 0.1 / CLASSES, 1 - 0.1 + 0.1 / CLASSES
    one, two = (
        torch.full((5, CLASSES), off).double().scatter(1, labels[:, None], on)
        for labels in (LABELS, LABELS.flip(0))
    )
    targets = 0.3 * one + 0.7 * two
    expected = (-targets * _logits().log_softmax(dim=1)).sum(dim=1).mean()
    found = _loss(label_smoothing=0.1)((_logits(),), _mixed())["loss_cls"]
    assert found == pytest.approx(expected)
    p = _logits().sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    found = _loss(name="bce", label_smoothing=0.1)((_logits(),), _mixed())["loss_cls"]
    assert found == pytest.approx(expected)


def test_bce_with_a_threshold_is_timms():
    p = _logits().sigmoid()
    present = (_mixed(0.15) > 0.2).double()  # a share of 0.15 is not present
    assert present.sum(dim=1).tolist() == [1, 1, 1, 1, 1]
    expected = -(present * p.log() + (1 - present) * (1 - p).log()).mean()
    loss = _loss(name="bce", bce_target_thresh=0.2)
    assert loss((_logits(),), _mixed(0.15))["loss_cls"] == pytest.approx(expected)
    expected = F.binary_cross_entropy_with_logits(_logits(), F.one_hot(LABELS, CLASSES).double())
    assert loss((_logits(),), LABELS)["loss_cls"] == pytest.approx(expected)


def test_bce_smooths_what_the_threshold_leaves():
    """Wightman et al. 2021, 3.1: 1 − ε, with ε / K for all, for every class that is present."""
    targets = torch.where(_mixed() > 0.2, 0.9 + 0.1 / CLASSES, 0.1 / CLASSES).double()
    expected = F.binary_cross_entropy_with_logits(_logits(), targets)
    loss = _loss(name="bce", bce_target_thresh=0.2, label_smoothing=0.1)
    assert loss((_logits(),), _mixed())["loss_cls"] == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(temperature):
    student, teacher = _logits(1).requires_grad_(), _logits(2).requires_grad_()
    loss = _loss(teacher_weight=0.7, teacher_temperature=temperature, label_smoothing=0.1)
    losses = loss((student,), LABELS, teacher)
    p, q = (teacher / temperature).softmax(dim=1), (student / temperature).softmax(dim=1)
    expected = (p * (p / q).log()).sum(dim=1).mean() * temperature**2
    assert losses["loss_teacher"].detach() == pytest.approx(0.7 * expected.detach())
    plain = F.cross_entropy(student, LABELS, label_smoothing=0.1).detach()
    assert losses["loss_cls"].detach() == pytest.approx(0.3 * plain)
    sum(losses.values()).backward()
    assert student.grad is not None and teacher.grad is None
    same = loss((student,), LABELS, student.detach())
    assert same["loss_teacher"].detach() == pytest.approx(0.0, abs=1e-12)


def test_auxiliary_heads():
    outputs = (_logits(1), _logits(2), _logits(3))
    losses = _loss()(outputs, LABELS)
    assert losses.keys() == {"loss_cls", "loss_aux"}
    assert losses["loss_cls"] == pytest.approx(F.cross_entropy(outputs[0], LABELS))
    expected = 0.3 * sum(F.cross_entropy(x, LABELS) for x in outputs[1:])
    assert losses["loss_aux"] == pytest.approx(expected)
    # the heads still take part, or several processes would wait for their gradients
    assert _loss(aux_weight=0.0)(outputs, LABELS)["loss_aux"] == 0


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
@pytest.mark.parametrize("soft", [False, True])
def test_broken_images_do_not_count(name, soft):
    loss = _loss(name=name, label_smoothing=0.1)
    good = torch.tensor([0, 2, 3])
    outputs = [_logits(seed).requires_grad_() for seed in (1, 2)]
    teacher = _logits(3)
    targets = _mixed() if soft else LABELS
    broken = targets.clone()
    broken[[1, 4]] = 0 if soft else -1
    losses = loss(outputs, broken, teacher)
    expected = loss([x[good] for x in outputs], targets[good], teacher[good])
    assert losses.keys() == expected.keys() == {"loss_cls", "loss_aux", "loss_teacher"}
    for key in losses:
        assert losses[key].detach() == pytest.approx(expected[key].detach())
    sum(losses.values()).backward()
    for logits in outputs:
        assert (logits.grad[[1, 4]] == 0).all() and (logits.grad[good] != 0).all()


def test_a_batch_of_broken_images_is_worth_nothing():
    logits = _logits().requires_grad_()
    losses = _loss()((logits,), torch.full((5,), -1), _logits(1))
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0.0 and (logits.grad == 0).all()


def test_half_precision_is_computed_in_float32():
    logits = _logits().bfloat16()
    found = _loss()((logits,), LABELS)["loss_cls"]
    assert found.dtype == torch.float32
    assert found == pytest.approx(F.cross_entropy(logits.float(), LABELS))
