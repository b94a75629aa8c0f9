"""Masks between their three forms: M×M in the gt box, m×m in the proposal, and the whole image.

All three resamplings are separable, so each is two small matrix products a mask and no loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Elements pasted at once: bounds the memory of images with hundreds of detections.
MAX_PASTE_ELEMENTS = 2**26


def _overlap_weights(starts: Tensor, stops: Tensor, cells: int, size: int) -> Tensor:
    """(N, cells, size): share of each of `cells` parts of [start, stop) over the pixels 0..size."""
    edges = torch.linspace(0, 1, cells + 1, device=starts.device, dtype=starts.dtype)
    edges = starts[:, None] + (stops - starts)[:, None] * edges
    pixels = torch.arange(size, device=starts.device, dtype=starts.dtype)
    low = torch.maximum(edges[:, :-1, None], pixels)
    high = torch.minimum(edges[:, 1:, None], pixels + 1)
    return (high - low).clamp_(min=0) / (edges[:, 1:] - edges[:, :-1]).clamp(min=1e-6)[..., None]


def resample_masks(masks: Tensor, gt_boxes: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Mask targets (N, size, size) bool inside `boxes` from M×M masks inside `gt_boxes`, (N, 4).

    `masks` (N, M, M) is 0/1. A cell is 1 where the object covers at least half of it (Mask R-CNN,
    He et al. 2017, 3: the target is the object within the RoI at m×m).
    """
    grid = masks.shape[-1]
    gt_sizes = (gt_boxes[:, 2:] - gt_boxes[:, :2]).clamp(min=1e-6)
    starts = (boxes[:, :2] - gt_boxes[:, :2]) / gt_sizes * grid
    stops = (boxes[:, 2:] - gt_boxes[:, :2]) / gt_sizes * grid
    across = _overlap_weights(starts[:, 0], stops[:, 0], size, grid)
    down = _overlap_weights(starts[:, 1], stops[:, 1], size, grid)
    coverage = down @ masks.to(down.dtype) @ across.transpose(1, 2)
    return coverage >= 0.5


def _bilinear_weights(starts: Tensor, stops: Tensor, grid: int, low: int, high: int) -> Tensor:
    """(N, high − low, grid): weights of `grid` mask cells at the pixel centres low…high."""
    centers = torch.arange(low, high, device=starts.device, dtype=starts.dtype) + 0.5
    position = (centers - starts[:, None]) / (stops - starts)[:, None] * grid - 0.5
    cells = torch.arange(grid, device=starts.device, dtype=starts.dtype)
    return (1 - (position[..., None] - cells).abs()).clamp_(min=0)


def _paste(probs: Tensor, boxes: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """(N, h, w) probabilities in the pixels `window` (x1, y1, x2, y2), 0 outside the boxes."""
    x1, y1, x2, y2 = window
    grid = probs.shape[-1]
    across = _bilinear_weights(boxes[:, 0], boxes[:, 2], grid, x1, x2)
    down = _bilinear_weights(boxes[:, 1], boxes[:, 3], grid, y1, y2)
    return down @ probs @ across.transpose(1, 2)


def _resize_weights(starts: Tensor, counts: Tensor, grid: int, size: int) -> Tensor:
    """(N, size, grid): weights of `grid` cells resized bilinearly to `counts` (N,) whole pixels
    from `starts` (N,) on; 0 in the other pixels of 0…size. Both are int64."""
    pixels = torch.arange(size, device=starts.device) - starts[:, None]
    position = (pixels + 0.5) * (grid / counts)[:, None] - 0.5
    # beyond the outermost centres the outermost cells hold, as in F.interpolate
    position = position.clamp_(0, grid - 1)
    cells = torch.arange(grid, device=starts.device, dtype=position.dtype)
    weights = (1 - (position[..., None] - cells).abs()).clamp_(min=0)
    return weights * ((pixels >= 0) & (pixels < counts[:, None]))[..., None]


def _paste_rounded(probs: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N, H, W) probabilities where torchvision puts them, 0 outside.

    A mask gets a border of empty cells, its box grows by as much and is cut to whole pixels
    (towards 0), both ends included, and the mask is resized to that.
    """
    height, width = image_size
    grid = probs.shape[-1] + 2
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * (grid / (grid - 2))
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    low, high = (center - half).long(), (center + half).long()
    counts = (high - low + 1).clamp(min=1)
    across = _resize_weights(low[:, 0], counts[:, 0], grid, width)
    down = _resize_weights(low[:, 1], counts[:, 1], grid, height)
    bordered = F.pad(probs, (1, 1, 1, 1))
    return down @ (bordered @ across.transpose(1, 2))


def paste_masks(
    probs: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    paste: str = "continuous",
) -> Tensor:
    """Masks (N, H, W) bool from probabilities (N, m, m) inside `boxes` (N, 4) in image pixels.

    `paste` continuous: bilinear at pixel centres in continuous coordinates, zero outside, then
    ≥ `threshold` (Mask R-CNN, He et al. 2017, appendix; the convention of Detectron2). rounded:
    resized to the box at whole pixels, then > `threshold` (the convention of torchvision).
    """
    assert paste in ("continuous", "rounded"), paste
    height, width = image_size
    out = torch.zeros((len(probs), height, width), dtype=torch.bool, device=probs.device)
    probs, boxes = probs.float(), boxes.float()
    part = max(1, MAX_PASTE_ELEMENTS // (height * width))
    for start in range(0, len(probs), part):
        rows = slice(start, start + part)
        if paste == "rounded":
            out[rows] = _paste_rounded(probs[rows], boxes[rows], image_size) > threshold
        else:
            out[rows] = _paste(probs[rows], boxes[rows], (0, 0, width, height)) >= threshold
    return out


def encode_rle(
    probs: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    paste: str = "continuous",
) -> list[dict[str, Any]]:
    """Compressed COCO RLE ({"size": [H, W], "counts": str}) of the masks of `paste_masks`."""
    from pycocotools import mask as coco_mask

    height, width = image_size
    rles: list[dict[str, Any]] = []
    part = max(1, MAX_PASTE_ELEMENTS // (height * width))
    for start in range(0, len(probs), part):
        rows = slice(start, start + part)
        pasted = paste_masks(probs[rows], boxes[rows], image_size, threshold, paste=paste)
        # pycocotools wants (H, W, N) with columns first in memory
        columns_first = np.asfortranarray(pasted.permute(1, 2, 0).cpu().numpy().astype(np.uint8))
        for rle in coco_mask.encode(columns_first):
            rles.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    return rles
