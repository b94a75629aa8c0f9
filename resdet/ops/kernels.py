"""Whether a GPU runs resdet's own kernels, written in Triton, or torchvision's."""

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from resdet.ops.vision import nms, roi_align


def usable(x: Tensor) -> bool:
    """Whether the kernels take tensors like `x`: on a GPU, where `choose` allows them."""
    return x.is_cuda and choose(x.device)[0]


@functools.cache
def choose(device: torch.device) -> tuple[bool, str]:
    """Whether `device` runs the kernels, and the reason for the log.

    They are tried once on a small example beside torchvision's. If a compiler is missing or results
    differ, a warning reports it and torchvision's are used.
    """
    if device.type != "cuda":
        return False, "off: not a GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False, "off: the GPU is older than compute capability 8.0"
    if importlib.util.find_spec("triton") is None:
        return False, "off: triton is not installed"
    try:
        fault = find_fault(device)
    # whatever a compiler that is missing or broken raises
    except Exception as error:
        fault = f"{type(error).__name__}: {error}".splitlines()[0]
    if fault is None:
        return True, "on"
    warnings.warn(
        f"resdet's own kernels do not work on {device}; torchvision's slower ones are "
        f"used: {fault}",
        stacklevel=2,
    )
    return False, f"off: {fault}"


def find_fault(device: torch.device) -> str | None:
    """What differs from torchvision's NMS and RoIAlign on a small example; None where nothing."""
    from resdet.ops.triton_common import Grid
    from resdet.ops.triton_nms import nms_of_groups
    from resdet.ops.triton_roi import pool_levels

    generator = torch.Generator().manual_seed(0)
    corner, size = (torch.rand(2, 3, 70, 2, generator=generator) * 40).unbind()
    boxes = torch.cat([corner, corner + size], dim=-1).to(device)
    counts = torch.tensor([70, 0, 33])
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        keep = nms_of_groups(boxes, counts.to(device), 0.3)
        for group, count in enumerate(counts.tolist()):
            best_first = torch.arange(count, 0, -1.0, device=device)
            expected = nms(boxes[group, :count], best_first, 0.3)
            if not torch.equal(keep[group].nonzero()[:, 0], expected):
                return "NMS keeps other boxes"
        features = [torch.randn(2, 24, side, side, generator=generator) for side in (20, 10)]
        maps = [feature.to(device).requires_grad_() for feature in features]
        rois = torch.cat([torch.arange(8, device=device)[:, None] % 2, boxes[0, :8]], dim=1)
        levels = torch.arange(8, device=device) % 3 // 2
        for aligned, ratio in ((True, 0), (False, 2)):
            ours = pool_levels(maps, levels, rois, Grid((0.25, 0.125), 3, aligned, ratio))
            expected = torch.zeros_like(ours)
            for level, scale in enumerate((0.25, 0.125)):
                rows = (levels == level).nonzero()[:, 0]
                pooled = roi_align(maps[level], rois[rows], 3, scale, ratio, aligned)
                expected = expected.index_add(0, rows, pooled)
            weights = torch.randn(ours.shape, generator=generator).to(device)
            results = [
                [pooled, *torch.autograd.grad((pooled * weights).sum(), maps)]
                for pooled in (ours, expected)
            ]
            for one, other in zip(*results, strict=True):
                if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
                    return f"RoIAlign differs by {float((one - other).abs().max()):.2g}"
    return None
