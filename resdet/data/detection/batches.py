"""Detection batches: images padded together, and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from resdet.data.detection.dataset import Sample
from resdet.structures import (
    PAD_MULTIPLE,
    ImageBatch,
    TargetBatch,
    collate_images,
    map_tensors,
    moved,
)

BLANK_SIDE = 64
"""Pixels of a batch without any image that can be read: every network takes it."""


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
    problems: list[tuple[int, str]] = field(default_factory=list)
    """(position in the data set, reason) of each image that can't be read."""

    @property
    def image_names(self) -> list[str]:
        """`PATH (id ID)` of each image, for messages."""
        return name_images(self.paths, self.targets.image_ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, 3, H, W)."""
        return tuple(self.images.images.shape)

    def to(self, device: torch.device) -> Batch:
        return moved(self, device)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which copies to a GPU run alongside its work."""
        return map_tensors(self, Tensor.pin_memory)


def name_images(paths: Sequence[str], image_ids: Sequence[int | str]) -> list[str]:
    """`PATH (id ID)` of each image."""
    return [f"{path} (id {image_id})" for path, image_id in zip(paths, image_ids, strict=True)]


def collate(samples: Sequence[Sample], multiple: int = PAD_MULTIPLE) -> Batch:
    """One batch of samples; see `TargetBatch` for how objects are padded, `collate_images` for
    `multiple`."""
    images = [sample.image for sample in samples]
    problems = [(s.target.image_key, s.problem) for s in samples if s.problem is not None]
    if len(problems) == len(samples):
        images = [images[0].new_zeros((3, BLANK_SIDE, BLANK_SIDE))] * len(samples)
    targets = [sample.target for sample in samples]
    counts = [len(target.labels) for target in targets]
    starts = [0, *accumulate(counts)]
    masks = None
    if targets[0].masks is not None:
        masks = torch.cat([target.masks for target in targets if target.masks is not None])
        if not len(masks):
            masks = masks.new_zeros((1, *masks.shape[1:]))
    mask_rows = _padded([start + torch.arange(n) for start, n in zip(starts, counts, strict=False)])
    batch = TargetBatch(
        _padded([target.boxes for target in targets]),
        _padded([target.labels for target in targets]),
        _padded([torch.ones(count, dtype=torch.bool) for count in counts]),
        masks,
        mask_rows if masks is not None else torch.zeros_like(mask_rows),
        torch.tensor([target.image_key for target in targets], dtype=torch.int64),
        torch.tensor([sample.problem is None for sample in samples]),
        [target.image_id for target in targets],
        {name: _padded([target.extra[name] for target in targets]) for name in targets[0].extra},
    )
    return Batch(
        collate_images(images, multiple),
        batch,
        [sample.original_size for sample in samples],
        [sample.path for sample in samples],
        [target.image_key for target in targets],
        problems,
    )


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """(B, G, …) of B tensors (g, …): zeros past their ends, G at least 1."""
    padded = rows[0].new_zeros((len(rows), max(1, *map(len, rows)), *rows[0].shape[1:]))
    for place, values in zip(padded, rows, strict=True):
        place[: len(values)] = values
    return padded
