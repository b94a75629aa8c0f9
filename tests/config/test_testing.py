"""The section `test`: its defaults change nothing, and what makes no sense is refused by name."""

from __future__ import annotations

import pytest

from resdet.config import ConfigError, config_from_dict
from resdet.config.testing import TestConfig as Section

MAP = {"fpn": None, "rpn": {"anchor_sizes": [[32]]}}


def config(test: dict, model: dict | None = None):
    values = {"train": {"epochs": 1}, "model": model or {}, "test": test}
    return config_from_dict(values, "the test").test


def test_defaults_are_off() -> None:
    assert not Section().is_on and config({}) == Section()
    for on in ({"refine": True}, {"flip": True}, {"scales": [800]}, {"merge": "soft_nms"},
               {"box_voting": 0.5}):  # fmt: skip
        assert config(on).is_on


@pytest.mark.parametrize(
    ("test", "pyramid", "adjacent", "views"),
    [
        ({}, True, False, 1),
        ({"scales": [400, 600], "flip": True}, True, False, 4),
        ({"scales": [400, 600], "flip": True}, False, True, 2),
        ({"scales": [400, 600], "multi_scale": "views"}, False, False, 2),
        ({"scales": [400, 600], "multi_scale": "adjacent"}, False, True, 1),
    ],
)
def test_how_scales_are_combined(test: dict, pyramid: bool, adjacent: bool, views: int) -> None:
    section = config(test, {} if pyramid else MAP)
    assert section.is_adjacent(pyramid) == adjacent
    assert section.num_views(pyramid) == views


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"refine_classes": "all"}, "set test.refine=true"),
        ({"multi_scale": "views"}, "give test.scales"),
        ({"scales": [600, 400]}, "does not ascend"),
        ({"second_scale": "nearest"}, "test.second_scale: it belongs to multi_scale adjacent"),
        ({"second_scale": "nearest", "scales": [400]}, "needs several scales"),
        ({"second_scale": "nearest", "scales": [400, 600]}, "test.second_scale: it belongs to"),
        ({"maxout": "after_pooling", "scales": [400]}, "needs several scales"),
        ({"multi_scale": "adjacent", "scales": [400, 600]}, "needs a network of one map"),
        ({"proposal_scales": "all", "scales": [400, 600]}, "test.proposal_scales: it belongs to"),
        ({"maxout": "after_pooling"}, "test.maxout: it belongs to multi_scale adjacent"),
        ({"merge": "wbf"}, "there is only one; set test.flip=true"),
        ({"merge": "wbf", "flip": True, "box_voting": 0.5}, "set test.box_voting=null"),
        ({"soft_nms": "linear"}, "set test.merge=soft_nms"),
        ({"merge": "soft_nms", "soft_nms": "linear", "soft_nms_sigma": 1.0}, "leave it out"),
        ({"merge": "soft_nms", "merge_iou": 0.5}, "gaussian soft_nms has no threshold"),
        ({"box_voting": 0}, "box_voting"),
        ({"scale": [400]}, "scales"),
    ],
)
def test_what_makes_no_sense(test: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(test)


def test_wbf_on_one_map_needs_views() -> None:
    with pytest.raises(ConfigError, match="there is only one"):
        config({"merge": "wbf", "scales": [400, 600]}, MAP)
    assert config({"merge": "wbf", "scales": [400, 600], "multi_scale": "views"}, MAP).is_on
    assert config({"maxout": "after_pooling", "scales": [400, 600]}, MAP).is_on


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"scales": [256, 384]}, "scales need views: dense"),
        ({"vote_iou": 0.5}, "vote_iou belongs to merge: vote"),
        ({"vote_boxes": 9}, "vote_boxes belongs to merge: vote"),
    ],
)
def test_what_makes_no_sense_in_localization(test: dict, message: str) -> None:
    values = {"task": "localization", "train": {"epochs": 1}, "test": test}
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values, "the test")
