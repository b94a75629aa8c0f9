import math

import pytest
import torch
from torch import nn

from resdet.backbones import build_backbone
from resdet.config.detection import OptimConfig
from resdet.engine.optim import (
    Schedule,
    make_optimizer,
    parameter_groups,
    scale_lr,
    scale_milestones,
    set_lr,
)
from resdet.errors import UserError


def multistep(**changes) -> Schedule:
    values = {
        "lr": 0.02,
        "kind": "multistep",
        "total_steps": 90000,
        "milestones": (60000, 80000),
        "gamma": 0.1,
        "warmup_steps": 1000,
        "warmup_factor": 0.001,
    }
    return Schedule(**{**values, **changes})


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.02 * 0.001),
        (500, 0.02 * 0.5005),
        (999, 0.02 * (0.001 * 0.001 + 0.999)),
        (1000, 0.02),
        (59999, 0.02),
        (60000, 0.002),
        (79999, 0.002),
        (80000, 0.0002),
        (89999, 0.0002),
    ],
)
def test_multistep_is_detectron2s(step, rate):
    assert multistep().lr_at(step) == pytest.approx(rate, rel=1e-12)


def test_cosine_falls_from_lr_to_nothing():
    schedule = multistep(kind="cosine", total_steps=200, warmup_steps=0)
    assert schedule.lr_at(0) == 0.02
    assert schedule.lr_at(100) == pytest.approx(0.01)
    assert schedule.lr_at(199) == pytest.approx(0.01 * (1 + math.cos(math.pi * 199 / 200)))
    rates = [schedule.lr_at(step) for step in range(200)]
    assert rates == sorted(rates, reverse=True)


def test_the_rate_belongs_to_the_step_alone():
    schedule = multistep()
    assert [schedule.lr_at(s) for s in (5, 70000, 5)] == [
        schedule.lr_at(5),
        schedule.lr_at(70000),
        schedule.lr_at(5),
    ]


def test_scaling_to_the_batch():
    assert scale_lr(0.02, 2, 16) == pytest.approx(0.0025)
    assert scale_milestones([60000, 80000], 8, 16) == (120000, 160000)
    assert scale_milestones([60000, 80000], 64, 16) == (15000, 20000)


def tiny() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)
    )


def test_norms_do_not_decay_and_biases_do():
    model = tiny()
    decayed, norms = parameter_groups(model, weight_decay=1e-4, norm_weight_decay=0.0)
    assert decayed["weight_decay"] == 1e-4
    assert norms["weight_decay"] == 0
    assert {id(p) for p in decayed["params"]} == {
        id(p) for p in (model[0].weight, model[2].weight, model[2].bias)
    }
    assert len(norms["params"]) == 4


def test_slopes_never_decay():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8))
    for bias_decay in (None, 0.1):
        *_, slopes = parameter_groups(
            model, weight_decay=1e-4, norm_weight_decay=1e-4, bias_weight_decay=bias_decay
        )
        assert slopes["params"] == [model[1].weight] and slopes["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    model = tiny()
    for parameter in model[:2].parameters():
        parameter.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=1e-4, norm_weight_decay=0.0)
    assert [len(group["params"]) for group in groups] == [2, 2]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_updates_equal_the_plain_ones(name):
    torch.manual_seed(0)
    start = torch.randn(4, 5)
    gradients = [torch.randn(4, 5) for _ in range(4)]
    plain, fused = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    section = OptimConfig(name=name, lr=0.1, momentum=0.9, betas=[0.9, 0.99], weight_decay=0.05)
    ours = make_optimizer(section, nn.ParameterList([fused]))
    if name == "sgd":
        reference = torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=0.05, foreach=False)
    else:
        reference = torch.optim.AdamW([plain], lr=0.1, betas=(0.9, 0.99), weight_decay=0.05)
    for index, gradient in enumerate(gradients):
        for optimizer, parameter in ((ours, fused), (reference, plain)):
            set_lr(optimizer, 0.1 / (1 + index))
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def test_cosine_ends_at_the_lowest_rate():
    schedule = multistep(kind="cosine", total_steps=100, warmup_steps=0, min_lr=0.001)
    assert schedule.lr_at(0) == 0.02
    assert schedule.lr_at(50) == pytest.approx((0.02 + 0.001) / 2)
    assert schedule.lr_at(100) == pytest.approx(0.001)


