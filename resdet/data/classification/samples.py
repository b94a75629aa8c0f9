"""Labelled images: one, and a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BROKEN = -1
"""The label of an image that can't be read."""


@dataclass
class ClassificationSample:
    """One image with its class, after the transforms."""

    image: Tensor
    """(3, S, S) uint8 RGB; zeros if the image can't be read."""
    label: int
    """0..K-1, or -1 if the image can't be read."""
    index: int
    """Position in the data set."""
    path: str
    """The file, or another name that a person can find the image by."""
    problem: str | None = None
    """Why the image can't be read, with its file; None if all is well."""
    epoch: int = 0
    """The key's first number; see `resdet.data.loader.Key`."""


@dataclass
class ClassificationBatch:
    """Images that go through the model together."""

    images: Tensor
    """(B, 3, S, S) uint8 RGB, in channels_last memory; zeros where an image can't be read."""
    labels: Tensor
    """(B,) int64, 0..K-1; -1 where an image can't be read."""
    keys: list[tuple[int, int]]
    """B keys, (epoch, index) each; see `resdet.data.loader.Key`."""
    paths: list[str]
    """B names of files."""
    problems: list[str]
    """Of the images that can't be read, what is wrong; empty if all is well."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, 3, S, S)."""
        return tuple(self.images.shape)

    def to(self, device: torch.device) -> ClassificationBatch:
        return ClassificationBatch(
            self.images.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.keys,
            self.paths,
            self.problems,
        )

    def pin_memory(self) -> ClassificationBatch:
        """The same in page-locked memory, from which copies to a GPU run alongside its work."""
        images, labels = self.images.pin_memory(), self.labels.pin_memory()
        return ClassificationBatch(images, labels, self.keys, self.paths, self.problems)


def collate_classification(samples: Sequence[ClassificationSample]) -> ClassificationBatch:
    """One batch of samples, whose images are all of one size."""
    # Decoders give whole pixels: kept together, they are copied once, and as networks like them.
    pixels = torch.stack([sample.image.permute(1, 2, 0) for sample in samples])
    return ClassificationBatch(
        pixels.permute(0, 3, 1, 2),
        torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        [(sample.epoch, sample.index) for sample in samples],
        [sample.path for sample in samples],
        [sample.problem for sample in samples if sample.problem is not None],
    )
