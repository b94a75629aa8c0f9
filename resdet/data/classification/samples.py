"""Labelled images: where they are stored, one of them, and a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.data.names import Names
from resdet.data.plausibility import Images
from resdet.files.findings import Finding

BROKEN = -1
"""The label of an image that can't be read."""


@dataclass
class Source(ABC):
    """Labelled images of a folder; `FileImages` and `ShardImages` know how to open them."""

    root: Path
    names: Names
    """N names of images, below the root or in a shard."""
    labels: NDArray[np.int64]
    """(N,) int64, 0..K-1."""
    class_names: list[str]
    """K names."""
    findings: list[Finding] = field(default_factory=list)

    @abstractmethod
    def name(self, index: int) -> str:
        """The path of an image, or its shard and name."""

    @abstractmethod
    def open(self, index: int) -> BinaryIO:
        """The file of an image; OSError if it can't be read."""

    @abstractmethod
    def located(self) -> Images:
        """Where the images are, to find those that are in two sets."""

    @abstractmethod
    def file_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) bytes of the files of some images; −1 for a file that can't be looked at."""

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Drop all other images."""
        self.names, self.labels = self.names.select(rows), self.labels[rows]


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
    """The file, or another name by which a person finds the image."""
    problem: str | None = None
    """Why the image can't be read, with its file; None if it can."""
    epoch: int = 0
    """The key's first number; see `resdet.data.loader.Key`."""


@dataclass
class ClassificationBatch:
    """Images that pass through the model together."""

    images: Tensor
    """(B, 3, S, S) uint8 RGB, in channels_last memory; zeros for an image that can't be read."""
    labels: Tensor
    """(B,) int64, 0..K-1; -1 for an image that can't be read."""
    keys: list[tuple[int, int]]
    """B keys, (epoch, index) each; see `resdet.data.loader.Key`."""
    paths: list[str]
    """B names of files."""
    problems: list[tuple[int, str]]
    """(position in the data set, reason) of each image that can't be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, 3, S, S)."""
        return tuple(self.images.shape)

    def to(self, device: torch.device) -> ClassificationBatch:
        images = self.images.to(device, non_blocking=True)
        return replace(self, images=images, labels=self.labels.to(device, non_blocking=True))

    def pin_memory(self) -> ClassificationBatch:
        """The same in page-locked memory, from which copies to a GPU overlap with its work."""
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


def collate_classification(samples: Sequence[ClassificationSample]) -> ClassificationBatch:
    """One batch of samples with images of the same size."""
    # Decoders return interleaved pixels: one copy, and the layout that networks prefer.
    pixels = torch.stack([sample.image.permute(1, 2, 0) for sample in samples])
    return ClassificationBatch(
        pixels.permute(0, 3, 1, 2),
        torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        [(sample.epoch, sample.index) for sample in samples],
        [sample.path for sample in samples],
        [(s.index, s.problem) for s in samples if s.problem is not None],
    )
