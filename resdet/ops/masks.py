"""Masks between their three forms: M×M in the gt box, m×m in the proposal, and the whole image.

All three resamplings are separable, so that each is two small matrix products per mask and no loop.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Elements pasted at once: bounds the memory of images with hundreds of detections.
MAX_PASTE_ELEMENTS = 2**26
THRESHOLD = 0.5
"""Of the probability of a pixel in the mask."""
Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels, the last two outside."""


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
    # The proposal's edges in cells of the object's M×M mask: each of its m×m cells covers parts of
    # some rows and columns. What it covers of the object is the sum over rows and columns of
    # (share of the row) × mask × (share of the column): two small matrix products per mask.
    grid = masks.shape[-1]
    gt_sizes = (gt_boxes[:, 2:] - gt_boxes[:, :2]).clamp(min=1e-6)
    starts = (boxes[:, :2] - gt_boxes[:, :2]) / gt_sizes * grid
    stops = (boxes[:, 2:] - gt_boxes[:, :2]) / gt_sizes * grid
    across = _overlap_weights(starts[:, 0], stops[:, 0], size, grid)
    down = _overlap_weights(starts[:, 1], stops[:, 1], size, grid)
    return _resample(down, masks.to(down.dtype), across) >= 0.5


def _resample(down: Tensor, masks: Tensor, across: Tensor) -> Tensor:
    """(N, h, w) of weights (N, h, m) and (N, w, m) and masks (N, m, m), in their own format:
    in bf16, where an autocast would compute, pixels near the threshold fall on its other side."""
    with torch.autocast(down.device.type, enabled=False):
        return down @ (masks @ across.transpose(1, 2))


def _bilinear_weights(starts: Tensor, stops: Tensor, grid: int, low: int, high: int) -> Tensor:
    """(N, high − low, grid): weights of `grid` mask cells at the pixel centres low…high."""
    centers = torch.arange(low, high, device=starts.device, dtype=starts.dtype) + 0.5
    position = (centers - starts[:, None]) / (stops - starts)[:, None] * grid - 0.5
    cells = torch.arange(grid, device=starts.device, dtype=starts.dtype)
    return (1 - (position[..., None] - cells).abs()).clamp_(min=0)


def _paste_continuous(probs: Tensor, boxes: Tensor, window: Window) -> Tensor:
    """(N, h, w) probabilities in the pixels of `window`, 0 outside the boxes."""
    x1, y1, x2, y2 = window
    grid = probs.shape[-1]
    across = _bilinear_weights(boxes[:, 0], boxes[:, 2], grid, x1, x2)
    down = _bilinear_weights(boxes[:, 1], boxes[:, 3], grid, y1, y2)
    return _resample(down, probs, across)


def _resize_weights(starts: Tensor, counts: Tensor, grid: int, low: int, high: int) -> Tensor:
    """(N, high − low, grid): weights of `grid` cells resized bilinearly to `counts` (N,) whole
    pixels from `starts` (N,) on; 0 in the other pixels of low…high. Both are int64."""
    pixels = torch.arange(low, high, device=starts.device) - starts[:, None]
    position = (pixels + 0.5) * (grid / counts)[:, None] - 0.5
    # beyond the outermost centres the outermost cells hold, as in F.interpolate
    position = position.clamp_(0, grid - 1)
    cells = torch.arange(grid, device=starts.device, dtype=position.dtype)
    weights = (1 - (position[..., None] - cells).abs()).clamp_(min=0)
    return weights * ((pixels >= 0) & (pixels < counts[:, None]))[..., None]


