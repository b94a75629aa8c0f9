"""Batch norm statistics computed anew, against the moments of all the images at once."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import resdet
from resdet.backbones import build_backbone
from resdet.engine.distributed import Processes
from resdet.engine.precise_bn import check_statistics, recompute_statistics
from resdet.errors import UserError
from tests.engine.cls_data import FOLDER_YAML, write_folders

ALONE = Processes(rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))


class _Net(nn.Module):
    """A batch norm on the input, one behind dropout, and one that only training reaches."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3, momentum=0.3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.dropout = nn.Dropout(0.5)
        self.second = nn.BatchNorm2d(4)
        self.auxiliary = nn.BatchNorm2d(4)
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        x = self.dropout(self.conv(self.first(x)))
        if self.training:
            self.auxiliary(x)
        return self.untracked(self.second(x))


def _net() -> _Net:
    torch.manual_seed(0)
    net = _Net()
    # statistics of some training
    net(torch.randn(4, 3, 8, 8) * 3 + 1)
    return net


def _images(count: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 3, 8, 8, generator=generator) * 2
        + torch.arange(count)[:, None, None, None]
    )


def test_the_first_layer_has_the_moments_of_all_images():
    net, images = _net(), _images()
    # batches of unlike sizes count by their images
    assert recompute_statistics(net, images.split([10, 8, 6]), ALONE) == 24
    assert net.first.running_mean == pytest.approx(images.mean(dim=(0, 2, 3)), rel=1e-5)
    expected = images.double().var(dim=(0, 2, 3))
    assert net.first.running_var.double() == pytest.approx(expected, rel=2e-3)


def test_one_batch_gives_the_statistics_of_that_batch():
    net, images = _net(), _images(16)
    recompute_statistics(net, [images], ALONE)
    normal = (images - images.mean((0, 2, 3), keepdim=True)) / (
        images.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    # as in a test: nothing dropped
    reached = net.conv(normal).detach()
    assert net.second.running_mean == pytest.approx(reached.mean(dim=(0, 2, 3)), abs=1e-4)
    assert net.second.running_var == pytest.approx(reached.var(dim=(0, 2, 3)), rel=1e-4)
    # a second time gives the same: nothing is left of the old
    before = copy.deepcopy(net.state_dict())
    recompute_statistics(net, [images], ALONE)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_nothing_else_changes(training):
    net = _net().train(training)
    net.conv.eval()
    before = copy.deepcopy(net.state_dict())
    modes = {name: m.training for name, m in net.named_modules()}
    recompute_statistics(net, _images().split(8), ALONE)
    changed = {n for n, x in net.state_dict().items() if not torch.equal(x, before[n])}
    layers = ("first", "second")
    assert changed == {f"{x}.running_{y}" for x in layers for y in ("mean", "var")}
    assert {name: m.training for name, m in net.named_modules()} == modes
    assert net.first.momentum == 0.3 and net.second.momentum == 0.1
    assert all(p.grad is None for p in net.parameters())


def _broken_batches():
    yield _images(8)
    raise OSError("gone")


def test_without_images_or_with_an_error_all_stays():
    net = _net()
    before = copy.deepcopy(net.state_dict())
    assert recompute_statistics(net, [], ALONE) == 0
    with pytest.raises(OSError, match="gone"):
        recompute_statistics(net, _broken_batches(), ALONE)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert net.training and net.first.momentum == 0.3


def test_a_resnet_then_sees_its_images_normalised():
    torch.manual_seed(0)
    net = build_backbone("resnet18", {"norm": "bn"})
    images = torch.randn(12, 3, 64, 64) * 5 + 2
    recompute_statistics(net, images.split(4), ALONE)
    net.eval()
    with torch.no_grad():
        x = net.bn1(net.conv1(images))
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (x.var(dim=(0, 2, 3)) - 1).abs().max() < 0.01


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = _net()
    images = _images()
    mine = [images[:16].split(8), [images[16:]]][rank]
    here = Processes(rank=rank, world_size=2, local_world_size=2, device=torch.device("cpu"))
    count = recompute_statistics(net, mine, here)
    torch.save({"count": count, "model": net.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_their_images(tmp_path):
    mp.start_processes(_one_of_two, args=(str(tmp_path),), nprocs=2, start_method="fork")
    net = _net()
    recompute_statistics(net, _images().split(8), ALONE)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["count"] == 24
        for name, value in net.state_dict().items():
            torch.testing.assert_close(found["model"][name], value)


def test_one_image_without_statistics_is_an_error_before_training(tmp_path):
    data = write_folders(tmp_path / "data")
    config = tmp_path / "tiny.yaml"
    config.write_text(FOLDER_YAML.format(root=data))
    one = ["train.batch_size=4", "train.accumulate=4", "train.max_steps=1", "data.val=null"]
    with pytest.raises(UserError, match=r"one image of 32×32 pixels .* one value per channel"):
        resdet.train(config, one, run_dir=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    check_statistics(build_backbone("resnet18", {"norm": "bn"}), 64)
    check_statistics(build_backbone("resnet18", {"norm": "gn"}), 32)
