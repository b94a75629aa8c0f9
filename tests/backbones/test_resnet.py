import pytest
import torch
import torchvision
from torch import nn

import resdet
from resdet import backbones
from resdet.backbones import build_backbone, list_backbones, register_backbone
from resdet.backbones.norm import FrozenBatchNorm2d, make_norm
from resdet.errors import UserError

# Parameters with the classifier (He et al. 2016, counted), and the classifier's own.
COUNTS = {
    "resnet18": (11_689_512, 512),
    "resnet34": (21_797_672, 512),
    "resnet50": (25_557_032, 2048),
    "resnet101": (44_549_160, 2048),
    "resnet152": (60_192_808, 2048),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_channels_and_strides(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    total, width = COUNTS[name]
    assert sum(p.numel() for p in backbone.parameters()) == total - (width * 1000 + 1000)
    assert list(backbone.channels.values()) == [width // 8, width // 4, width // 2, width]
    assert list(backbone.strides.values()) == [4, 8, 16, 32]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_equal_torchvision_with_its_weights(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    ours = build_backbone(name).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 96, 64)
    expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    features = ours(images)
    for level, stage in zip(features, range(1, 5), strict=True):
        expected = getattr(theirs, f"layer{stage}")(expected)
        torch.testing.assert_close(features[level], expected)


def randomize_statistics(backbone: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, buffer in backbone.named_buffers():
        if buffer.is_floating_point():
            low = 0.5 if name.endswith(("var", "weight")) else -0.2
            buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.4 + low)


def test_frozen_bn_is_bn_in_evaluation() -> None:
    plain = build_backbone("resnet18").eval()
    randomize_statistics(plain)
    frozen = build_backbone("resnet18", {"norm": "frozen_bn"}).train()
    state = plain.state_dict()
    frozen.load_state_dict({k: v for k, v in state.items() if "num_batches" not in k})
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(frozen(images)["c5"], plain(images)["c5"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"norm": "gn"}, {"norm": "sync_bn"}, {"zero_gamma": True}])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_options_train(name: str, options: dict) -> None:
    backbone = build_backbone(name, options).train()
    backbone(torch.randn(2, 3, 64, 64))["c5"].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_stride_in_1x1_moves_the_stride() -> None:
    v1 = build_backbone("resnet50", {"stride_in_1x1": True})
    v15 = build_backbone("resnet50")
    assert (v1.layer2[0].conv1.stride, v1.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (v15.layer2[0].conv1.stride, v15.layer2[0].conv2.stride) == ((1, 1), (2, 2))


def test_dilated_res5_stays_at_stride_16() -> None:
    backbone = build_backbone("resnet50", {"res5_dilation": 2})
    features = backbone(torch.zeros(1, 3, 64, 64))
    assert backbone.strides["c5"] == 16
    assert features["c5"].shape[-1] == features["c4"].shape[-1] == 4
    assert {block.conv2.dilation for block in backbone.layer4} == {(2, 2)}


def test_zero_gamma_starts_blocks_as_identity() -> None:
    block = build_backbone("resnet50", {"zero_gamma": True}).layer3[1].eval()
    x = torch.rand(1, 1024, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_frozen_stages_do_not_change(norm: str) -> None:
    backbone = build_backbone("resnet18", {"norm": norm})
    backbone.freeze_stages(3)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))["c5"].sum().backward()
    frozen = ("conv1", "bn1", "layer1", "layer2")
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    for name, value in backbone.state_dict().items():
        if name.startswith(frozen):
            assert torch.equal(value, before[name]), name
    if norm == "bn":
        assert isinstance(backbone.bn1, FrozenBatchNorm2d)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_activation_checkpointing_changes_no_gradient_and_no_statistic(norm: str) -> None:
    torch.manual_seed(0)
    plain = build_backbone("resnet18", {"norm": norm}).train()
    saving = build_backbone("resnet18", {"norm": norm, "activation_checkpointing": True}).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for backbone in (plain, saving):
        backbone(images)["c5"].square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other)


def test_unknown_names_and_options_say_what_there_is() -> None:
    with pytest.raises(UserError, match=r"no backbone 'resnet51'; did you mean resnet5?"):
        build_backbone("resnet51")
    with pytest.raises(UserError, match="resnet18 does not accept stride_in_1x1; it accepts "):
        build_backbone("resnet18", {"stride_in_1x1": True})
    with pytest.raises(ValueError, match="norm 'bm' is not one of none, bn"):
        make_norm("bm", 8)


def test_a_backbone_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "_BUILDERS", dict(backbones._BUILDERS))

    def tiny(*, width: int = 8) -> nn.Module:
        """One convolution."""
        return nn.Conv2d(3, width, 1)

    assert register_backbone(tiny) is tiny
    assert "tiny" in resdet.list_backbones()
    assert build_backbone("tiny", {"width": 4}).out_channels == 4
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        register_backbone(tiny)
    with pytest.raises(UserError, match="tiny has no channels, strides, freeze_stages"):
        resdet.build("demo_nuclei", overrides=["model.backbone={name: tiny, norm: null}"])


def test_the_registry_lists_the_family() -> None:
    assert [name for name in list_backbones() if name in COUNTS] == list(COUNTS)
