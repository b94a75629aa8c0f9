"""Box arithmetic, deltas, anchors and NMS.

Boxes are (…, 4) xyxy float pixels with width = x2 − x1; background is K. Deltas are R-CNN's
(Girshick et al. 2014, appendix C), anchors Faster R-CNN's (Ren et al. 2015, 3.1.1).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from resdet.ops import kernels
from resdet.ops.vision import nms

MAX_BOXES_A_CALL = 500
"""Of NMS on a CPU, whatever their groups."""
MAX_BOXES_OF_A_GPU = 2**15
"""Of torchvision's NMS on a GPU: its memory grows with their square (128 MB here)."""


def box_area(boxes: Tensor) -> Tensor:
    """Areas (…,) of boxes (…, 4), in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU (…, N, M), 0..1, of boxes (…, N, 4) and (…, M, 4) that share their leading dimensions.

    Empty boxes have IoU 0 with everything.
    """
    # A coordinate at a time: no (…, N, M, 2) intermediates.
    b1, b2 = boxes1[..., :, None, :], boxes2[..., None, :, :]
    width = torch.minimum(b1[..., 2], b2[..., 2]) - torch.maximum(b1[..., 0], b2[..., 0])
    height = torch.minimum(b1[..., 3], b2[..., 3]) - torch.maximum(b1[..., 1], b2[..., 1])
    inter = width.clamp_(min=0) * height.clamp_(min=0)
    union = box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - inter
    return torch.where(inter > 0, inter / union, inter.new_zeros(()))


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (…, 4) moved inside images of `sizes` (…, 2) (height, width), which broadcasts."""
    height, width = sizes[..., 0].to(boxes.dtype), sizes[..., 1].to(boxes.dtype)
    limits = torch.stack([width, height, width, height], dim=-1)
    return torch.minimum(boxes.clamp(min=0), limits)


def is_nonempty(boxes: Tensor) -> Tensor:
    """(…,) bool: width and height above 0."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def is_at_least(boxes: Tensor, size: float) -> Tensor:
    """(…,) bool: width and height of `size` pixels or more."""
    return (boxes[..., 2] - boxes[..., 0] >= size) & (boxes[..., 3] - boxes[..., 1] >= size)


def giou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """1 − GIoU (…,), 0..2, of boxes (…, 4) pair by pair (Rezatofighi et al. 2019).

    The hull is the smallest box around both. The share of it that neither covers pulls boxes
    together that do not overlap, where the IoU is 0 and has no gradient.

    torchvision's function of this kind selects by a mask, which makes a GPU wait for the host.
    """
    eps = 1e-7
    size = torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(
        boxes1[..., :2], boxes2[..., :2]
    )
    inter = size.clamp(min=0).prod(dim=-1)
    union = box_area(boxes1) + box_area(boxes2) - inter
    hull = torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(
        boxes1[..., :2], boxes2[..., :2]
    )
    hull_area = hull.prod(dim=-1)
    return 1 - inter / (union + eps) + (hull_area - union) / (hull_area + eps)


# A delta may scale a size by at most 1000 / 16, so that exp cannot overflow (Detectron's value).
MAX_LOG_SCALE = math.log(1000.0 / 16)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Deltas (…, 4) (dx, dy, dw, dh) × weights that take `anchors` to `boxes`, both (…, 4) xyxy.

    Anchors must not be empty; boxes of zero size give −inf.
    """
    wx, wy, ww, wh = weights
    width, height, center_x, center_y = _sizes_and_centers(anchors)
    box_width, box_height, box_x, box_y = _sizes_and_centers(boxes)
    # Shifts relative to the anchor's size and logarithms of scales: the same numbers for small and
    # large boxes. The weights bring them to about unit variance.
    dx = (box_x - center_x) / width * wx
    dy = (box_y - center_y) / height * wy
    dw = torch.log(box_width / width) * ww
    dh = torch.log(box_height / height) * wh
    return torch.stack([dx, dy, dw, dh], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes (…, 4) xyxy pixels from deltas (…, 4) at anchors (…, 4), which broadcast."""
    if deltas.dtype != torch.float64:
        deltas, anchors = deltas.float(), anchors.float()
    wx, wy, ww, wh = weights
    width, height, center_x, center_y = _sizes_and_centers(anchors.to(deltas.dtype))
    dx, dy, dw, dh = deltas.unbind(dim=-1)
    box_x = dx / wx * width + center_x
    box_y = dy / wy * height + center_y
    half_width = 0.5 * torch.exp((dw / ww).clamp(max=MAX_LOG_SCALE)) * width
    half_height = 0.5 * torch.exp((dh / wh).clamp(max=MAX_LOG_SCALE)) * height
    return torch.stack(
        [box_x - half_width, box_y - half_height, box_x + half_width, box_y + half_height], dim=-1
    )


