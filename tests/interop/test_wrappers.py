"""One network's tensors out of files of self-supervised, averaged and wrapped training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.interop.files import read_state
from resdet.interop.wrappers import unwrap

NET = {
    "conv1.weight": torch.ones(2, 3),
    "layer1.0.conv1.weight": torch.ones(2),
    "layer4.0.conv1.weight": torch.ones(2),
}
OTHER = {key: value + 1 for key, value in NET.items()}
PROJECTION = {"0.weight": torch.zeros(4, 2), "2.bias": torch.zeros(2)}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


FILES: dict[str, tuple[str, dict[str, Tensor]]] = {
    "MoCo": (
        "encoder_q.",
        under("module.encoder_q.", NET)
        | under("module.encoder_k.", OTHER)
        | {"module.queue": torch.zeros(2, 9), "module.queue_ptr": torch.zeros(1)},
    ),
    "MoCo v3": (
        "base_encoder.",
        under("module.base_encoder.", NET)
        | under("module.momentum_encoder.", OTHER)
        | under("module.predictor.", PROJECTION),
    ),
    "DenseCL": (
        "encoder_q.0.",
        under("encoder_q.0.", NET)
        | under("encoder_q.1.mlp.", PROJECTION)
        | under("encoder_k.0.", OTHER),
    ),
    "SimCLR": ("convnet.", under("convnet.", NET) | under("projection.", PROJECTION)),
    "SimSiam": ("encoder.", under("module.encoder.", NET) | under("module.predictor.", PROJECTION)),
    "BYOL": (
        "online_encoder.net.",
        under("online_encoder.net.", NET)
        | under("target_encoder.net.", OTHER)
        | under("online_encoder.projector.net.", PROJECTION),
    ),
    "a BYOL of two networks": (
        "online.backbone.",
        under("online.backbone.", NET) | under("target.backbone.", OTHER),
    ),
    "DINO in one state dict": (
        "teacher.backbone.",
        under("student.backbone.", OTHER)
        | under("teacher.backbone.", NET)
        | {"teacher.head.last_layer.weight_v": torch.zeros(2, 2)},
    ),
    "VICReg": (
        "backbone.",
        under("module.backbone.", NET) | under("module.projector.", PROJECTION),
    ),
    "solo-learn": ("backbone.", under("backbone.", NET) | under("momentum_backbone.", OTHER)),
    "lightly": ("backbone.", under("backbone.", NET) | under("backbone_momentum.", OTHER)),
    "averages in Lightning": ("ema_model.", under("model.", OTHER) | under("ema_model.", NET)),
    "compiled": ("model.", under("_orig_mod.model._orig_mod.", NET)),
    "parallel inside": ("encoder.module.", under("encoder.module.", NET)),
    "mmdetection": (
        "backbone.",
        under("backbone.", NET)
        | under("neck.lateral_convs.", PROJECTION)
        | under("rpn_head.rpn_conv.", PROJECTION),
    ),
    "torchvision's RetinaNet": (
        "backbone.body.",
        under("backbone.body.", NET)
        | under("backbone.fpn.", PROJECTION)
        | under("head.classification_head.conv.", PROJECTION),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_the_network_that_users_want(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "resdet")
    prefix, state = FILES[name]
    network = unwrap(state, "w.pth")
    assert network.prefix == prefix
    assert network.state.keys() == NET.keys()
    assert all(torch.equal(network.state[key], NET[key]) for key in NET)
    if left := len(state) - len(NET):
        line = f"w.pth: the 3 tensors under {prefix} are taken; left out, {left}: "
        assert caplog.text.count(line) == 1


@pytest.mark.parametrize(
    "prefixes", [("student.", "teacher."), ("net_a.", "net_b."), ("a.backbone.", "b.backbone.")]
)
def test_two_networks_of_equal_standing(prefixes: tuple[str, str]) -> None:
    """As those of distillation, even where one of them has more tensors."""
    first, second = prefixes
    larger = {**OTHER, "layer4.1.conv1.weight": torch.ones(2)}
    for state in (NET, larger):
        with pytest.raises(UserError, match=rf"several networks, .*{second}.*; save the state"):
            unwrap(under(first, NET) | under(second, state), "w.pth")


def test_averages_that_lack_buffers_are_completed() -> None:
    averages = {key: value + 1 for key, value in list(NET.items())[:2]}
    state = unwrap(under("net.", NET) | under("model_ema.", averages), "w.pth").state
    assert state.keys() == NET.keys()
    assert all(torch.equal(state[key], {**NET, **averages}[key]) for key in NET)


def test_whole_networks_keep_their_backbone() -> None:
    """Of resdet's own names, which a state dict has without its checkpoint."""
    for rest in ("rpn.conv.weight", "roi_heads.stages.0.cls_score.weight", "pixel_mean"):
        whole = {**under("backbone.", NET), rest: torch.zeros(2)}
        assert unwrap(whole, "w.pth").state == whole
        assert unwrap(under("model.", whole), "w.pth").state.keys() == whole.keys()


def test_a_resnet_taken_apart() -> None:
    """nn.Sequential(*list(resnet.children())[:-1]), as lightly and many tutorials have it."""
    numbered = {
        "0.weight": NET["conv1.weight"],
        "1.running_mean": torch.ones(2),
        "4.0.conv1.weight": NET["layer1.0.conv1.weight"],
        "7.0.conv1.weight": NET["layer4.0.conv1.weight"],
    }
    for prefix in ("", "backbone.", "features.", "model.features."):
        network = unwrap(under(prefix, numbered), "w.pth")
        assert network.state.keys() == {*NET, "bn1.running_mean"}
        assert network.prefix == prefix.removesuffix("features.")


def test_an_unknown_backbone() -> None:
    state = {"backbone.blocks.0.weight": torch.ones(2), "head.weight": torch.ones(2)}
    assert unwrap(state, "w.pth").state.keys() == {"blocks.0.weight"}


DINO: dict[str, Any] = {
    "student": under("module.backbone.", OTHER)
    | {"module.head.last_layer.weight_g": torch.zeros(2, 1)},
    "teacher": under("backbone.", NET) | {"head.last_layer.weight_g": torch.zeros(2, 1)},
    "dino_loss": {"center": torch.zeros(1, 2)},
    "epoch": 3,
}


def test_networks_in_containers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "resdet")
    path = tmp_path / "w.pth"
    torch.save(DINO, path)
    state = read_state(DINO, path).state
    assert all(torch.equal(state[key], NET[key]) for key in NET)
    assert "the tensors of 'teacher' are taken, and not those of 'student'" in caplog.text
    pair = {"online_network": NET, "target_network": OTHER, "epoch": 3}
    assert torch.equal(read_state(pair, path).state["conv1.weight"], NET["conv1.weight"])
    with pytest.raises(UserError, match="several networks, 'student', 'teacher'"):
        read_state({"student": NET, "teacher": OTHER}, path)
