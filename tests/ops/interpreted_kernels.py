"""Run as a program with TRITON_INTERPRET=1: the kernels on a CPU beside torchvision's, as JSON.

Triton reads that variable when a kernel is defined, so that the tests need a process for it.
"""

from __future__ import annotations

import json

import torch
from torchvision.ops import nms, roi_align

from resdet.ops import kernels, triton_nms
from resdet.ops.triton_common import Grid
from resdet.ops.triton_nms import nms_of_groups
from resdet.ops.triton_roi import pool_levels

STRIDES = (4, 8, 16)


def boxes_in(count: int, height: float, width: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def check_nms() -> float:
    """Differences in groups of which one is empty, one full, one has doubles and empty boxes."""
    boxes = boxes_in(3 * 71, 60, 60, 0).view(3, 71, 4)
    boxes[2, 25:45] = boxes[2, :20]
    boxes[2, 50:60] = 0
    counts = torch.tensor([71, 0, 50])
    wrong = 0.0
    for thresh in (0.3, 0.7):
        keep = nms_of_groups(boxes, counts, thresh)
        for group, count in enumerate(counts.tolist()):
            kept = nms(boxes[group, :count], torch.arange(count, 0, -1.0), thresh)
            expected = torch.zeros(71, dtype=torch.bool)
            expected[kept] = True
            wrong += float((keep[group] != expected).sum())
    return wrong + float(nms_of_groups(boxes[:0], counts[:0], 0.5).numel())


def check_pool(aligned: bool, ratio: int, channels: int, dtype: torch.dtype) -> list[float]:
    """Relative differences of the pooled regions and of each map's gradient."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(64 // stride, 96 // stride) for stride in STRIDES]
    maps = [torch.randn(2, channels, *shape, generator=generator).to(dtype) for shape in shapes]
    boxes = boxes_in(9, 64, 96, 2)
    # nothing, beyond every border, at a corner, less than a cell
    boxes[:4] = torch.tensor(
        [[0, 0, 0, 0], [-20, -10, 120, 80], [90, 60, 96, 64], [5, 5, 5.5, 5.7]]
    )
    rois = torch.cat([(torch.arange(9) % 2)[:, None], boxes], dim=1)
    levels = torch.arange(9) % 3
    scales = [1 / stride for stride in STRIDES]
    weights = torch.randn(9, channels, 3, 3, generator=generator).to(dtype)
    ours = [feature.clone().requires_grad_() for feature in maps]
    pooled = pool_levels(ours, levels, rois, Grid(tuple(scales), 3, aligned, ratio))
    assert pooled.dtype == dtype
    theirs = [feature.float().requires_grad_() for feature in maps]
    expected = torch.zeros(pooled.shape)
    for level, scale in enumerate(scales):
        rows = (levels == level).nonzero()[:, 0]
        part = roi_align(theirs[level], rois[rows], (3, 3), scale, ratio, aligned)
        expected = expected.index_add(0, rows, part)
    found = [pooled, *torch.autograd.grad((pooled * weights).sum(), ours)]
    wanted = [expected, *torch.autograd.grad((expected * weights.float()).sum(), theirs)]
    return [
        float((a.float() - b).abs().max() / b.abs().max())
        for a, b in zip(found, wanted, strict=True)
    ]


def main() -> None:
    fault = kernels.find_fault(torch.device("cpu"))
    found: dict[str, object] = {"fault": fault, "nms": check_nms()}
    triton_nms.MAX_WORDS = 1
    found["nms a group at a time"] = check_nms()
    for name, arguments in {
        "aligned": (True, 0, 20, torch.float32),
        "2 samples": (True, 2, 20, torch.float32),
        "not aligned": (False, 0, 20, torch.float32),
        "as torchvision": (False, 2, 20, torch.float32),
        "300 channels": (True, 0, 300, torch.float32),
        "bf16": (True, 0, 16, torch.bfloat16),
    }.items():
        found[name] = max(check_pool(*arguments))
    empty = pool_levels(
        [torch.zeros(1, 4, 8, 8)],
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 5),
        Grid((0.25,), 7, True, 0),
    )
    found["regions of nothing"] = list(empty.shape)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
