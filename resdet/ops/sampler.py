"""Matching boxes to objects, and fixed-size sampling keyed by (seed, step, image).

Matching (Faster R-CNN, Ren et al. 2015, 3.1.2): boxes that overlap an object well learn to find it,
boxes that overlap none learn the background, and those in between are left out, since either answer
would be half wrong. Sampling has no generator state and is the same on any device.

Every slot has a fixed place and a validity bit, so that shapes never depend on the data and a GPU
is never asked how many there were.
"""

import math

import torch
from torch import Tensor

from resdet.ops.boxes import pairwise_iou

_INDEX_BITS = 24
# IoU elements computed at once (256 MB in float32): more are split over the images.
MAX_IOU_ELEMENTS = 2**26


def _mix(x: Tensor) -> Tensor:
    """Finaliser of MurmurHash3 (Appleby, 2011) on the low 32 bits of int64."""
    mask = 0xFFFFFFFF
    x = (x ^ (x >> 16)) * 0x85EBCA6B & mask
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & mask
    return x ^ (x >> 16)


def _host_key(seed: int, step: int, stream: int) -> int:
    """The host part mixes as Python ints: no tensor for a scalar."""
    key = 0
    for value in (seed, step, stream):
        key = (key * 0x9E3779B1 + value + 0x7F4A7C15) & 0xFFFFFFFF
    return key


def uniform(keys: Tensor, *, seed: int, step: int, stream: int) -> Tensor:
    """Random numbers in [0, 1), float32 of 24 bits, one for each of `keys`, int64 of any shape.

    A pure function of (seed, step, stream, key). `stream` separates the uses within one step.
    Times any integer n up to 2^24 and cut to an integer, they are below n.
    """
    mixed = _mix((keys + _host_key(seed, step, stream)) & 0xFFFFFFFF)
    # A second round: keys that follow one another leave a pattern after one.
    return (_mix((mixed + 0x9E3779B1) & 0xFFFFFFFF) >> 8).to(torch.float32) * 2.0**-24


def normal(keys: Tensor, *, seed: int, step: int, stream: int) -> Tensor:
    """Standard normal numbers, float32, one for each of `keys`; as `uniform`, and within ±5.5."""
    # Shifted by half a step of the 24 bits: exact in float32, and never ±1, which has no quantile.
    centred = uniform(keys, seed=seed, step=step, stream=stream) * 2 - 1 + 2.0**-24
    return torch.erfinv(centred) * math.sqrt(2)


def random_order(image_keys: Tensor, count: int, *, seed: int, step: int, stream: int) -> Tensor:
    """Distinct random keys (B, count) int64 ≥ 0 for `image_keys` (B,) int64; to shuffle by.

    A pure function of (seed, step, stream, image key, position). `stream` separates the uses
    within one step. `count` is below 2^24.
    """
    assert count < 1 << _INDEX_BITS
    index = torch.arange(count, device=image_keys.device)
    mixed = _mix((image_keys + _host_key(seed, step, stream)) & 0xFFFFFFFF)
    hashed = _mix(_mix((mixed[:, None] * 0x9E3779B1 + index) & 0xFFFFFFFF) ^ mixed[:, None])
    return (hashed << _INDEX_BITS) | index


def sample_slots(
    labels: Tensor, order: Tensor, *, num_samples: int, positive_fraction: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw up to `num_samples` of the labels (B, N) int8 (1 positive, 0 negative, −1 ignored).

    At most `positive_fraction` of them are positive and negatives fill the rest (Ren et al. 2015,
    3.1.3). `order` (B, N) are the keys of `random_order`. Returns positions (B, S) int64,
    positive (B, S) bool and valid (B, S) bool with S = min(num_samples, N): positives first,
    then negatives, then empty slots.
    """
    max_positives = int(num_samples * positive_fraction)
    # The largest random keys win: topk draws without replacement, with no loop and no count. First
    # the positives, at most their share …
    slots = min(num_samples, labels.shape[1])
    positive_keys = torch.where(labels == 1, order, -1)
    chosen = positive_keys.topk(min(max_positives, labels.shape[1]), dim=1)
    positive_rank = order.new_zeros(order.shape).scatter_(
        1, chosen.indices, (chosen.values >= 0).long()
    )
    # … then they are lifted above every negative, and one more topk fills the slots: the chosen
    # positives, then random negatives. Ignored and surplus boxes keep key −1 and come last.
    above = 1 << (32 + _INDEX_BITS)
    keys = torch.where(labels == 0, order, -1)
    keys = torch.where(positive_rank > 0, order + above, keys)
    values, positions = keys.topk(slots, dim=1)
    return positions, values >= above, values >= 0


def match_boxes(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    boxes: Tensor,
    *,
    background_iou: float,
    foreground_iou: float,
    best_of_each_object: bool,
) -> tuple[Tensor, Tensor]:
    """Match boxes (B, N, 4) or (N, 4) to objects (B, G, 4) of which `gt_valid` (B, G) are real.

    Returns the object of highest IoU (B, N) int64 and labels (B, N) int8: 1 at or above
    `foreground_iou`, 0 below `background_iou`, −1 between. With `best_of_each_object` the boxes
    that overlap an object most (ties included) are 1 as well; they keep their own best object.
    """
    batch, num_objects = gt_valid.shape
    if boxes.dim() == 2:
        boxes = boxes.expand(batch, -1, -1)
    part = max(1, MAX_IOU_ELEMENTS // max(1, num_objects * boxes.shape[1]))
    matches, labels = [], []
    for objects, valid, candidates in zip(
        gt_boxes.split(part), gt_valid.split(part), boxes.split(part), strict=True
    ):
        # (b, G, N); −1 where there is no object, so that it is nobody's best
        iou = pairwise_iou(objects, candidates).masked_fill_(~valid[:, :, None], -1.0)
        # Each box belongs to the object that it overlaps most …
        best_iou, match = iou.max(dim=1)
        label = torch.full_like(match, -1, dtype=torch.int8)
        label.masked_fill_(best_iou < background_iou, 0)
        label.masked_fill_(best_iou >= foreground_iou, 1)
        if best_of_each_object:
            # … and small or oddly shaped objects, which no anchor overlaps by `foreground_iou`, get
            # their best anchors all the same: otherwise nothing would ever learn them.
            best_of_object = iou.amax(dim=2, keepdim=True)
            tied = (iou == best_of_object) & (best_of_object > 0)
            label.masked_fill_(tied.any(dim=1), 1)
        matches.append(match)
        labels.append(label)
    return torch.cat(matches), torch.cat(labels)
