"""What is particular to a family: shortcut options, plain, pre-activation, VGG, GoogLeNet,
highway networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from resdet.backbones import build_backbone
from resdet.backbones.residual import make_shortcut
from resdet.backbones.vgg import VGGHead
from resdet.errors import UserError
from tests.backbones.classifiers import build, without_dropout


def test_option_a_subsamples_and_pads_with_zeros() -> None:
    x = torch.randn(2, 3, 6, 5)
    shortcut = make_shortcut("A", 3, 8, 2, "bn")
    assert shortcut is not None and not list(shortcut.parameters())
    out = shortcut(x)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    assert not out[:, 3:].any()
    assert make_shortcut("A", 8, 8, 1, "bn") is None
    with pytest.raises(ValueError, match="shortcut 'D' is not one of A, B, C"):
        build_backbone("resnet18", {"shortcut": "D"})


@pytest.mark.parametrize(("option", "projections"), [("A", 0), ("B", 3), ("C", 8)])
def test_shortcuts_of_resnet18(option: str, projections: int) -> None:
    for name in ("resnet18", "preact_resnet18"):
        backbone = build_backbone(name, {"shortcut": option}).train()
        convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 17 + projections
        backbone(torch.randn(2, 3, 32, 32))["c5"].sum().backward()
        assert all(p.grad is not None for p in backbone.parameters())


def test_a_plain_network_is_the_branches_alone() -> None:
    plain = build_backbone("plain18").eval()
    residual = build_backbone("resnet18", {"shortcut": "A"}).eval()
    assert list(plain.state_dict()) == list(residual.state_dict())
    block = plain.layer2[1]
    x = torch.rand(1, 128, 8, 8)
    branch = nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2, nn.ReLU())
    assert torch.equal(block(x), branch(x))


@pytest.mark.parametrize("name", ["resnet18", "plain18", "preact_resnet18"])
def test_networks_that_need_norms_refuse_none(name: str) -> None:
    with pytest.raises(UserError, match=r"backbone.norm: .* does not train without norms; choose"):
        build_backbone(name, {"norm": "none"})


def test_preactivation_keeps_the_path_of_identities_clean() -> None:
    backbone = build_backbone("preact_resnet50").eval()
    for stage in backbone.stages:
        for block in stage:
            nn.init.zeros_(block.conv3.weight)
    features = backbone(torch.randn(2, 3, 64, 64))
    # With no branch left, a stage is its projection of the first activation.
    first = backbone.layer2[0]
    expected = first.downsample(torch.relu(first.bn1(features["c2"])))
    torch.testing.assert_close(features["c3"], expected)
    assert isinstance(backbone.layer1[0].bn1, nn.Identity)
    assert isinstance(backbone.layer2[0].bn1, nn.BatchNorm2d)
    assert features["c4"].min() < 0 <= features["c5"].min()  # c5 alone is rectified


def test_vgg_head_slides_as_a_convolution() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        head = VGGHead(7, dropout=0.5)
    # the layers of 4096 take seconds to fill; the slow test of torchvision's logits has them
    head.classifier[0] = nn.Linear(512 * 7 * 7, 24)
    head.classifier[3] = nn.Linear(24, 16)
    head.classifier[6] = nn.Linear(16, 7)
    head.eval()
    maps = torch.rand(2, 512, 8, 9)
    with torch.no_grad():
        dense = head.dense({"c5": maps})
        assert dense.shape == (2, 7, 2, 3)
        for top, left in ((0, 0), (1, 2)):
            window = head({"c5": maps[:, :, top : top + 7, left : left + 7]})
            torch.testing.assert_close(dense[:, :, top, left], window, rtol=1e-4, atol=1e-4)
        small = {"c5": maps[:, :, :3, :2]}
        torch.testing.assert_close(head.dense(small)[:, :, 0, 0], head(small))


def test_dropout_is_the_papers_unless_given() -> None:
    with torch.device("meta"):
        for name, default in (("vgg16", 0.5), ("googlenet", 0.2), ("highway19", 0.2)):
            backbone = build_backbone(name)
            for given, expected in ((None, default), (0.4, 0.4), (0.0, 0.0)):
                head = backbone.make_head(10, given)
                main = head.main if name == "googlenet" else head
                rates = {m.p for m in main.modules() if isinstance(m, nn.Dropout)}
                assert rates == {expected}


def test_vgg_learns_the_slopes_of_prelus() -> None:
    """One slope for each channel, .25 at the start, and weights narrower by √(1 + .25²)."""
    torch.manual_seed(0)
    backbone = build_backbone("vgg16", {"activation": "prelu"})
    slopes = [m.weight for m in backbone.features if isinstance(m, nn.PReLU)]
    convs = [m.weight for m in backbone.features if isinstance(m, nn.Conv2d)]
    assert [len(slope) for slope in slopes] == [len(weight) for weight in convs]
    assert all((slope == 0.25).all() for slope in slopes)
    wide = math.sqrt(2 / (1 + 0.25**2) / (512 * 9))
    assert float(convs[-1].std()) == pytest.approx(wide, rel=0.01)
    with torch.device("meta"):
        head = backbone.make_head(10, None)
    assert sum(isinstance(module, nn.PReLU) for module in head.classifier) == 2
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(torch.randn(1, 3, 32, 32))
    maps["c5"].float().square().sum().backward()
    assert all(slope.grad.any() for slope in slopes)
    with pytest.raises(UserError, match="neither relu nor prelu"):
        build_backbone("vgg16", {"activation": "elu"})
    with pytest.raises(UserError, match="resnet18 does not accept activation"):
        build_backbone("resnet18", {"activation": "prelu"})


def test_vgg_freezes_by_its_groups() -> None:
    """`freeze_at` 1 fixes conv1_x and conv2_x, as Fast R-CNN does for VGG-16."""
    for freeze_at, convs in ((1, 4), (2, 7), (3, 10), (4, 13), (5, 13)):
        backbone = build_backbone("vgg16", {"norm": "bn"})
        backbone.freeze_stages(freeze_at)
        layers = [m for m in backbone.features if isinstance(m, nn.Conv2d)]
        assert [m.weight.requires_grad for m in layers] == [False] * convs + [True] * (13 - convs)


def test_googlenet_gives_auxiliary_maps_only_where_they_are_used() -> None:
    images = torch.randn(2, 3, 64, 64)
    backbone = build_backbone("googlenet").train()
    assert list(backbone(images)) == ["c2", "c3", "c4", "c5"]
    model = without_dropout(build("googlenet", num_classes=5)).train()
    logits = model(images)
    assert [value.shape for value in logits] == [(2, 5)] * 3
    torch.stack(logits).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.eval()(images)) == 1
    assert len(build("googlenet", {"aux": False}, num_classes=5).train()(images)) == 1


def test_googlenet_options() -> None:
    paper = build_backbone("googlenet", {"norm": "none", "transform_input": True})
    assert paper.inception3a.branch3[1].conv.kernel_size == (5, 5)
    assert paper.inception3a.branch3[1].conv.bias is not None
    assert isinstance(paper.response_norm, nn.LocalResponseNorm)
    torchs = build_backbone("googlenet", {"branch5_kernel": 3})
    assert torchs.inception3a.branch3[1].conv.kernel_size == (3, 3)
    assert torchs.conv1.bn.eps == 1e-3
    assert isinstance(torchs.response_norm, nn.Identity)
    images = torch.randn(1, 3, 64, 64)
    torchs.eval()
    expected = torchs(images * torchs.input_scale + torchs.input_shift)["c5"]
    torchs.transform_input = True
    assert torch.equal(torchs(images)["c5"], expected)
    with pytest.raises(ValueError, match="branch5_kernel 4"):
        build_backbone("googlenet", {"branch5_kernel": 4})


def test_googlenets_auxiliary_pools_of_the_paper_and_of_torchvision() -> None:
    x = torch.rand(2, 512, 14, 14)
    heads = {
        pool: without_dropout(build("googlenet", {"aux_pool": pool}, 5).head.aux1).eval()
        for pool in ("paper", "adaptive")
    }
    heads["adaptive"].load_state_dict(heads["paper"].state_dict())
    pooled = nn.functional.avg_pool2d(x, 5, 3)
    assert pooled.shape[-2:] == (4, 4)
    torch.testing.assert_close(heads["paper"](x), heads["adaptive"](pooled))
    assert not torch.allclose(heads["paper"](x), heads["adaptive"](x))
    assert heads["paper"](x[:, :, :3, :3]).shape == (2, 5)


@pytest.mark.parametrize("depth", [8, 19, 20, 32, 110])
def test_highway_counts_its_layers(depth: int) -> None:
    with torch.device("meta"):
        model = build("highway", {"depth": depth}, 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    gates = [m for name, m in model.named_modules() if name.endswith(".gate")]
    assert len(layers) - len(gates) == depth


def test_highway_layouts() -> None:
    authors = build_backbone("highway19")
    assert [len(stage) - 1 for stage in (authors.stage1, authors.stage2, authors.stage3)] == [
        4,
        5,
        5,
    ]
    thin = build_backbone("highway32")
    kernels = [layer.gate.kernel_size[0] for layer in thin.stage2[1:]]
    assert kernels == [1, 3, 1, 3, 1, 3, 1, 3, 1]
    with pytest.raises(UserError, match=r"options.depth: 7 is too few"):
        build_backbone("highway", {"depth": 7})
    features = thin(torch.randn(2, 3, 32, 32))
    shapes = {name: tuple(value.shape[1:]) for name, value in features.items()}
    assert shapes == {"c1": (32, 32, 32), "c2": (64, 16, 16), "c3": (100, 8, 8)}
    assert thin.channels == {"c1": 32, "c2": 64, "c3": 100}


def test_a_closed_gate_carries_and_an_open_one_transforms() -> None:
    layer = build_backbone("highway19").stage1[1]
    assert bool((layer.gate.bias == -2).all())
    x = torch.rand(1, 32, 6, 6)
    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, -200)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.gate.bias, 200)
    torch.testing.assert_close(layer(x), torch.relu(layer.transform(x)))


def test_a_deep_highway_trains_where_it_would_not_without_gates() -> None:
    """Gradients reach the first layer of 110 layers: the gates start nearly closed."""
    torch.manual_seed(0)
    model = without_dropout(build("highway", {"depth": 110, "gate_bias": -4.0}, 10)).train()
    (logits,) = model(torch.randn(4, 3, 16, 16))
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    first, last = model.backbone.stage1[0].conv, model.backbone.last.conv
    assert first.weight.grad is not None and last.weight.grad is not None
    assert first.weight.grad.norm() > 1e-2 * last.weight.grad.norm()
