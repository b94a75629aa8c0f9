"""Non-maximum suppression of an exported detector: group by group, in float32.

Eager torch shifts the boxes of every group apart, so that one call serves all, and needs float64
for it. Here a group is a batch of the operator itself, whose boxes never move: float32 holds them
exactly, and the IoU differs from eager's in its last bit alone.
"""

import torch
from torch import Tensor

from resdet.ops.vision import nms


@torch.library.custom_op("resdet::nms_by_rows", mutates_args=())
def nms_by_rows(boxes: Tensor, scores: Tensor, iou_thresh: float, limit: int) -> Tensor:
    """(M, 3) int64 positions (group, class, box) of what NMS keeps of each class of each group.

    Boxes (G, N, 4) xyxy pixels, scores (G, C, N), −inf for boxes that take no part; at most the
    `limit` best of each class. It is ONNX's NonMaxSuppression, which `resdet.export.onnx` writes
    for it; here as a loop, so that a graph runs in torch.
    """
    kept = []
    for group, of_group in enumerate(scores):
        for label, of_class in enumerate(of_group):
            rows = (of_class > -torch.inf).nonzero()[:, 0]
            rows = rows[nms(boxes[group, rows].double(), of_class[rows].double(), iou_thresh)]
            rows = rows[:limit]
            kept.append(
                torch.stack([torch.full_like(rows, group), torch.full_like(rows, label), rows], 1)
            )
    return torch.cat(kept)


@nms_by_rows.register_fake
def _(boxes: Tensor, scores: Tensor, iou_thresh: float, limit: int) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((kept, 3), dtype=torch.int64)  # type: ignore[arg-type]


def nms_together(boxes: Tensor, scores: Tensor, iou_thresh: float, limit: int) -> Tensor:
    """As `nms_by_rows`, in one call of torchvision's operator, which a .pt2 file may contain.

    All that take part are moved apart by their class and group, in float64. `limit` has no effect.
    """
    group, label, row = (scores > -torch.inf).nonzero(as_tuple=True)
    own = boxes[group, row].double()
    span = boxes.double().abs().amax() * 2 + 1
    apart = own + ((group * scores.shape[1] + label) * span)[:, None]
    kept = nms(apart, scores[group, label, row].double(), iou_thresh)
    return torch.stack([group[kept], label[kept], row[kept]], dim=1)
