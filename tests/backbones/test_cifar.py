"""The networks of table 6: their sizes, their shortcuts, and what a detector says to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resdet.backbones import build_backbone
from resdet.backbones.residual import ZeroPadShortcut
from resdet.errors import UserError
from resdet.factory.classification import make_head

# Parameters with the last layer (He et al. 2016, counted with option A).
COUNTS = {
    20: 269_722,
    32: 464_154,
    44: 658_586,
    56: 853_018,
    110: 1_727_962,
    1202: 19_421_274,
}


def count(name: str, options: dict | None = None) -> int:
    with torch.device("meta"):
        backbone = build_backbone(name, options)
        head = make_head(backbone, 10, None)
    return sum(p.numel() for module in (backbone, head) for p in module.parameters())


@pytest.mark.parametrize("depth", COUNTS)
def test_parameters_are_the_papers(depth):
    assert count(f"cifar_resnet{depth}") == COUNTS[depth]
    # option A has no parameters, so that the plain network has as many
    if depth <= 110:
        assert count(f"cifar_plain{depth}") == COUNTS[depth]


@pytest.mark.parametrize("kind", ["plain", "resnet", "preact_resnet"])
def test_layers_are_6n_plus_2(kind):
    backbone = build_backbone(f"cifar_{kind}", {"depth": 26})
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 26


def test_another_depth_is_refused_with_near_ones():
    with pytest.raises(UserError, match=r"depth: 21 is not 6n \+ 2; the nearest are 20 and 26"):
        build_backbone("cifar_resnet", {"depth": 21})


@pytest.mark.parametrize("kind", ["plain", "resnet", "preact_resnet"])
def test_maps_are_what_they_are_said_to_be(kind):
    backbone = build_backbone(f"cifar_{kind}20")
    features = backbone(torch.zeros(2, 3, 32, 32))
    assert list(features) == list(backbone.channels) == list(backbone.strides)
    for name, x in features.items():
        side = 32 // backbone.strides[name]
        assert x.shape == (2, backbone.channels[name], side, side)


def test_option_a_takes_every_other_pixel_and_adds_zeros():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    out = ZeroPadShortcut(2, 5, 2)(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert out.shape == (1, 5, 2, 2)
    assert not out[:, 2:].any()


def test_options_b_and_c_project():
    # B: a 1×1 and its norm at both changes of width; C: at all nine blocks
    b = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    c = b + 3 * (16 * 16 + 2 * 16) + 2 * (32 * 32 + 2 * 32) + 2 * (64 * 64 + 2 * 64)
    assert count("cifar_resnet20", {"shortcut": "B"}) == COUNTS[20] + b
    assert count("cifar_resnet20", {"shortcut": "C"}) == COUNTS[20] + c


def test_a_plain_block_is_a_residual_one_without_its_shortcut():
    torch.manual_seed(0)
    plain, residual = build_backbone("cifar_plain20"), build_backbone("cifar_resnet20")
    residual.load_state_dict(plain.state_dict())
    x = torch.rand(2, 16, 8, 8)
    block, other = plain.layer1[0].eval(), residual.layer1[0].eval()
    branch = other.bn2(other.conv2(torch.relu(other.bn1(other.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(branch))
    torch.testing.assert_close(other(x), torch.relu(branch + x))


def test_a_preactivated_block_adds_to_its_input_untouched():
    block = build_backbone("cifar_preact_resnet20").layer1[1].eval()
    x = torch.randn(2, 16, 8, 8)
    branch = block.conv1(torch.relu(block.bn1(x)))
    branch = block.conv2(torch.relu(block.bn2(branch)))
    torch.testing.assert_close(block(x), x + branch)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_preact_resnet20", "cifar_plain20"])
def test_recomputed_blocks_give_the_same_gradients(name):
    images = torch.randn(4, 3, 32, 32)
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = build_backbone(name, {"activation_checkpointing": checkpointing}).train()
        backbone(images)["c3"].square().mean().backward()
        grads.append({n: p.grad for n, p in backbone.named_parameters()})
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


def test_stochastic_depth_skips_the_last_block_most():
    backbone = build_backbone("cifar_resnet20", {"stochastic_depth": 0.5})
    chances = [block.skip for stage in backbone.stages for block in stage]
    assert chances == pytest.approx([0.5 * (i + 1) / 9 for i in range(9)])


def test_zero_gamma_starts_a_block_as_its_shortcut():
    block = build_backbone("cifar_resnet20", {"zero_gamma": True}).layer1[1].eval()
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)


def test_frozen_stages_stay():
    backbone = build_backbone("cifar_resnet20")
    backbone.freeze_stages(2)
    backbone.train()(torch.randn(4, 3, 32, 32))["c3"].sum().backward()
    trained = {n.split(".")[0] for n, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3"}


@pytest.mark.slow
def test_1202_layers_take_a_step():
    backbone = build_backbone("cifar_resnet1202", {"activation_checkpointing": True}).train()
    backbone(torch.randn(2, 3, 32, 32))["c3"].mean().backward()
    assert all(p.grad is not None for p in backbone.parameters())