def test_the_rate_is_held_until_the_error_falls():
    schedule = multistep(hold_until_error=80, warmup_factor=0.1)
    adapted = schedule.begin()
    assert schedule.lr_at(5000, adapted) == pytest.approx(0.002)
    assert not schedule.see_error(adapted, 80.0)
    assert schedule.see_error(adapted, 79.9)
    # reported once, and the linear warm-up does not follow
    assert not schedule.see_error(adapted, 79.0)
    assert schedule.lr_at(1, adapted) == 0.02


def test_a_plateau_is_patience_validations_without_a_better_one():
    schedule = multistep(kind="plateau", patience=2, warmup_steps=0, min_lr=0.0002)
    adapted = schedule.begin()
    seen = [schedule.see_metric(adapted, m) for m in (50, 60, 59, 60, 61, 60, 60, 60, 60, 60, 60)]
    assert [i for i, dropped in enumerate(seen) if dropped] == [3, 6]
    assert schedule.lr_at(9, adapted) == pytest.approx(0.0002)
    # the lowest rate stays
    assert adapted.drops == 2


def test_biases_may_have_a_decay_of_their_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    groups = parameter_groups(model, weight_decay=0.1, norm_weight_decay=0.2, bias_weight_decay=0.0)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.2, 0.0]
    assert groups[2]["params"] == [model[0].bias]
    assert len(parameter_groups(model, weight_decay=0.1, norm_weight_decay=0.2)) == 2


class WithBackbone(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = build_backbone(name)
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("name", "first", "last", "stages"),
    [
        ("resnet18", "conv1.weight", "layer4.1.bn2.weight", 5),
        ("cifar_resnet20", "conv1.weight", "layer3.2.bn2.weight", 4),
        ("vgg16", "features.0.weight", "features.28.weight", 4),
    ],
)
def test_earlier_stages_have_lower_rates(name, first, last, stages):
    model = WithBackbone(name)
    section = OptimConfig(lr=0.1, layer_decay=0.5)
    optimizer = make_optimizer(section, model)
    set_lr(optimizer, 0.08)
    rate_of = {
        parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert set(rate_of) == set(model.parameters())
    names = dict(model.backbone.named_parameters())
    assert rate_of[model.head.weight] == 0.08
    assert rate_of[names[last]] == pytest.approx(0.04)
    assert rate_of[names[first]] == pytest.approx(0.08 * 0.5**stages)
    rates = [rate_of[parameter] for parameter in names.values()]
    assert rates == sorted(rates) and len(set(rates)) == stages


def test_rates_do_not_depend_on_what_is_frozen():
    model = WithBackbone("resnet18")
    model.backbone.layer4.requires_grad_(False)
    optimizer = make_optimizer(OptimConfig(lr=0.1, layer_decay=0.5), model)
    rates = sorted({group["rate"] for group in optimizer.param_groups}, reverse=True)
    assert rates == [1, 0.25, 0.125, 0.0625, 0.03125]


def test_all_have_one_rate_without_layer_decay():
    optimizer = make_optimizer(OptimConfig(lr=0.1), WithBackbone("resnet18"))
    set_lr(optimizer, 0.08)
    assert [group["lr"] for group in optimizer.param_groups] == [0.08, 0.08]
    assert not any("rate" in group for group in optimizer.param_groups)


def test_a_backbone_without_stages_has_no_layer_decay():
    model = WithBackbone("resnet18")
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"optim\.layer_decay: the backbone has no freeze_stages"):
        make_optimizer(OptimConfig(layer_decay=0.5), model)
