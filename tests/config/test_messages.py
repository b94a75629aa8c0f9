"""Every error says where, what is wrong, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from resdet.config import ConfigError, load_config
from resdet.config.describe import explain_keys, list_keys
from resdet.errors import UserError


def error_of(folder: Path, body: str, overrides: list[str] | None = None) -> str:
    path = folder / "x.yaml"
    path.write_text(f"train: {{epochs: 1}}\n{body}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides or [])
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "model:\n  fpn:\n    out_chanels: 3",
            "model.fpn.out_chanels: unknown key, did you mean out_channels? (x.yaml, line 4)",
        ),
        ("modle: {}", "modle: unknown key, did you mean model? (x.yaml, line 2)"),
        ("model: {lr: 1}", "model.lr: unknown key, did you mean optim.lr? (x.yaml, line 2)"),
        (
            "optim: {quux: 1}",
            "optim.quux: unknown key; the keys here are name, lr, reference_batch,",
        ),
        (
            "eval: {max_dets: [100, 10, 1]}",
            "eval.max_dets: [100, 10, 1] does not ascend; give smaller numbers first",
        ),
        (
            "optim: {milestones: [5, 3]}",
            "optim.milestones: [5, 3] does not ascend; give smaller numbers first",
        ),
        (
            "optim: {betas: [1, 0.9]}",
            "optim.betas is a list of 2 numbers at least 0 and below 1 (x.yaml, line 2)",
        ),
        (
            "data: {augment: {resize: {lsj_scale: [2, 1]}}}",
            "data.augment.resize.lsj_scale: [2.0, 1.0] is not a range; give the smaller",
        ),
        (
            "model:\n  rpn: {foreground_iou: 0.1}",
            "model.rpn: background_iou 0.3 is above foreground_iou 0.1; an anchor would be both "
            "(x.yaml, line 3)",
        ),
        (
            "model:\n  roi: {num_samples: 3}",
            "model.roi: num_samples 3 × positive_fraction 0.25 leaves no place for a positive; "
            "raise one of them (x.yaml, line 3)",
        ),
        (
            "model:\n  rpn: {aspect_ratios: []}",
            "model.rpn.aspect_ratios: expected a list of numbers above 0, at least 1 of them",
        ),
        ("optim.lr: 1", "optim.lr: unknown key; keys with dots are for the command line"),
        (
            "model:\n  backbone:\n    norm: frozenbn",
            "model.backbone.norm: expected one of none, bn, frozen_bn, sync_bn, gn or null, "
            "got 'frozenbn', did you mean frozen_bn? (x.yaml, line 4)",
        ),
        (
            "model: {backbone: {freeze_at: 9}}",
            "model.backbone.freeze_at: expected a whole number from 0 to 5, got 9 (x.yaml, line 2)",
        ),
        ("optim: {lr: -1}", "optim.lr: expected a number above 0, got -1 (x.yaml, line 2)"),
        ("optim: {lr: '0.1'}", "optim.lr: expected a number above 0, got '0.1'"),
        ("optim: {lr: yes}", "optim.lr: expected a number above 0, got 'yes'"),
        ("optim: {momentum: true}", "optim.momentum: expected a number from 0 to 1, got true"),
        ("log: {every: 2.5}", "log.every: expected a whole number above 0, got 2.5"),
        ("log: {tensorboard: no}", "log.tensorboard: expected true or false, got 'no'"),
        (
            "eval: {max_dets: [1, 10]}",
            "expected a list of 3 whole numbers above 0 and at most 1000000, got [1, 10]",
        ),
        (
            "optim:\n  milestones:\n    - 1\n    - x",
            "optim.milestones.1: 'x' does not fit; optim.milestones is a list of whole numbers "
            "above 0 (x.yaml, line 5)",
        ),
        (
            "model:\n  roi:\n    stages:\n      - {foreground_iou: 2}",
            "model.roi.stages.0.foreground_iou: expected a number from 0 to 1, got 2 "
            "(x.yaml, line 5)",
        ),
        (
            "model: {roi: {stages: []}}",
            "model.roi.stages: expected a list of sections, at least 1 of them, got []",
        ),
        (
            "data: {val: {images: a}}",
            "data.val.annotations: missing; give a string or a list of strings (x.yaml, line 2)",
        ),
        (
            "data: {train: {images: [3], annotations: b}}",
            "data.train.images: expected a string or a list of strings, got [3]",
        ),
        (
            "data: {val: 3}",
            "data.val: expected a section or null with the keys images, annotations",
        ),
        ("model: 3", "model: expected a section with the keys num_classes, weights"),
    ],
)
def test_errors_name_key_place_and_remedy(tmp_path, monkeypatch, body, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of(Path(), body)


def test_an_override_is_its_own_place(tmp_path):
    text = error_of(tmp_path, "optim: {lr: 1}", ["optim.lr=0"])
    assert text == "optim.lr: expected a number above 0, got 0 (override optim.lr=0)"


def test_the_place_is_the_base_that_said_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("\noptim: {lr: 0}")
    assert "(base.yaml, line 2)" in error_of(Path(), "_base_: base.yaml")


def test_every_mistake_is_listed_once_and_the_list_is_cut(tmp_path):
    lines = error_of(tmp_path, "optim: {lr: 0, momentum: 2}")
    assert len(lines.splitlines()) == 2
    many = ", ".join(f"key{i}: {i}" for i in range(15))
    lines = error_of(tmp_path, f"optim: {{{many}}}")
    assert lines.splitlines()[-1] == "… and 5 more"


def test_no_message_of_pydantic_gets_through(tmp_path):
    body = "model: {pixel_mean: [1], rpn: 3, backbone: {name: 3, options: [1]}}\ndata: {classes: x}"
    text = error_of(tmp_path, body)
    assert len(text.splitlines()) == 5
    for foreign in ("Input should be", "validation error", "type=", "http"):
        assert foreign not in text


def test_every_key_is_explained():
    docs = list(list_keys())
    keys = {doc.key: doc for doc in docs}
    assert len(keys) == len(docs) > 90
    assert keys["optim.lr"].default == "0.02"
    assert keys["train.compile"].expects == "true, false or auto"
    assert keys["model.roi.stages[].box_weights"].default == "[10, 10, 5, 5]"
    assert keys["data.train.images"].default == "(required)"
    assert all("any value" not in doc.expects for doc in docs)


def test_keys_can_be_asked_for_by_prefix():
    assert "model.fpn.out_channels: 256\n    a whole number" in explain_keys("model.fpn")
    with pytest.raises(UserError, match="no config key starts with 'nothing'"):
        explain_keys("nothing")
