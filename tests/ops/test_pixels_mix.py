"""Mixup, CutMix and random erasing, against one image at a time, and the hashes they draw from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resdet.ops.pixels import (
    ERASE_AREA,
    ERASE_RATIO,
    Mix,
    distort_colour,
    draw_mix,
    erase,
    mix_batch,
    soft_targets,
)
from resdet.ops.sampler import normal, uniform

CHANNELS_LAST = torch.channels_last


def _draws(count, *, mixup, cutmix, size=(224, 224)):
    return [
        draw_mix(size, mixup_alpha=mixup, cutmix_alpha=cutmix, seed=1, step=step)
        for step in range(count)
    ]


def test_uniform_and_normal_numbers():
    keys = torch.arange(100_000)
    flat = uniform(keys, seed=1, step=2, stream=3)
    assert flat.min() >= 0 and flat.max() < 1
    counts = torch.histc(flat, 100, 0, 1)
    # chi-squared of 99 degrees of freedom: mean 99, deviation 14
    assert 50 < float(((counts - 1000) ** 2 / 1000).sum()) < 150
    round_ = normal(keys, seed=1, step=2, stream=3)
    assert torch.isfinite(round_).all()
    assert abs(float(round_.mean())) < 0.015 and abs(float(round_.std()) - 1) < 0.01
    assert abs(float((round_**4).mean()) - 3) < 0.1
    # neither seeds, steps, streams nor neighbouring keys go together
    for other in (
        uniform(keys, seed=2, step=2, stream=3),
        uniform(keys, seed=1, step=3, stream=3),
        uniform(keys, seed=1, step=2, stream=4),
        flat.roll(1),
    ):
        assert abs(float(torch.corrcoef(torch.stack([flat, other]))[0, 1])) < 0.015
    assert torch.equal(uniform(keys[5:7].view(2, 1), seed=1, step=2, stream=3)[:, 0], flat[5:7])


def test_normal_numbers_are_finite_at_both_ends(monkeypatch):
    ends = torch.tensor([0.0, 1 - 2.0**-24])
    monkeypatch.setattr("resdet.ops.sampler.uniform", lambda *_, **__: ends)
    low, high = normal(torch.arange(2), seed=0, step=0, stream=0)
    assert low == -high and 5 < high < 5.5


def test_soft_targets():
    expected = [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert soft_targets(torch.tensor([2, -1, 0]), 3).tolist() == expected


def test_no_mix_without_an_alpha():
    assert _draws(1, mixup=0.0, cutmix=0.0) == [None]


def test_shares_follow_beta():
    shares = np.array([mix.share for mix in _draws(4000, mixup=0.2, cutmix=0.0)])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * 1.4), abs=0.01)
    assert all(mix.box is None for mix in _draws(20, mixup=0.2, cutmix=0.0))


def test_boxes_of_cutmix():
    mixes = _draws(2000, mixup=0.0, cutmix=1.0, size=(32, 48))
    for mix in mixes:
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= 32 and 0 <= left <= right <= 48
        assert mix.share == pytest.approx(1 - (bottom - top) * (right - left) / (32 * 48))
    inside = np.zeros((32, 48))
    for mix in mixes:
        top, left, bottom, right = mix.box
        inside[top:bottom, left:right] += 1
    # centres lie anywhere, so that the middle is covered most and the corners too
    assert inside.min() > 100 and inside.argmax() // 48 in range(8, 24)


def test_with_both_each_has_half_of_the_batches():
    mixes = _draws(1000, mixup=0.2, cutmix=1.0)
    assert 440 < sum(mix.box is None for mix in mixes) < 560
    again = draw_mix((224, 224), mixup_alpha=0.2, cutmix_alpha=1.0, seed=1, step=17)
    assert again == mixes[17]
    part = draw_mix((224, 224), mixup_alpha=0.2, cutmix_alpha=1.0, seed=1, step=17, part=1)
    assert part != again


@pytest.mark.parametrize("box", [None, (1, 2, 4, 7)])
@pytest.mark.parametrize("count", [6, 5])
def test_against_one_image_at_a_time(box, count):
    images = torch.rand(count, 3, 6, 8)
    labels = torch.tensor([3, 1, -1, 0, 2, 3])[:count]
    share = 0.3 if box is None else 1 - 15 / 48
    mixed, targets = mix_batch(images, labels, Mix(share, box), num_classes=4)
    for i in range(count):
        j = count - 1 - i
        if labels[i] < 0:
            assert targets[i].tolist() == [0, 0, 0, 0]
            continue
        expected, row = images[i].clone(), torch.zeros(4)
        row[labels[i]] = 1.0
        if labels[j] >= 0:
            row *= share
            row[labels[j]] += 1 - share
            if box is None:
                expected = share * images[i] + (1 - share) * images[j]
            else:
                expected[:, 1:4, 2:7] = images[j, :, 1:4, 2:7]
        assert mixed[i] == pytest.approx(expected, abs=1e-6)
        assert targets[i] == pytest.approx(row, abs=1e-6)


@pytest.mark.parametrize("box", [None, (0, 0, 2, 2)])
def test_a_mix_leaves_its_input_and_the_memory_layout(box):
    images = torch.rand(4, 3, 4, 4).to(torch.bfloat16).contiguous(memory_format=CHANNELS_LAST)
    before = images.clone()
    mixed, targets = mix_batch(images, torch.arange(4), Mix(0.25, box), num_classes=4)
    assert torch.equal(images, before)
    assert mixed.dtype == torch.bfloat16 and targets.dtype == torch.float32
    assert mixed.is_contiguous(memory_format=CHANNELS_LAST)
    if box is None:
        return
    # without a partner, to the last bit
    alone, _ = mix_batch(images, torch.tensor([0, 1, 2, -1]), Mix(0.25, None), num_classes=4)
    assert torch.equal(alone[0], images[0])


def _erased(images, *, noise=False, prob=1.0, step=0):
    keys = torch.arange(len(images))
    return erase(images, prob=prob, noise=noise, keys=keys, seed=1, step=step)


def test_erased_boxes():
    """One box an image, of the area and shape of torchvision's RandomErasing, anywhere."""
    count, side = 2000, 64
    erased = _erased(torch.ones(count, 3, side, side)) == 0
    assert torch.equal(erased.any(dim=1), erased.all(dim=1))
    erased = erased[:, 0]
    heights, widths = erased.any(dim=2).sum(dim=1), erased.any(dim=1).sum(dim=1)
    area = erased.sum(dim=(1, 2))
    assert torch.equal(area, heights * widths)
    share, ratio = area / side**2, heights / widths
    low, high = ERASE_AREA
    assert low - 0.005 < share.min() and share.max() < high + 0.01
    assert float(share.mean()) == pytest.approx((low + high) / 2, abs=0.01)
    assert ERASE_RATIO[0] * 0.85 < ratio.min() and ratio.max() < ERASE_RATIO[1] * 1.2
    assert abs(float(ratio.log().mean())) < 0.05
    places = erased.float().mean(dim=0)
    assert places.min() > 0 and places[32, 32] > 0.2


