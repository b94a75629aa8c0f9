"""Freezing by name: which parameters and norms."""

import pytest
import torch

from resdet.backbones.norm import FrozenBatchNorm2d
from resdet.config.loading import config_from_dict
from resdet.errors import UserError
from resdet.factory import build_model
from resdet.factory.classification import build_classifier


def detector(freeze: list[str]):
    values = {
        "task": "detection",
        "train": {"max_steps": 1},
        "model": {
            "backbone": {"name": "resnet18"},
            "fpn": {"out_channels": 8},
            "roi": {"mask_head": None, "box_head": {"fc_dim": 8}},
            "freeze": freeze,
        },
    }
    return build_model(config_from_dict(values, "test"), class_names=["a"], category_ids=[1])


def frozen_names(model) -> set[str]:
    return {name for name, value in model.named_parameters() if not value.requires_grad}


def test_patterns_choose_parameters_by_their_full_names():
    model = detector(["rpn.*", "backbone.layer1.*.conv?.weight", "fpn.*.bias"])
    frozen = frozen_names(model)
    assert {name.split(".")[0] for name in frozen} == {"rpn", "backbone", "fpn"}
    assert (
        "backbone.layer1.0.conv1.weight" in frozen
        and "backbone.layer2.0.conv1.weight" not in frozen
    )
    assert all(name.endswith(".bias") for name in frozen if name.startswith("fpn"))
    # the norms between the frozen convolutions still train
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())


def test_norms_that_match_whole_keep_their_statistics():
    model = detector(["backbone.*"])
    assert all(value.requires_grad for value in model.fpn.parameters())
    assert not any(value.requires_grad for value in model.backbone.parameters())
    model.train()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model.backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


def test_half_a_norm_still_trains():
    model = detector(["backbone.layer1.0.bn1.weight"])
    assert frozen_names(model) == {"backbone.layer1.0.bn1.weight"}
    assert isinstance(model.backbone.layer1[0].bn1, torch.nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("bacbone.*", r"did you mean backbone\.\*"),
        ("decoder", r"its parts are backbone\.\*, fpn\.\*, rpn\.\*, roi_heads\.\*"),
        ("backbone.layer1.0.conv1.wieght", r"did you mean backbone\.layer1\.0\.conv1\.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(pattern, words):
    with pytest.raises(UserError, match=rf"model\.freeze: .* matches no parameter.*{words}"):
        detector([pattern])


def test_something_is_left_to_train():
    with pytest.raises(UserError, match=r"model\.freeze: \[\*\] freezes every parameter"):
        detector(["*"])


def test_classifiers_freeze_too():
    values = {
        "task": "classification",
        "train": {"max_steps": 1},
        "model": {"backbone": {"name": "resnet18"}, "freeze": ["backbone.*"]},
    }
    model = build_classifier(config_from_dict(values, "test"), class_names=["a", "b"])
    assert {n for n, v in model.named_parameters() if v.requires_grad} == {
        "head.fc.weight",
        "head.fc.bias",
    }