def _rounded_ends(boxes: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """First and last pixels (N, 2) xy of masks whose border of a cell their boxes grow by."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((grid + 2) / grid)
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return (center - half).long(), (center + half).long()


def _paste_rounded(probs: Tensor, boxes: Tensor, window: Window) -> Tensor:
    """(N, h, w) probabilities where torchvision puts them in the pixels of `window`, 0 outside.

    A mask gets a border of empty cells, its box grows by as much and is cut to whole pixels
    (towards 0), both ends included, and the mask is resized to that.
    """
    x1, y1, x2, y2 = window
    low, high = _rounded_ends(boxes, probs.shape[-1])
    counts = (high - low + 1).clamp(min=1)
    bordered = F.pad(probs, (1, 1, 1, 1))
    across = _resize_weights(low[:, 0], counts[:, 0], bordered.shape[-1], x1, x2)
    down = _resize_weights(low[:, 1], counts[:, 1], bordered.shape[-1], y1, y2)
    return _resample(down, bordered, across)


PASTES = {"continuous": (_paste_continuous, torch.ge), "rounded": (_paste_rounded, torch.gt)}
"""How probabilities are put into the image, and which of them are in the mask, by convention."""


def _windows(boxes: Tensor, grid: int, image_size: tuple[int, int], paste: str) -> list[Window]:
    """The pixels that each mask can reach, cut to the image."""
    height, width = image_size
    if paste == "rounded":
        low, high = _rounded_ends(boxes, grid)
    else:
        # bilinear weights end half a cell outside the box
        margin = (boxes[:, 2:] - boxes[:, :2]) / (2 * grid) + 1
        low, high = (boxes[:, :2] - margin).floor().long(), (boxes[:, 2:] + margin).ceil().long()
    limits = torch.tensor([width, height])
    first = torch.minimum(low.clamp(min=0), limits)
    stop = torch.maximum(torch.minimum(high + 1, limits), first)
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in torch.cat([first, stop], dim=1).tolist()]


def paste_in_windows(
    probs: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    paste: str = "continuous",
) -> Iterator[tuple[Window, Tensor]]:
    """Each mask of `paste_masks` as (h, w) bool in the pixels that it can reach, on the CPU."""
    probs, boxes = probs.float().cpu(), boxes.float().cpu()
    put, reaches = PASTES[paste]
    for row, window in enumerate(_windows(boxes, probs.shape[-1], image_size, paste)):
        pasted = put(probs[row : row + 1], boxes[row : row + 1], window)[0]
        yield window, reaches(pasted, THRESHOLD)


def paste_masks(
    probs: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    paste: str = "continuous",
) -> Tensor:
    """Masks (N, H, W) bool from probabilities (N, m, m) inside `boxes` (N, 4) in image pixels.

    `paste` continuous: bilinear at pixel centres in continuous coordinates, zero outside, then
    ≥ .5 (Mask R-CNN, He et al. 2017, appendix; the convention of Detectron2). rounded:
    resized to the box at whole pixels, then > .5 (the convention of torchvision).
    """
    if probs.is_cuda:
        return _paste_in_parts(probs.float(), boxes.float(), image_size, paste)
    out = torch.zeros((len(probs), *image_size), dtype=torch.bool, device=probs.device)
    # most boxes are a small part of the image
    parts = paste_in_windows(probs, boxes, image_size, paste=paste)
    for row, ((x1, y1, x2, y2), mask) in enumerate(parts):
        out[row, y1:y2, x1:x2] = mask
    return out


def _paste_in_parts(
    probs: Tensor, boxes: Tensor, image_size: tuple[int, int], paste: str
) -> Tensor:
    """As `paste_masks`, many masks at once in the whole image."""
    height, width = image_size
    out = torch.empty((len(probs), height, width), dtype=torch.bool, device=probs.device)
    put, reaches = PASTES[paste]
    part, whole = max(1, MAX_PASTE_ELEMENTS // (height * width)), (0, 0, width, height)
    for start in range(0, len(probs), part):
        rows = slice(start, start + part)
        reaches(put(probs[rows], boxes[rows], whole), THRESHOLD, out=out[rows])
    return out


def encode_rle(
    probs: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    *,
    paste: str = "continuous",
) -> list[dict[str, Any]]:
    """Compressed COCO RLE ({"size": [H, W], "counts": str}) of the masks of `paste_masks`."""
    from pycocotools import mask as coco_mask

    height, width = image_size
    parts = paste_in_windows(probs, boxes, image_size, paste=paste)
    runs = [
        {"size": [height, width], "counts": _runs(mask.numpy(), window, height * width, height)}
        for window, mask in parts
    ]
    if not runs:
        return []
    return [
        {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        for rle in coco_mask.frPyObjects(runs, height, width)
    ]


def _runs(mask: np.ndarray, window: Window, num_pixels: int, height: int) -> list[int]:
    """COCO's uncompressed RLE, columns first, of an image that has `mask` (h, w) in `window`."""
    x1, y1 = window[:2]
    columns = np.zeros((mask.shape[1], mask.shape[0] + 2), np.int8)
    columns[:, 1:-1] = mask.T
    changes = np.diff(columns, axis=1)
    starts, stops = (np.nonzero(changes == sign) for sign in (1, -1))
    first = (starts[0] + x1) * height + starts[1] + y1
    end = (stops[0] + x1) * height + stops[1] + y1
    # a run down to the bottom continues at the top of the next column
    apart = first[1:] != end[:-1]
    first = first[np.concatenate([[True], apart])] if len(first) else first
    end = end[np.concatenate([apart, [True]])] if len(end) else end
    edges = np.stack([first, end], axis=1).flatten()
    counts = np.diff(edges, prepend=0, append=num_pixels)
    return list(map(int, counts if counts[-1] else counts[:-1]))
