"""A detector whose masks are pasted inside the graph."""

from typing import Any

import torch
from torch import Tensor, nn

from resdet.export.graph import DetectorGraph
from resdet.ops.boxes import clip_boxes, is_nonempty
from resdet.ops.masks import PASTES, THRESHOLD


class PastedGraph(nn.Module):
    """As `DetectorGraph`, with results in pixels of the original images, which have one size.

    The masks of all D rows are made at once: N · D · H0 · W0 floats of memory, 200 MB for 100
    masks of 800 × 600 pixels.
    """

    def __init__(self, detector: DetectorGraph) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> dict[str, Tensor]:
        """As `DetectorGraph.forward`; `original_sizes` (N, 2) int64 (height, width) are the same
        for all images. Boxes are in pixels of the originals, masks are (N, D, H0, W0) uint8, 0 or
        1, and detections that are empty in the original are left out."""
        outputs = self.detector(images, sizes)
        scale = (original_sizes / sizes).flip(1).repeat(1, 2).to(torch.float32)
        boxes = clip_boxes(outputs["boxes"] * scale[:, None], original_sizes[:, None])
        rank = torch.arange(boxes.shape[1], device=boxes.device)
        is_real = (rank < outputs["counts"][:, None]) & is_nonempty(boxes)
        # those that stay move up: a stable sort, as distinct numbers
        order = torch.where(is_real, rank, rank + len(rank)).argsort(dim=1)
        is_real = is_real.gather(1, order)
        results = {"counts": is_real.sum(dim=1)}
        for name, values in (outputs | {"boxes": boxes}).items():
            if name != "counts":
                extra = [1] * (values.ndim - 2)
                index = order.view(*order.shape, *extra).expand_as(values)
                keeps = is_real.view(*is_real.shape, *extra)
                results[name] = torch.where(keeps, values.gather(1, index), 0)
        if "masks" in results:
            results["masks"] = self.paste(
                results["masks"], results["boxes"], is_real, original_sizes
            )
        return {name: results[name] for name in outputs}

    def paste(self, probs: Tensor, boxes: Tensor, is_real: Tensor, originals: Tensor) -> Tensor:
        """(N, D, H0, W0) uint8 of probabilities (N, D, m, m) in boxes (N, D, 4); see
        `paste_masks`."""
        height: Any = originals[0, 0].item()  # while tracing not an int yet
        width: Any = originals[0, 1].item()
        torch._check(height >= 1)
        torch._check(width >= 1)
        put, reaches = PASTES[self.detector.model.mask_paste]
        # rows without a detection get a box that no division by its size spoils
        flat = torch.where(is_real[..., None], boxes, boxes.new_tensor([0.0, 0.0, 1.0, 1.0]))
        window = (0, 0, width, height)
        masks = reaches(put(probs.flatten(0, 1), flat.flatten(0, 1), window), THRESHOLD)
        return (masks.unflatten(0, probs.shape[:2]) & is_real[..., None, None]).to(torch.uint8)
