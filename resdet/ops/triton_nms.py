# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""NMS of many groups at once on a GPU, of fixed shapes: nothing waits for the host.

torchvision's kernel counts what it kept, which the host waits for, and goes through the boxes of a
call in one thread block, one after another. Here each group is a block of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resdet.ops.triton_common import on_device_of

TILE = 64
WORD = 32
"""Bits of a word of the table of overlaps."""
MAX_WORDS = 2**27
"""Of the table at once: groups beyond wait their turn (512 MB)."""


@triton.jit
def _overlaps(boxes, counts, words, num_boxes, num_words, thresh, SIDE: tl.constexpr):
    """A tile of SIDE × SIDE bits of a group: bit j of row i is 1 where j overlaps i too much.

    Only tiles on and above the diagonal and within the group's count are written.
    """
    group, down, across = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    count = tl.load(counts + group)
    if (across < down) | (down * SIDE >= count) | (across * SIDE >= count):
        return
    i = down * SIDE + tl.arange(0, SIDE)
    j = across * SIDE + tl.arange(0, SIDE)
    own = boxes + (group * num_boxes + i) * 4
    other = boxes + (group * num_boxes + j) * 4
    is_i, is_j = i < count, j < count
    ax1, ay1 = tl.load(own, mask=is_i, other=0), tl.load(own + 1, mask=is_i, other=0)
    ax2, ay2 = tl.load(own + 2, mask=is_i, other=0), tl.load(own + 3, mask=is_i, other=0)
    bx1, by1 = tl.load(other, mask=is_j, other=0), tl.load(other + 1, mask=is_j, other=0)
    bx2, by2 = tl.load(other + 2, mask=is_j, other=0), tl.load(other + 3, mask=is_j, other=0)
    width = tl.minimum(ax2[:, None], bx2[None, :]) - tl.maximum(ax1[:, None], bx1[None, :])
    height = tl.minimum(ay2[:, None], by2[None, :]) - tl.maximum(ay1[:, None], by1[None, :])
    inter = tl.maximum(width, 0) * tl.maximum(height, 0)
    area_a, area_b = (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)
    union = area_a[:, None] + area_b[None, :] - inter
    # no division: 0 / 0 of empty boxes is not above any threshold here
    over = (inter > thresh * union) & (j[None, :] > i[:, None])
    bits = over.to(tl.int32) << (tl.arange(0, SIDE) % 32)[None, :]
    packed = tl.sum(tl.reshape(bits, (SIDE, SIDE // 32, 32)), axis=2)
    column = across * (SIDE // 32) + tl.arange(0, SIDE // 32)
    place = words + (group * num_boxes + i[:, None]) * num_words + column[None, :]
    tl.store(place, packed, mask=is_i[:, None] & (column < num_words)[None, :])


@triton.jit
def _choose(words, counts, keep, num_boxes, num_words, WORDS: tl.constexpr):
    """Go through a group, best first: keep what no kept box has struck out."""
    group = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + group)
    column = tl.arange(0, WORDS)
    struck = tl.zeros((WORDS,), tl.int32)
    for i in range(count):
        row = tl.load(
            words + (group * num_boxes + i) * num_words + column, mask=column < num_words, other=0
        )
        word = tl.sum(tl.where(column == i // 32, struck, 0), axis=0)
        is_kept = ((word >> (i % 32)) & 1) == 0
        tl.store(keep + group * num_boxes + i, is_kept.to(tl.int8))
        # bits of boxes gone through already, or past the count, are read by nobody
        struck = struck | tl.where(is_kept, row, 0)


def nms_of_groups(boxes: Tensor, counts: Tensor, iou_thresh: float) -> Tensor:
    """(G, N) bool: what greedy NMS keeps of the first `counts` (G,) int32 boxes of each group.

    `boxes` (G, N, 4) xyxy are sorted best first; a box whose IoU with a better one that is kept is
    above `iou_thresh` is dropped. Computed in the boxes' own format. Empty boxes are kept and
    suppress nothing.
    """
    groups, num_boxes = boxes.shape[:2]
    keep = torch.zeros((groups, num_boxes), dtype=torch.int8, device=boxes.device)
    if keep.numel() == 0:
        return keep.bool()
    boxes, counts = boxes.contiguous(), counts.to(torch.int32).contiguous()
    tiles = triton.cdiv(num_boxes, TILE)
    num_words = tiles * (TILE // WORD)
    part = max(1, MAX_WORDS // (num_boxes * num_words))
    size = (min(part, groups), num_boxes, num_words)
    words = torch.empty(size, dtype=torch.int32, device=boxes.device)
    for start in range(0, groups, part):
        rows = slice(start, min(start + part, groups))
        some = (boxes[rows], counts[rows])
        with on_device_of(boxes):
            _overlaps[(len(some[0]), tiles, tiles)](
                *some, words, num_boxes, num_words, iou_thresh, SIDE=TILE
            )
            _choose[(len(some[0]),)](
                words,
                some[1],
                keep[rows],
                num_boxes,
                num_words,
                WORDS=triton.next_power_of_2(num_words),
                num_warps=1,
            )
    return keep.bool()
