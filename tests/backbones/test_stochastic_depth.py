from __future__ import annotations

import pytest
import torch

from resdet.backbones import build_backbone
from resdet.backbones.residual import drop_branch, skip_chance
from resdet.errors import UserError


def test_the_chance_grows_linearly_to_the_last_block() -> None:
    """Huang et al. 2016, eq. 4 and figure 2: p₀ = 1, p_L = .5 over 54 blocks."""
    chances = [skip_chance(index, 54, 0.5) for index in range(54)]
    assert chances[-1] == 0.5
    assert chances[0] == pytest.approx(0.5 / 54)
    assert sum(1 - chance for chance in chances) == pytest.approx(40, abs=0.5)  # section 3


@pytest.mark.parametrize("last", [1.0, -0.1])
def test_a_chance_outside_the_range_is_refused(last: float) -> None:
    with pytest.raises(UserError, match=r"stochastic_depth: .* is not in \[0, 1\)"):
        build_backbone("resnet18", {"stochastic_depth": last})


def test_samples_are_dropped_one_by_one_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 3, 1)
    out = drop_branch(branch, 0.3, training=True)
    values = out.flatten(1)
    assert bool((values == values[:, :1]).all())
    assert values.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert out.mean().item() == pytest.approx(1, abs=0.04)
    assert drop_branch(branch, 0.3, training=False) is branch
    assert drop_branch(branch, 0.0, training=True) is branch
    assert drop_branch(branch.bfloat16(), 0.3, training=True).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "preact_resnet18"])
def test_blocks_of_a_network(name: str) -> None:
    backbone = build_backbone(name, {"stochastic_depth": 0.4})
    skips = [block.skip for stage in backbone.stages for block in stage]
    count = len(skips)
    assert skips == pytest.approx([0.4 * (index + 1) / count for index in range(count)])
    images = torch.randn(2, 3, 32, 32)
    without = build_backbone(name).eval()
    without.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone.eval()(images)["c5"], without(images)["c5"])
    backbone.freeze_stages(3)
    assert [block.skip for stage in backbone.stages[:2] for block in stage] == [0] * (
        len(backbone.layer1) + len(backbone.layer2)
    )


def test_a_block_that_is_always_skipped_is_its_shortcut() -> None:
    block = build_backbone("resnet18", {"stochastic_depth": 0.5}).layer1[1].train()
    block.skip = 1 - 1e-9
    x = torch.rand(8, 64, 4, 4)
    assert torch.equal(block(x), x)


def test_the_same_seed_skips_the_same() -> None:
    backbone = build_backbone("resnet18", {"stochastic_depth": 0.9, "norm": "gn"}).train()
    images = torch.randn(8, 3, 32, 32)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(backbone(images)["c5"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
