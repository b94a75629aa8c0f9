"""Padding, cropping and flipping on the device, against one image at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from resdet.ops.pixels import pad_crop_flip


def _batch(count: int, channels_last: bool = False):
    images = torch.rand(count, 3, 32, 32) + 1
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.full((count,), 7), torch.arange(count)


def _run(images, epochs, indices, *, pad=4, flip_prob=0.5, seed=3):
    keys = epochs * 0x9E3779B1 + indices
    return pad_crop_flip(images, pad=pad, flip_prob=flip_prob, keys=keys, seed=seed)


def _found(image, result):
    """(top, left, flipped) of the crop of the padded image that `result` is."""
    padded = F.pad(image, (4, 4, 4, 4))
    for flipped in (False, True):
        wanted = result.flip(2) if flipped else result
        for top in range(9):
            for left in range(9):
                if torch.equal(padded[:, top : top + 32, left : left + 32], wanted):
                    return top, left, flipped
    raise AssertionError("no crop of the padded image")


def test_every_result_is_a_crop_and_all_crops_come():
    images, epochs, indices = _batch(400)
    results = _run(images, epochs, indices)
    found = [_found(image, result) for image, result in zip(images, results, strict=True)]
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(9))
    assert 160 < sum(flipped for _, _, flipped in found) < 240
    # top, left and flip do not go together
    assert len(set(found)) > 140


def test_an_image_gets_the_same_in_any_batch_and_layout():
    images, epochs, indices = _batch(16)
    whole = _run(images, epochs, indices)
    part = _run(images[5:9], epochs[5:9], indices[5:9])
    assert torch.equal(whole[5:9], part)
    last = _run(images.contiguous(memory_format=torch.channels_last), epochs, indices)
    assert torch.equal(last, whole)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert whole.is_contiguous()


def test_other_epochs_and_seeds_give_other_crops():
    images, epochs, indices = _batch(64)
    first = _run(images, epochs, indices)
    for other in (_run(images, epochs + 1, indices), _run(images, epochs, indices, seed=4)):
        same = (first == other).flatten(1).all(dim=1)
        assert same.sum() < 6


def test_without_pad_and_flip_nothing_changes():
    images, epochs, indices = _batch(8, channels_last=True)
    assert torch.equal(_run(images, epochs, indices, pad=0, flip_prob=0.0), images)
    assert torch.equal(_run(images, epochs, indices, pad=0, flip_prob=1.0), images.flip(3))