def test_chance_of_erasing():
    erased = _erased(torch.ones(4000, 1, 16, 16), prob=0.1).flatten(1).min(dim=1).values == 0
    assert 320 < int(erased.sum()) < 480
    assert not (_erased(torch.ones(100, 1, 16, 16), prob=0.0) == 0).any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_erasing_with_noise(channels_last):
    images = torch.full((64, 3, 32, 32), 9.0)
    if channels_last:
        images = images.contiguous(memory_format=CHANNELS_LAST)
    erased = _erased(images, noise=True)
    assert erased.stride() == images.stride()
    changed = erased != 9
    # the same boxes as with zeros
    assert torch.equal(changed, _erased(images) == 0)
    values = erased[changed]
    assert abs(float(values.mean())) < 0.03 and abs(float(values.std()) - 1) < 0.03
    # images have their own noise, and so have the channels
    first, second = erased[0], erased[1]
    both = changed[0] & changed[1]
    assert not both.any() or (first[both] != second[both]).float().mean() > 0.9
    inside = erased[0][:, changed[0, 0]]
    assert abs(float(torch.corrcoef(inside)[0, 1])) < 0.5


def test_an_image_is_erased_alike_in_any_batch():
    images = torch.rand(8, 3, 16, 16)
    whole = _erased(images, noise=True)
    keys = torch.arange(8)
    part = erase(images[2:5], prob=1.0, noise=True, keys=keys[2:5], seed=1, step=0)
    assert torch.equal(part, whole[2:5])
    assert not torch.equal(_erased(images, noise=True, step=1), whole)


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_and_the_draws_are_those_of_the_cpu():
    images, keys, labels = torch.rand(8, 3, 32, 32), torch.arange(8), torch.arange(8)
    mix = Mix(0.3, (2, 3, 20, 30))

    def run(device):
        x, at, y = images.to(device), keys.to(device), labels.to(device)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            mixed, targets = mix_batch(x, y, mix, num_classes=8)
            zeros = erase(mixed, prob=0.5, noise=False, keys=at, seed=1, step=2)
            noise = erase(mixed, prob=0.5, noise=True, keys=at, seed=1, step=2)
            coloured = distort_colour(x, std=0.1, keys=at, seed=1, step=2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [part.cpu() for part in (mixed, targets, zeros, noise, coloured)]

    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
