"""torchvision's kernels, imported with their first call: importing torchvision takes longer than
torch itself, and what classifies or reads configs needs none of them."""

from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_thresh: float) -> Tensor:
    """Rows (K,) int64 of boxes (N, 4) that stay, best first; their scores are (N,)."""
    from torchvision import ops

    kept: Tensor = ops.nms(boxes, scores, iou_thresh)
    return kept


def roi_align(
    features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """(N, C, size, size) from maps (B, C, H, W) of `scale` cells per pixel, at `rois` (N, 5): image
    and xyxy in pixels."""
    from torchvision import ops

    pooled: Tensor = ops.roi_align(features, rois, (size, size), scale, sampling_ratio, aligned)
    return pooled


def roi_pool(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    """As `roi_align`, each bin the maximum of its cells."""
    from torchvision import ops

    pooled: Tensor = ops.roi_pool(features, rois, (size, size), scale)
    return pooled
