"""The one detector class: backbone, pyramid or one map, RPN and RoI heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from resdet.files.pixels import prepare_image
from resdet.files.scale import shrink_problem
from resdet.hardware import profiled
from resdet.models.fpn import FPN, OneMap
from resdet.models.predict import Predictor
from resdet.models.regions import RoIDetections
from resdet.models.roi_heads import RoIHeads
from resdet.models.rpn import RPN
from resdet.ops.boxes import clip_boxes, is_nonempty
from resdet.structures import Detections, ImageBatch, TargetBatch, collate_images, map_tensors

if TYPE_CHECKING:
    from resdet.config.detection import DetectionConfig


class RCNN(Predictor[Detections]):
    """Faster, Mask and Cascade R-CNN (Ren et al. 2015, He et al. 2017, Cai & Vasconcelos 2018).

    `forward` gives losses, `infer` detections of a prepared batch, `predict` those of any images.
    """

    config: DetectionConfig
    tile_scale: float | None = 1.0

    def __init__(
        self,
        backbone: nn.Module,
        fpn: FPN | OneMap,
        rpn: RPN,
        roi_heads: RoIHeads,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str,
        channels_last: bool,
        test_short_edge: int,
        test_max_size: int,
        test_resize_method: str,
        mask_paste: str,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        config: DetectionConfig,
    ) -> None:
        """`pixel_mean` and `pixel_std` (3,) are 0..255, in `channel_order` rgb or bgr.

        `config` is kept for whoever saves or describes the model, and for `precision_of`.
        """
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.set_input(pixel_mean, pixel_std, channel_order, channels_last=channels_last)
        self.test_short_edge, self.test_max_size = test_short_edge, test_max_size
        self.test_resize_method, self.mask_paste = test_resize_method, mask_paste
        self.class_names, self.category_ids = list(class_names), list(category_ids)
        self.config = config
        self._features: Callable[[Tensor], dict[str, Tensor]] = self.pyramid

    @property
    def num_classes(self) -> int:
        return self.roi_heads.num_classes

    @property
    def has_masks(self) -> bool:
        return "mask_head" in self.roi_heads.branches

    @property
    def size_divisibility(self) -> int:
        """What the sides of batches are a multiple of, as in Detectron2: 32 under a pyramid, whose
        maps then halve evenly, and 1 without one."""
        return 32 if isinstance(self.fpn, FPN) else 1

    def place(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """As `Predictor.place`; slots become fixed on a GPU and counted on a CPU, see
        `set_fixed_slots`."""
        super().place(device, dtype)
        self.set_fixed_slots(device.type == "cuda")

    @property
    def fixed_slots(self) -> bool:
        """See `set_fixed_slots`."""
        return self.roi_heads.fixed_slots

    def set_fixed_slots(self, fixed: bool) -> None:
        """Whether to compute every slot for proposals and samples, valid or not.

        Shapes then do not depend on the data up to the final detections: a GPU never has to tell
        the host how many there are, and the network can be exported. Counting computes the valid
        slots alone, which is faster on a CPU. Both give the same detections and losses up to
        rounding.
        """
        self.rpn.fixed_slots = self.roi_heads.fixed_slots = fixed

    def set_compiled(self, compiled: bool) -> None:
        """Run backbone and FPN through torch.compile, or eagerly again."""
        self._features = torch.compile(self.pyramid) if compiled else self.pyramid

    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) → {p2…p6: (B, C, H, W)}, or c4 or c5 alone."""
        return self.fpn(self.backbone(images))

    def levels(self, images: ImageBatch) -> list[Tensor]:
        """The maps (B, C, H, W) that RPN and heads see, finest first, of a batch of pixels."""
        return list(self._features(self.normalize(images)).values())

    def normalize(self, batch: ImageBatch) -> Tensor:
        """(B, 3, H, W) in the model's type: mean and deviation, then 0 outside the true sizes."""
        x = self.to_input(batch.images)
        if not self.fixed_slots:
            for image, (height, width) in zip(x, batch.sizes.tolist(), strict=True):
                image[:, height:] = 0
                image[:, :, width:] = 0
            return x
        height, width = x.shape[-2:]
        inside_y = torch.arange(height, device=x.device) < batch.sizes[:, :1]
        inside_x = torch.arange(width, device=x.device) < batch.sizes[:, 1:]
        return x.mul_(inside_y[:, None, :, None] & inside_x[:, None, None, :])

    def forward(
        self, images: ImageBatch, targets: TargetBatch, *, seed: int, step: int
    ) -> dict[str, Tensor]:
        """Named scalar losses, to be summed: loss_rpn_cls, loss_rpn_box, loss_cls, loss_box
        (…_stage1 … on a cascade) and loss_mask. Samples depend on (seed, step, image) alone."""
        with profiled("backbone and pyramid"):
            pyramid = self.levels(images)
        with profiled("rpn"):
            proposals, losses = self.rpn(pyramid, images.sizes, targets, seed=seed, step=step)
        with profiled("roi heads"):
            losses |= self.roi_heads.losses(
                pyramid, proposals, images.sizes, targets, seed=seed, step=step
            )
        return losses

    @torch.no_grad()
    def infer(
        self,
        images: ImageBatch,
        original_sizes: Sequence[tuple[int, int]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        """Detections of each image in pixels of its original (height, width), on this device.

        `score_thresh` replaces the model's own. Boxes that are empty in the original are dropped.
        Masks are not pasted yet.
        """
        # Before the network starts: a copy from the host would wait for what the GPU is doing.
        originals = torch.tensor(list(original_sizes), device=images.sizes.device)
        batch = self.detect(images, score_thresh)
        return self.by_image(batch, images.sizes, originals, original_sizes)

    def by_image(
        self,
        batch: RoIDetections,
        sizes: Tensor,
        originals: Tensor,
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """The detections of a batch of `sizes` (B, 2), split by image, in pixels of the originals:
        their (height, width) as a tensor (B, 2) on the device, and the same as numbers.

        Boxes that are empty in the original are dropped.
        """
        return split_by_image(
            batch,
            sizes,
            originals,
            original_sizes,
            class_names=self.class_names,
            category_ids=self.category_ids,
            mask_paste=self.mask_paste,
        )

    def detect(self, images: ImageBatch, score_thresh: float | None = None) -> RoIDetections:
        """Detections of a batch in its own pixels, before they are split by image."""
        pyramid = self.levels(images)
        proposals, _ = self.rpn(pyramid, images.sizes, None)
        return self.roi_heads.detect(pyramid, proposals, images.sizes, score_thresh)

    def size_problem(self, size: tuple[int, int]) -> str | None:
        return shrink_problem(size, self.test_short_edge, self.test_max_size, self.seen)

    def prepare(self, pixels: np.ndarray, *, is_tile: bool = False) -> Tensor:
        """(3, h, w) at the model's test size, 0..255, of `pixels` (H, W, 3) uint8 RGB; a tile of an
        image is resized by `tile_scale`.

        uint8, or float32 for a model that resizes as floats (`data.test_resize.method`).
        """
        return prepare_image(
            pixels,
            self.test_short_edge,
            self.test_max_size,
            self.test_resize_method,
            self.tile_scale if is_tile else None,
        )

    def predict_prepared(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        return infer_prepared(self, images, original_sizes, score_thresh)


class Infers(Protocol):
    """A network, in whatever runtime, that detects in a batch of whole images."""

    @property
    def size_divisibility(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def infer(
        self,
        images: ImageBatch,
        original_sizes: Sequence[tuple[int, int]],
        score_thresh: float | None = None,
    ) -> list[Detections]: ...


def infer_prepared(
    model: Infers,
    images: Sequence[Tensor],
    original_sizes: Sequence[tuple[int, ...]],
    score_thresh: float | None,
) -> list[Detections]:
    """`predict_prepared` of a model with `infer`."""
    batch = collate_images(images, model.size_divisibility).to(model.device)
    sizes = [(int(height), int(width)) for height, width in original_sizes]
    return [image.cpu() for image in model.infer(batch, sizes, score_thresh)]


def split_by_image(
    batch: RoIDetections,
    sizes: Tensor,
    originals: Tensor,
    original_sizes: Sequence[tuple[int, int]],
    *,
    class_names: list[str],
    category_ids: list[int],
    mask_paste: str,
) -> list[Detections]:
    """See `RCNN.by_image`."""
    scale = (originals / sizes).flip(1).repeat(1, 2).to(batch.boxes.dtype)
    boxes = clip_boxes(batch.boxes * scale[batch.images], originals[batch.images])
    rows = is_nonempty(boxes).nonzero()[:, 0]
    image = torch.arange(len(original_sizes), device=rows.device)
    counts = (batch.images[rows] == image[:, None]).sum(dim=1).tolist()
    batch = map_tensors(replace(batch, boxes=boxes), lambda values: values[rows])
    ends = list(accumulate(counts))
    images = []
    for end, count, size in zip(ends, counts, original_sizes, strict=True):
        one = map_tensors(batch, itemgetter(slice(end - count, end)))
        extra = {
            name: values.float() if values.is_floating_point() else values
            for name, values in one.extra.items()
        }
        images.append(
            Detections(
                one.boxes.float(),
                one.scores.float(),
                one.labels,
                image_size=(int(size[0]), int(size[1])),
                mask_probs=extra.pop("mask_probs", None),
                class_names=class_names,
                category_ids=category_ids,
                mask_paste=mask_paste,
                extra=extra,
            )
        )
    return images
