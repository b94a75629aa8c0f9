"""Detection batches: images padded together, and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from resdet.data.detection.dataset import Sample
from resdet.structures import PAD_MULTIPLE, ImageBatch, TargetBatch, collate_images


@dataclass
class Batch:
    """Images that go through the model together."""

    images: ImageBatch
    targets: TargetBatch
    original_sizes: list[tuple[int, int]]
    """(height, width) of each file, in pixels."""
    paths: list[str]
    indices: list[int]
    """Positions in the data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, 3, H, W)."""
        return tuple(self.images.images.shape)

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.images.to(device),
            self.targets.to(device),
            self.original_sizes,
            self.paths,
            self.indices,
        )

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which copies to a GPU run alongside its work."""
        targets = self.targets
        pinned = TargetBatch(
            targets.boxes.pin_memory(),
            targets.labels.pin_memory(),
            targets.valid.pin_memory(),
            None if targets.masks is None else targets.masks.pin_memory(),
            targets.mask_rows.pin_memory(),
            targets.image_keys.pin_memory(),
            targets.image_ids,
        )
        images = ImageBatch(self.images.images.pin_memory(), self.images.sizes.pin_memory())
        return Batch(images, pinned, self.original_sizes, self.paths, self.indices)


def collate(samples: Sequence[Sample], multiple: int = PAD_MULTIPLE) -> Batch:
    """One batch of samples; see `TargetBatch` for how objects are padded, `collate_images` for
    `multiple`."""
    targets = [sample.target for sample in samples]
    most = max(1, *(len(target.labels) for target in targets))
    boxes = torch.zeros((len(targets), most, 4))
    labels = torch.zeros((len(targets), most), dtype=torch.int64)
    valid = torch.zeros((len(targets), most), dtype=torch.bool)
    mask_rows = torch.zeros((len(targets), most), dtype=torch.int64)
    total = 0
    for row, target in enumerate(targets):
        count = len(target.labels)
        boxes[row, :count] = target.boxes
        labels[row, :count] = target.labels
        valid[row, :count] = True
        mask_rows[row, :count] = torch.arange(total, total + count)
        total += count
    masks = None
    if targets[0].masks is not None:
        masks = torch.cat([target.masks for target in targets if target.masks is not None])
        if not len(masks):
            masks = masks.new_zeros((1, *masks.shape[1:]))
    batch = TargetBatch(
        boxes,
        labels,
        valid,
        masks,
        mask_rows if masks is not None else torch.zeros_like(mask_rows),
        torch.tensor([target.image_key for target in targets], dtype=torch.int64),
        [target.image_id for target in targets],
    )
    return Batch(
        collate_images([sample.image for sample in samples], multiple),
        batch,
        [sample.original_size for sample in samples],
        [sample.path for sample in samples],
        [target.image_key for target in targets],
    )