def _sizes_and_centers(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Width, height, centre x and centre y, each (…,)."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    width, height = x2 - x1, y2 - y1
    return width, height, x1 + 0.5 * width, y1 + 0.5 * height


def cell_anchors(
    sizes: Sequence[float], aspect_ratios: Sequence[float], *, rounded: bool = False
) -> Tensor:
    """(len(sizes) · len(ratios), 4) float32 xyxy around the origin; ratio = height / width.

    `rounded` moves the corners to whole pixels, as torchvision's anchors are.
    """
    rows = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = (size**2 / ratio) ** 0.5
            height = ratio * width
            rows.append([-width / 2, -height / 2, width / 2, height / 2])
    cell = torch.tensor(rows, dtype=torch.float32)
    return cell.round() if rounded else cell


def grid_anchors(
    cell: Tensor, grid_size: tuple[int, int], spacing: int | tuple[int, int]
) -> Tensor:
    """(H · W · A, 4) xyxy pixels: `cell` (A, 4) at each place of a (H, W) grid, corner offset 0.

    `spacing` in pixels is one for both sides, or (down, across). Location-major, then anchor,
    which is the order of the flattened predictions.
    """
    height, width = grid_size
    down, across = (spacing, spacing) if isinstance(spacing, int) else spacing
    ys = torch.arange(height, device=cell.device, dtype=cell.dtype) * down
    xs = torch.arange(width, device=cell.device, dtype=cell.dtype) * across
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cell).reshape(-1, 4)


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """NMS within each group: positions kept (n,) int64, best score first.

    `boxes` (N, 4) xyxy, `scores` (N,), `groups` (N,) int64 ≥ 0. A GPU takes all groups in one call.
    On a CPU the cost grows with the square of the boxes in a call, so that many boxes are one call
    per group.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    boxes, scores = boxes.double(), scores.double()
    if boxes.is_cuda or len(boxes) <= MAX_BOXES_A_CALL:
        return nms(_apart(boxes, groups, boxes), scores, iou_thresh)
    _, counts = torch.unique(groups, return_counts=True)
    kept = torch.cat(
        [
            rows[nms(boxes[rows], scores[rows], iou_thresh)]
            for rows in torch.argsort(groups, stable=True).split(counts.tolist())
        ]
    )
    # equal scores stay in the order of their positions
    kept = kept.sort().values
    return kept[torch.argsort(scores[kept], descending=True, stable=True)]


def _apart(boxes: Tensor, groups: Tensor, all_boxes: Tensor) -> Tensor:
    """Boxes (N, 4), each group (N,) shifted by its number times what `all_boxes` span.

    Boxes of different groups then cannot overlap, and one NMS call serves all groups. In float64,
    since in float32 the shift would coarsen the coordinates (to 1/64 px past 2^17).
    """
    span = (all_boxes.amax() - all_boxes.amin() + 1).double()
    return boxes.double() + (groups.double() * span)[:, None]


def nms_of_groups(boxes: Tensor, counts: Tensor, iou_thresh: float, *, fixed_slots: bool) -> Tensor:
    """(G, N) bool: what NMS keeps of the first `counts` (G,) int64 boxes of each group.

    `boxes` (G, N, 4) xyxy are sorted best first. Empty boxes are kept and suppress nothing. With
    `fixed_slots` nothing here depends on how many boxes there are, so that it can be exported; with
    our kernels no GPU waits for the host.
    """
    if kernels.usable(boxes):
        from resdet.ops.triton_nms import nms_of_groups as kernel

        return kernel(boxes, counts, iou_thresh)
    groups, num_boxes = boxes.shape[:2]
    keep = torch.arange(num_boxes, device=boxes.device) < counts[:, None]
    # a box that is not a candidate may hold anything, and must not stretch the span
    boxes = boxes.masked_fill(~keep[..., None], 0)
    part = max(1, MAX_BOXES_OF_A_GPU // max(1, num_boxes))
    for start in range(0, groups, part):
        some = keep[start : start + part]
        group, rank = some.nonzero(as_tuple=True)
        own = boxes[start : start + part][group, rank]
        if fixed_slots:
            kept = nms(_apart(own, group, boxes), -rank.double(), iou_thresh)
        else:
            kept = nms_by_group(own, -rank.double(), group, iou_thresh)
        # what was a candidate is dropped, and what NMS keeps comes back
        some[group, rank] = False
        some[group[kept], rank[kept]] = True
    return keep
